"""Shared by all tests: one thread count, and hypothesis without deadlines (the first call of a kernel compiles it)."""

from hypothesis import HealthCheck, settings

settings.register_profile("mesh", deadline=None, max_examples=120, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("mesh")
