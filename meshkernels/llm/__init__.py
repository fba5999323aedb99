"""LLaMA on the mesh: one list of operations per phase, which is run, counted and drawn.

``load(path, mesh)`` gives a `Llama`; ``prefill``, ``decode`` and ``generate`` run it. The plans (`decode_plan`,
`prefill_plan`) say where every tensor lives, what every operation computes and which schedules it runs.
"""

from meshkernels.llm.batch import Batch
from meshkernels.llm.block import decode_plan, prefill_plan
from meshkernels.llm.cache import CacheOverflow, KVCache
from meshkernels.llm.layout import Layout, Placement
from meshkernels.llm.model import Llama, load
from meshkernels.llm.operations import Operation, Plan, Scheduled

__all__ = ["Batch", "CacheOverflow", "KVCache", "Layout", "Llama", "Operation", "Placement", "Plan", "Scheduled",
           "decode_plan", "load", "prefill_plan"]
