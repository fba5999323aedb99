"""Readers of a schedule: two that execute it, the ledger that counts it, and its compliance with PLMR."""
