"""The forms of the model: cycles of each kernel as a few constants times counted work.

Every function takes the constants ``c`` (name -> cycles) and returns exposed cycles by kind:

* ``compute``: the local product; * ``transfer``: words on links; * ``alpha``: hops; * ``beta``: software stages;
* ``overhead``: start-ups of steps and launches.

What hides behind something longer is not in the sum. All arguments broadcast as NumPy arrays, so a million
points are one call. The same functions predict and are fitted.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from perfmodel import counts
from perfmodel.device import Device

Constants = Mapping[str, float]
Terms = dict[str, Any]

#: fp16 elements that one 64-bit memory access holds
BEAT = 4


def ceil_div(a: Any, b: Any) -> Any:
    """ceil(a / b), elementwise."""
    return -(-a // b)


def beats(m: Any, n: Any) -> Any:
    """64-bit words that n consecutive columns of m fp16 elements touch, column j starting at element m j.

    A column of 3 elements that starts at element 3 of a word lies in two: alignment costs a beat.

    >>> int(beats(3, 4)), int(beats(8, 1)), int(beats(1, 5))
    (6, 2, 5)
    """
    m, n = np.asarray(m), np.asarray(n)
    # columns j, j + 4, j + 8 ... start at the same place in a word; shifts, since a division costs ten of them
    return sum(((n - j + 3) >> 2) * (((m * j & 3) + m + 3) >> 2) for j in range(BEAT))


def never_less(form: Callable[[Any], Terms], rows: Any, side: Any) -> Terms:
    """Terms of ``form(rows)``, but so that no time falls as rows are added.

    Columns of 4 i + 3 rows lie across 64-bit words (`beats`), and the measured kernels pay for it: by ``form``, tiles
    of 4 i + 4 rows take less time than those. Of such a pair both take the time of the one whose launches were
    published: 4 rows (2048 tokens on 660 cores), as if tiles of 3 were padded; else 4 i + 3 (4096 tokens on 600 and
    660: 7 rows), which for 4 i + 4 is too long rather than too short, by about a tenth.

    Args:
        form: terms of as many rows of the whole operand as it is given.
        rows: rows of the left operand, or tokens.
        side: cores that the rows are shared out to.
    """
    terms, tile = form(rows), ceil_div(rows, side)
    other = _where(tile == BEAT - 1, BEAT * side, _where((tile % BEAT == 0) & (tile > BEAT), (tile - 1) * side, rows))
    if np.all(other == rows):
        return terms
    found = form(other)
    takes = (total(found) < total(terms)) == (other > rows)
    return {kind: _where(takes, found[kind], value) for kind, value in terms.items()}


def _where(condition: Any, yes: Any, no: Any) -> Any:
    """Elementwise choice; of scalars a scalar."""
    return np.asarray(np.where(condition, yes, no))[()]


def local_product(c: Constants, m: Any, k: Any, n: Any) -> Any:
    """Cycles of C += A B on tiles m x k and k x n, columns of C in the inner loop.

    k_loop per pass over k, unrolled by four (``remainder`` for each pass beyond), ``vector`` to start each of the
    k n multiply-accumulate vectors, ``beat`` per 64-bit word of the columns of C they run over.
    """
    return k * c["k_loop"] + k % 4 * c["remainder"] + k * n * c["vector"] + k * beats(m, n) * c["beat"]


def schedule(algorithm: str, rows: Any, cols: Any) -> tuple[Any, Any, Any, Any]:
    """(alignment rounds, main steps, mean hops, mean stages of a main step) of a GEMM algorithm.

    >>> [int(v) for v in schedule("meshgemm", 720, 720)], [int(v) for v in schedule("cannon", 4, 6)]
    ([360, 720, 2, 0], [3, 12, 5, 0])
    """
    rows, cols = np.broadcast_arrays(np.asarray(rows), np.asarray(cols))
    square = np.array_equal(rows, cols)
    steps, longest = (rows, rows) if square else (np.lcm(rows, cols), np.maximum(rows, cols))
    base, _, relay = algorithm.partition("_")
    if base in counts.RINGS:
        hops = np.minimum(longest - 1, 2) if base == "meshgemm" else longest - 1
        rounds = rows // 2 if square else np.maximum(_rounds(rows, cols), _rounds(cols, rows))
        return rounds, steps, hops, 0
    if base == "allgather":
        reach = longest - 1
    elif square:  # the farthest core of a broadcast from root r is max(r, P-1-r) away: (3P-2)/4 in the mean over r
        reach = (3 * rows - 2 - rows % 2 / rows) / 4
    else:
        grids, back = np.unique(np.stack([rows.ravel(), cols.ravel()]), axis=1, return_inverse=True)
        reach = np.array([_summa_reach(int(r), int(c)) for r, c in grids.T])[back].reshape(rows.shape)
    return 0, steps, reach, reach if relay else 0


def _rounds(rows: Any, cols: Any) -> Any:
    """Rounds that align the rows of A: row i turns by t = floor(i cols / rows), the shorter way round.

    t grows with i, and min(t, cols - t) is largest where t passes cols / 2: at i = rows / 2 or just behind.
    """
    turns = [i * cols // rows for i in (rows // 2, rows // 2 + 1)]
    return np.maximum(*(np.minimum(t, cols - t) for t in turns))


@functools.lru_cache(maxsize=1 << 16)
def _summa_reach(rows: int, cols: int) -> float:
    """Mean over the lcm(rows, cols) broadcasts of the way to the farthest core, on a rectangular grid."""
    return counts.summa_hops(rows, cols) / math.lcm(rows, cols)


def gemm(c: Constants, device: Device, algorithm: str, M: Any, K: Any, N: Any, rows: Any, cols: Any) -> Terms:
    """C[M,N] = A[M,K] B[K,N] on rows x cols cores.

    Each main step costs ``startup`` plus the longer of the local product and its messages; an alignment round
    ``startup`` plus the words of an A tile (weights are aligned when they are loaded). ``startup`` was measured on
    steps of two hops, so only the hops beyond two are added.
    """
    if algorithm == "gemm_t":
        return _gemm_t(c, device, M, K, N, rows, cols)
    rounds, steps, hops, stages = schedule(algorithm, rows, cols)
    m, k, n = ceil_div(M, rows), ceil_div(K, steps), ceil_div(N, cols)
    a_block, b_block = m * k, k * n
    if algorithm.startswith("summa") or np.array_equal(rows, cols):  # one block is what travels
        a_words, b_words = _words(device, a_block), _words(device, b_block)
    else:
        a_words, b_words = _words(device, a_block * (steps // cols)), _words(device, b_block * (steps // rows))
    far = np.maximum(hops - 2, 0) * device.alpha if np.max(hops) > 2 else 0.0
    relays = stages * device.beta
    if algorithm.startswith("allgather"):  # every pair of blocks that arrives costs its core a step's start-up
        transfer = np.maximum(a_words * (cols - 1), b_words * (rows - 1))
        work = local_product(c, m, steps * k, n)
        return {"compute": work, "transfer": transfer, "alpha": far, "beta": relays,
                "overhead": c["launch"] + c["startup"] * steps}
    work = local_product(c, m, k, n)
    words = np.maximum(a_words, b_words)
    message = words + (far + relays)
    # the share of a message that the product does not hide, in all steps
    exposed = np.maximum(message - work, 0) / message * steps if np.any(message > work) else 0.0
    return {
        "compute": steps * work,
        "transfer": exposed * words + rounds * a_words,
        "alpha": exposed * far + rounds * far,
        "beta": exposed * relays,
        "overhead": c["launch"] + c["startup"] * (rounds + steps),
    }


def _words(device: Device, elements: Any) -> Any:
    """Cycles that fp16 elements occupy a link for, packed into whole fabric words."""
    words = ceil_div(elements, device.word_bytes // counts.ELEMENT_BYTES)
    return words if device.link_words_per_cycle == 1 else words / device.link_words_per_cycle


def _gemm_t(c: Constants, device: Device, M: Any, K: Any, N: Any, rows: Any, cols: Any) -> Terms:
    """C = A B^T: every row streams its partial sums past its cores while the next tile of B arrives.

    The streams of successive steps follow each other, so the way across the row is paid once. The counts of
    `perfmodel.counts` are those of lockstep, where a step starts when the last has ended: P (P - 1) hops and stages
    on P^2 cores, an upper bound without overlap of successive steps. The measured prefill agrees with the pipeline.
    """
    m, k, n = ceil_div(M, rows), ceil_div(K, cols), ceil_div(N, rows)
    words = _words(device, m * n)
    return {
        "compute": rows * local_product(c, m, k, n),
        "transfer": rows * words,
        "alpha": (cols - 1) * device.alpha,
        "beta": (cols - 1) * device.beta,
        "overhead": c["launch"] + c["startup"] * rows,
    }


def ktree(cores: Any, groups: Any) -> tuple[Any, Any, Any]:
    """(hops H, stages S, root R) of the two-phase tree on a line; groups differ by one member at most.

    >>> [int(v) for v in ktree(720, 24)]
    [750, 27, 375]
    """
    cores, groups = np.asarray(cores), np.asarray(groups)
    size, extra = cores // groups, cores % groups

    def member(i: Any) -> Any:
        """Root of group i: the middle of its size + (i < extra) members."""
        return i * size + np.minimum(i, extra) + (size + (i < extra)) // 2

    half = (size + (extra > 0)) // 2
    root = member(groups // 2)
    second = np.maximum(root - member(0 * groups), member(groups - 1) - root)
    return half + second + np.maximum(root, cores - 1 - root), half + groups // 2, root


def allreduce(algorithm: str, cores: Any, groups: Any) -> tuple[Any, Any, Any]:
    """(H, S, R) of each all-reduce of a line; R is the core at which the sum is complete."""
    cores = np.asarray(cores)
    if algorithm == "ktree":
        return ktree(cores, groups)
    if algorithm == "chain":
        return ktree(cores, 1)
    if algorithm == "pipeline":
        return 2 * (cores - 1), cores - 1, cores - 1
    return 2 * (cores - 1) * np.minimum(cores - 1, 2), cores - 1, cores - 1  # ring


def gemv(c: Constants, device: Device, reduce: str, M: Any, N: Any, rows: Any, cols: Any, groups: Any) -> Terms:
    """y[N] = x[M] W[M,N]: a vector of the tile's n columns for each of its m rows, then the all-reduce.

    A row costs the longer of issuing its vector (``row``) and running it (``beat`` per 64-bit word). The tree costs
    alpha per hop, beta per stage, ``stream`` for each 32-bit word after the first that streams through it (one cycle
    in each of two adds in two phases makes four), and ``die`` for every die boundary that its longest arm crosses,
    there and back.
    """
    m, n = ceil_div(M, rows), ceil_div(N, cols)
    hops, stages, root = allreduce(reduce, rows, groups)
    # the published kernel sends whole words: an odd last element is dropped, a single one travels alone
    words = np.maximum(n // (device.word_bytes // counts.ELEMENT_BYTES), 1)
    boundaries = (np.asarray(root) + 1) // device.die_rows  # the program sits one row inside the fabric
    return {
        "compute": m * np.maximum(c["row"], ceil_div(n, BEAT) * c["beat"]),
        "transfer": (words - 1) * c["stream"],
        "alpha": hops * c["alpha"] + 2 * boundaries * c["die"],
        "beta": stages * c["beta"],
        "overhead": c["launch"] + 0 * hops,
    }


def add(*parts: Terms) -> Terms:
    """Sum of terms, kind by kind."""
    kinds = ("compute", "transfer", "alpha", "beta", "overhead")
    return {kind: sum(part[kind] for part in parts) for kind in kinds}


def total(terms: Terms) -> Any:
    """Cycles: the exposed parts added up."""
    return sum(terms.values())


class Product(NamedTuple):
    """``times`` equal products of one layer, ``aligned`` of which find their left operand aligned already."""

    algorithm: str
    M: Any
    K: Any
    N: Any
    times: int = 1
    aligned: int = 0


def prefill_products(dim: Any, ffn: Any, tokens: Any) -> list[Product]:
    """The nine products of one layer, as the published kernels have them.

    One head of full width and no causal mask. X is aligned for Q, and found so by K and V; gate finds it as up left
    it; scores x V, O and down align their own.
    """
    return [
        Product("meshgemm", tokens, dim, dim, times=4, aligned=2),  # Q, K, V, O
        Product("gemm_t", tokens, dim, tokens),  # scores
        Product("meshgemm", tokens, tokens, dim),  # scores x V
        Product("meshgemm", tokens, dim, ffn, times=2, aligned=1),  # up, gate
        Product("meshgemm", tokens, ffn, dim),  # down
    ]


def prefill(c: Constants, device: Device, dim: Any, ffn: Any, tokens: Any, grid: Any) -> Terms:
    """One layer of prefill: the nine products on a square grid. Norms, RoPE and softmax are below 1 %."""
    parts = []
    for algorithm, M, K, N, times, aligned in prefill_products(dim, ffn, tokens):
        part = {kind: times * value for kind, value in gemm(c, device, algorithm, M, K, N, grid, grid).items()}
        if aligned:
            words = _words(device, ceil_div(M, grid) * ceil_div(K, grid))
            part["transfer"] = part["transfer"] - aligned * (grid // 2) * words
            part["overhead"] = part["overhead"] - aligned * (grid // 2) * c["startup"]
        parts.append(part)
    return add(*parts)


def decode_rows(dim: Any, ffn: Any, context: Any, grid: Any) -> list[tuple[Any, Any]]:
    """Vector instructions per core, layer and token, one per row of a weight or cache tile: ``(rows, width)``.

    Q, K, V; scores; values; O; up and gate; down, of tiles d = dim / P, s = context / P, f = ffn / P.
    """
    d, s, f = ceil_div(dim, grid), ceil_div(context, grid), ceil_div(ffn, grid)
    return [(3 * d, d), (d, s), (s, d), (d, d), (2 * d, f), (f, d)]


#: all-reduces of one layer in decode: norm, QKV, scores, maximum, sum, values, O, norm, up and gate, down
ALLREDUCES = 10


def decode(c: Constants, dim: Any, ffn: Any, context: Any, grid: Any, groups: Any) -> Terms:
    """One layer and token of decode: ten two-phase all-reduces and the local GEMVs.

    A row costs the longer of issuing its vector (``row``) and running it (``beat`` per 64-bit word), as in a GEMV.
    """
    hops, stages, _ = ktree(grid, groups)
    rows = decode_rows(dim, ffn, context, grid)
    return {
        "compute": sum(n * np.maximum(c["row"], ceil_div(width, BEAT) * c["beat"]) for n, width in rows),
        "transfer": 0 * hops,
        "alpha": ALLREDUCES * c["alpha"] * hops,
        "beta": ALLREDUCES * c["beta"] * stages,
        "overhead": 0 * hops,
    }


def default_groups(grid: Any) -> Any:
    """Groups of the two-phase tree in the published launch files: the largest divisor of P up to sqrt(P).

    >>> default_groups([240, 360, 420, 660, 720]).tolist()
    [15, 18, 20, 22, 24]
    """
    return _divisors(int(np.max(grid)))[np.asarray(grid)]


@functools.lru_cache(maxsize=8)
def _divisors(largest: int) -> np.ndarray:
    """Of every P up to ``largest`` the largest divisor that is at most sqrt(P)."""
    found = np.ones(largest + 1, np.int64)
    for divisor in range(2, math.isqrt(largest) + 1):
        found[divisor * divisor :: divisor] = divisor
    return found
