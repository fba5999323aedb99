"""LLaMA on the mesh: placements, operations, prefill, decode, KV cache."""
