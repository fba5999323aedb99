"""The time of a schedule on the ranks of a cluster, from what each rank computes, sends and receives.

    seconds of a rank = macs / rate + alpha * rounds + beta * messages + bytes / bandwidth

with the larger of what it sends and what it receives, since a connection carries both ways at once; the slowest rank
counts. Nothing overlaps: a rank that has all its messages computes its product in one piece. Alpha, beta, bandwidth and
rate are those of a `Cluster`, which ``python -m perfmodel ping-pong`` fits.

What the formula does not know: ranks that wait for a late one, connections that share a switch or a memory, the cache
that a tile is still in. Beyond the ranks that were measured it assumes a network whose bandwidth grows with them.

References:
    Hockney, The communication challenge for MPP, 1994 (alpha and bandwidth); Alexandrov et al., LogGP, 1995 (beta: the
    gap between messages).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from perfmodel import checks
from perfmodel.device import Cluster, as_device
from perfmodel.errors import ModelError, shown
from perfmodel.prediction import Prediction

#: Counts of every rank that a prediction needs.
COUNTS = ("macs", "bytes_sent", "bytes_received", "messages_sent", "messages_received")


def on_ranks(counts: Any, device: Cluster | str | Path) -> Prediction:
    """Predict the time of a schedule on processes that share out its cores.

    Args:
        counts: a mapping of `COUNTS`, ``(ranks,)`` numbers each, and ``rounds``; ``ledger.per_rank(ranks)`` makes one.
        device: a cluster, its name, or the file that ``ping-pong`` wrote.

    Returns:
        The time of the slowest rank. Terms: ``compute``, ``alpha`` (rounds), ``beta`` (messages), ``transfer`` (bytes).

    Raises:
        ModelError: a count is missing, or is none; another kind of device.

    Examples:
        >>> two = {"macs": [10**9, 10**9], "rounds": 1, **{name: [0, 0] for name in COUNTS[1:]}}
        >>> on_ranks(two, "cluster").bound
        'compute'
    """
    chip = as_device(device)
    if not isinstance(chip, Cluster):
        raise ModelError(f"on_ranks predicts for a cluster; {shown(getattr(chip, 'name', chip))} is a "
                         f"{type(chip).__name__}: measure yours by `mpiexec -n 2 python -m perfmodel ping-pong`")
    if not isinstance(counts, Mapping):
        raise ModelError(f"counts = {shown(counts)} must be a mapping of names to numbers, as ledger.per_rank(ranks)")
    if missing := [name for name in (*COUNTS, "rounds") if name not in counts]:
        raise ModelError(f"counts lack {', '.join(missing)}; ledger.per_rank(ranks) has them")
    each = {name: _numbers(name, counts[name]) for name in COUNTS}
    if len({len(values) for values in each.values()}) > 1:
        raise ModelError(f"counts must have one number for each rank, not {[len(v) for v in each.values()]}")
    rounds = checks.number("rounds", counts["rounds"], 0, checks.LARGEST)
    words = np.maximum(each["bytes_sent"], each["bytes_received"]) / chip.word_bytes
    terms = {
        "compute": each["macs"] / chip.macs_per_cycle,
        "alpha": np.full(len(words), rounds * chip.alpha),
        "beta": np.maximum(each["messages_sent"], each["messages_received"]) * chip.beta,
        "transfer": words / chip.link_words_per_cycle,
    }
    slowest = int(np.argmax(sum(terms.values())))
    found = {name: float(values[slowest]) for name, values in terms.items()}
    cycles = sum(found.values())
    limits = {"compute": float(terms["compute"].max()), "link": float(terms["transfer"].max()), "distance": 0.0}
    return Prediction(cycles, cycles / chip.clock_hz, found, limits, _notes(chip, len(words)),
                      label=f"{counts.get('algorithm', 'a schedule')} on {len(words)} ranks of {chip.name}", chip=chip)


def _numbers(name: str, given: Any) -> np.ndarray:
    values = np.asarray(given)
    if values.ndim != 1 or values.dtype.kind not in "iuf" or not len(values) or not (
            (values >= 0) & (values <= checks.LARGEST)).all():
        raise ModelError(f"{name} = {shown(given)} must be a number from 0 to 2^53 for each rank")
    return values.astype(float)


def _notes(chip: Cluster, ranks: int) -> tuple[str, ...]:
    if ranks <= chip.cores:
        return ()
    return (f"extrapolated: {ranks} ranks; {chip.name} was measured with {chip.cores}: alpha and bandwidth are taken "
            "to stay as they are, as if no two connections shared a link, and no rank to be late",)
