"""LLaMA on the mesh: placements, plan, prefill, decode, KV cache.

``load(path, mesh)`` gives a `Llama`; ``prefill``, ``decode`` and ``generate`` run it. The plans (`decode_plan`,
`prefill_plan`) say where every tensor lives and what every operation sends.
"""

from meshkernels.llm.cache import CacheOverflow, KVCache
from meshkernels.llm.layout import Layout
from meshkernels.llm.model import Llama, load
from meshkernels.llm.placement import Placement
from meshkernels.llm.plan import Operation, Plan, decode_plan, prefill_plan

__all__ = ["CacheOverflow", "KVCache", "Layout", "Llama", "Operation", "Placement", "Plan", "decode_plan", "load",
           "prefill_plan"]
