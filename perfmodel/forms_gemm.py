"""The forms of a matrix product on a mesh: compute-shift, broadcast and C = A B^T, with a barrier and without.

What a form is, says `perfmodel.terms`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from perfmodel.counts import cdiv
from perfmodel.counts_path import RINGS, Path, path
from perfmodel.device import Device, as_device
from perfmodel.terms import BEAT, Constants, Terms, words_cycles

#: messages whose starts the start-up of a step contains: a send and a receipt along either axis
MESSAGES = 4
#: broadcasts one after the other that a launch of SUMMA waits for: along rows, along columns, back to the first root
WAVES = 3


def beats(m: Any, n: Any) -> Any:
    """64-bit words that n consecutive columns of m fp16 elements touch, column j starting at element m j.

    A column of 3 elements that starts at element 3 of a word lies in two: alignment costs a beat.

    Args:
        m: elements of a column.
        n: columns.

    Returns:
        64-bit words.

    >>> int(beats(3, 4)), int(beats(8, 1)), int(beats(1, 5))
    (6, 2, 5)
    """
    m, n = np.asarray(m), np.asarray(n)
    # columns j, j + 4, j + 8 ... start at the same place in a word; shifts, since a division costs ten of them
    return sum(((n - j + 3) >> 2) * (((m * j & 3) + m + 3) >> 2) for j in range(BEAT))


def local_product(c: Constants, m: Any, k: Any, n: Any) -> Any:
    """Cycles of C += A B on tiles m x k and k x n, columns of C in the inner loop.

    k_loop per pass over k, unrolled by four (``remainder`` for each pass beyond), ``vector`` to start each of the
    k n multiply-accumulate vectors, ``beat`` per 64-bit word of the columns of C they run over.

    Args:
        c: constants of the kernel, by name.
        m: rows of the tiles of A and C.
        k: columns of the tile of A.
        n: columns of the tiles of B and C.

    Returns:
        Cycles.
    """
    return k * c["k_loop"] + k % 4 * c["remainder"] + k * n * c["vector"] + k * beats(m, n) * c["beat"]


class _Share(NamedTuple):
    """What a core does in a step: its product, and the cycles of the words of A and of B that it passes on."""

    way: Path
    work: Any
    a_words: Any
    b_words: Any

    @property
    def words(self) -> Any:
        """Of the longer message: the axes go in parallel."""
        return np.maximum(self.a_words, self.b_words)


def gemm(c: Constants, device: Device, algorithm: str, M: Any, K: Any, N: Any, rows: Any, cols: Any, *,
         barrier: bool = True) -> Terms:
    """C[M,N] = A[M,K] B[K,N] on rows x cols cores.

    With a barrier each main step costs ``startup`` plus the longer of the local product and its messages; a step before
    them ``startup`` plus the way of its message (weights are aligned when they are loaded). An all-gather has one
    message for each block.

    Without, each core goes on when it has its data, and the way of a message is not paid in every step. A ring of P
    cores pays its 2 (P - 1) hops once in P steps, however long the longest of them is. A broadcast of SUMMA sets off
    when its root begins a step; what its way is longer than a step delays the far corner of the mesh, along rows and
    along columns, and then the first root once more: `WAVES` times in all. An all-gather pays for its messages, not for
    steps: `MESSAGES` make a step's start-up. dist-GEMM-T clears its partial sums in every step, and each root waits for
    the one before: that sends (two hops), and the root adds one stream or two, one and a half in the mean.

    Args:
        c: constants of the kernel, by name.
        device: a mesh device.
        algorithm: one of `perfmodel.counts.GEMMS`.
        M: rows of A and of C.
        K: columns of A, rows of B.
        N: columns of B and of C.
        rows: rows of cores.
        cols: columns of cores.
        barrier: whether all cores wait for each other after each step.

    Returns:
        Cycles by kind of cost.
    """
    if algorithm == "meshgemm_t":  # two hops a step, with a barrier or without
        return _meshgemm_t(c, device, M, K, N, rows, cols)
    if algorithm == "gemm_t":
        return (_gemm_t if barrier else _gemm_t_free)(c, device, M, K, N, rows, cols)
    way = path(algorithm, rows, cols)
    m, k, n = cdiv(M, rows), cdiv(K, way.steps), cdiv(N, cols)
    a_block, b_block = m * k, k * n
    if algorithm in RINGS and not np.array_equal(rows, cols):  # else one block is what travels
        a_block, b_block = a_block * (way.steps // cols), b_block * (way.steps // rows)
    share = _Share(way, local_product(c, m, k, n), words_cycles(device, a_block), words_cycles(device, b_block))
    if barrier:
        return _step_by_step(c, device, algorithm, share)
    if algorithm in RINGS:
        return _ring_free(c, device, share, np.maximum(rows, cols) - 1)
    if algorithm.startswith("allgather"):
        return _gather_free(c, device, share)
    return _broadcast_free(c, device, share, np.maximum(rows, cols) - 1, algorithm.endswith("_relay"))


def _step_by_step(c: Constants, device: Device, algorithm: str, share: _Share) -> Terms:
    """Every step lasts as long as its longest message, or its product."""
    (rounds, round_hops, round_stages, steps, hops, stages, _), work, a_words, _ = share
    words, far, relays = share.words, hops * device.alpha, stages * device.beta
    message = words + (far + relays)
    gathers = algorithm.startswith("allgather")  # all messages in one step, all products in the next
    messages, started = (steps, steps + 1) if gathers else (rounds, rounds + steps)
    # the share of a message that the product does not hide, in all steps
    exposed = np.maximum(message - work, 0) / message * steps if not gathers and np.any(message > work) else 0.0
    return {
        "compute": steps * work,
        "transfer": exposed * words + messages * (a_words if algorithm in RINGS else words),
        "alpha": exposed * far + round_hops * device.alpha,
        "beta": exposed * relays + round_stages * device.beta,
        "overhead": c["launch"] + c["startup"] * started,
    }


def _message_start(c: Constants, device: Device) -> float:
    """Cycles to start one message: a step's start-up less the way of its messages, shared out to them.

    The way is that of the device on which the start-up was measured: other hops do not change the rest.

    Returns:
        Cycles, none below zero.
    """
    measured = as_device(device.base) if device.base else device
    return max(c["startup"] - 2 * (measured.alpha + measured.ramp), 0.0) / MESSAGES


def _ring_free(c: Constants, device: Device, share: _Share, longest: Any) -> Terms:
    """A turn of the ring pays the longest way there and back once."""
    (rounds, round_hops, _, steps, *_), work, a_words, _ = share
    words, far = share.words, 2 * longest / (longest + 1) * device.alpha
    exposed = np.maximum(words + far - work, 0.0) / (words + far) * steps
    return {"compute": steps * work, "transfer": exposed * words + rounds * a_words,
            "alpha": exposed * far + np.minimum(round_hops, 2 * rounds) * device.alpha, "beta": 0.0 * steps,
            "overhead": c["launch"] + c["startup"] * (rounds + steps)}


def _gather_free(c: Constants, device: Device, share: _Share) -> Terms:
    """All messages in one step, all products in the next; each message is started by itself."""
    steps, starts = share.way.steps, 2 * share.way.steps * _message_start(c, device)
    return {"compute": steps * share.work, "transfer": np.maximum(steps * share.words - starts, 0.0),
            "alpha": share.way.round_hops * device.alpha, "beta": share.way.round_stages * device.beta,
            "overhead": starts}


def _broadcast_free(c: Constants, device: Device, share: _Share, longest: Any, relay: bool) -> Terms:
    """A way that is longer than a step delays the next broadcast by what it is longer."""
    steps, work, words = share.way.steps, share.work, share.words
    far, relays = longest * device.alpha, longest * device.beta * relay
    late = np.maximum(words + far + relays - (c["startup"] + np.maximum(work, words)), 0.0)
    waves = 1 + np.minimum(WAVES, steps) * late / np.maximum(far + relays, 1)
    return {"compute": steps * work, "transfer": np.maximum(words - work, 0.0) * steps + words, "alpha": waves * far,
            "beta": waves * relays, "overhead": c["launch"] + c["startup"] * (1 + steps)}


def _gemm_t(c: Constants, device: Device, M: Any, K: Any, N: Any, rows: Any, cols: Any) -> Terms:
    """C = A B^T: every row streams its partial sums past its cores while the next tile of B arrives.

    The streams of successive steps follow each other, so the way across the row is paid once. The counts of
    `perfmodel.counts` are those of lockstep, where a step starts when the last has ended: P (P - 1) hops and stages
    on P^2 cores, an upper bound without overlap of successive steps. The measured prefill agrees with the pipeline.

    Returns:
        Cycles by kind of cost.
    """
    blocks = np.lcm(rows, cols)  # as many products and streams of a core, lcm / rows in each of its steps
    m, k, n = cdiv(M, rows), cdiv(K, cols), cdiv(N, blocks)
    return {
        "compute": blocks * local_product(c, m, k, n),
        "transfer": blocks * words_cycles(device, m * n) * (np.asarray(cols) > 1),
        "alpha": (cols - 1) * device.alpha,
        "beta": (cols - 1) * device.beta,
        "overhead": c["launch"] + c["startup"] * blocks,
    }


def _gemm_t_free(c: Constants, device: Device, M: Any, K: Any, N: Any, rows: Any, cols: Any) -> Terms:
    """The same, with the clearing of partial sums, the set-ups of the streams, and each root waiting for the last."""
    pipeline, start = _gemm_t(c, device, M, K, N, rows, cols), _message_start(c, device)
    added = cdiv(M, rows) * cdiv(N, rows)
    return {**pipeline, "compute": pipeline["compute"] + rows * (start + added / BEAT * c["beat"]),
            "transfer": 1.5 * pipeline["transfer"], "alpha": 2 * rows * device.alpha, "beta": 0.0 * rows,
            "overhead": pipeline["overhead"] + rows * (2.5 * start + 2 * device.ramp)}


def _meshgemm_t(c: Constants, device: Device, M: Any, K: Any, N: Any, rows: Any, cols: Any) -> Terms:
    """C = A B^T with A in place: as MeshGEMM, with tiles of B and of C for its messages.

    B is aligned first, C last, half of the rounds each.

    Returns:
        Cycles by kind of cost.
    """
    rounds, round_hops, _, steps, hops, _, _ = path("meshgemm_t", rows, cols)
    m, k, n = cdiv(M, rows), cdiv(K, cols), cdiv(N, steps)
    b_words, c_words = words_cycles(device, n * k * (steps // rows)), words_cycles(device, m * n * (steps // cols))
    work, far = local_product(c, m, k, n), hops * device.alpha
    message = np.maximum(b_words, c_words) + far
    exposed = np.maximum(message - work, 0) / message * steps
    return {
        "compute": steps * work,
        "transfer": exposed * (message - far) + rounds * (b_words + c_words) / 2,
        "alpha": exposed * far + round_hops * device.alpha,
        "beta": 0.0 * work,
        "overhead": c["launch"] + c["startup"] * (rounds + steps),
    }
