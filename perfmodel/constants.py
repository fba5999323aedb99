"""The constants of the model: what each means, what it stands for on a device, and which kernel has which."""

from __future__ import annotations

from typing import NamedTuple


class Meaning(NamedTuple):
    """Unit and meaning of a constant, the cost it stands for (of `perfmodel.parameters.COSTS`), whose it is."""

    unit: str
    meaning: str
    stands_for: str = ""
    belongs_to: str = "kernel"


MEANING = {
    "launch": Meaning("cycle", "start of a kernel: first task to first step, last step to result"),
    "startup": Meaning("cycle/step", "a step's tasks: start its moves, join them, go on"),
    "setup": Meaning("cycle", "set-up of a vector instruction: what a step of a shift beyond the block saves"),
    "k_loop": Meaning("cycle/pass", "one pass over k: set up descriptors, start the map over a row of B"),
    "remainder": Meaning("cycle/pass", "a pass beyond the multiples of four by which the loop over k is unrolled"),
    "vector": Meaning("cycle/vector", "start of one fp16 multiply-accumulate vector"),
    "beat": Meaning("cycle/beat", "one 64-bit word of the result column that a vector runs over", "vector", "chip"),
    "row": Meaning("cycle/row", "set-up of the vector instruction of one row of a GEMV tile"),
    "stream": Meaning("cycle/word", "one more 32-bit word in the vector that streams through the reduction", "word"),
    "alpha": Meaning("cycle/hop", "a hop through routers by a pre-set rule", "hop", "chip"),
    "beta": Meaning("cycle/stage", "a stage in which a core's software handles the message", "stage"),
    "die": Meaning("cycle/boundary", "a message crosses from one die of the wafer to the next", "hop", "chip"),
    "unprofiled": Meaning("cycle/layer", "cycles of the instrumented kernel outside its profiled phases", "", "system"),
    "latency": Meaning("cycle", "a word's way from core to core less its hops: send, receive, start of a task"),
    "issue": Meaning("cycle/tile", "fewest cycles in which a core unpacks and multiplies 32 x 32 x 32 tiles", "matrix"),
    "multicast": Meaning("cycle/word", "a word of the network received by every core of a row or column", "word"),
    "exposed": Meaning("1", "share of the shorter of product and multicast that the longer does not hide"),
    "word": Meaning("cycle/word", "a 32-bit word passes a core's ramp", "word", "chip"),
    "element": Meaning("cycle/element", "T10, Ladder: an element of the operands that travel", "word", "system"),
    "relay": Meaning("cycle/core", "T10: a core passed on the way to a logical neighbour", "stage", "system"),
    "barrier": Meaning("cycle/core", "Ladder: a core passed by the remote access that ends a step", "hop", "system"),
    "compute_efficiency": Meaning("1", "A100: share of peak flop/s that a prefill reaches", "", "system"),
    "memory_efficiency": Meaning("1", "A100: share of peak bandwidth at which weights are read", "", "system"),
    "fabric_efficiency": Meaning("1", "A100: share of NVLink bandwidth that an all-reduce reaches", "", "system"),
    "layer": Meaning("second/layer", "A100: launches of one layer in decode", "", "system"),
    "network": Meaning("second", "A100: latency that the network between two nodes adds to them", "", "system"),
    "phase": Meaning("second/phase", "A100: a phase of an all-reduce (two inside a node, one between)", "", "system"),
    "served": Meaning("1", "A100: decode in the requests of table 2 over the steady decode of table 4", "", "system"),
}

#: constants of the kernels that run on a mesh
KERNELS: dict[str, tuple[str, ...]] = {
    "gemm": ("launch", "startup", "k_loop", "remainder", "vector", "beat"),
    "gemv": ("launch", "row", "beat", "stream", "alpha", "beta", "die"),
    "decode": ("row", "beat", "stream", "alpha", "beta", "unprofiled"),
    "shift": ("startup", "setup", "latency", "alpha", "word"),
    "matmul": ("launch", "issue", "multicast", "exposed"),
}
