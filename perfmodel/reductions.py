"""Reductions of 32-bit words along a line with nothing fitted: the forms of HPDC 2024."""

from __future__ import annotations

import math

from perfmodel.checks import choice, size
from perfmodel.device import Device
from perfmodel.errors import ModelError
from perfmodel.operators import built, check_line, mesh
from perfmodel.prediction import Prediction

REDUCTIONS = ["star", "chain", "tree", "two_phase", "broadcast", "ring"]


def reduce(chip: Device | str, words: int, *, cores: int, algorithm: str = "two_phase",
           group_size: int | None = None) -> Prediction:
    """Predict a reduction of 32-bit words along a line with nothing fitted: the forms of HPDC 2024.

    star B(P-1) + 2T + 1; chain B + (2T+2)(P-1); two-phase with groups of S: [B + (2T+2)(S-1)] +
    [B + (2T+1+S)(P/S-1)]; broadcast B + P + 2T; ring all-reduce 2(P-1)B/P + 4P-6 + 2(P-1)(2T+1); a binary tree from
    the general max(C, E/N + L) + (2T+1)D. T is the ramp between router and core.

    Args:
        chip: a mesh device, or its name.
        words: 32-bit words of the vector.
        cores: cores of the line.
        algorithm: one of `REDUCTIONS`.
        group_size: cores of a group of the two-phase reduce; default: the square root of the cores.

    Returns:
        Time, terms and bounds.

    Raises:
        DoesNotFit: the line is longer than the device.
        ModelError: a size or name that is none, groups that do not divide the line.

    References:
        Luczynski et al., Near-Optimal Wafer-Scale Reduce, HPDC 2024.

    >>> float(reduce("wse2", 4096, cores=512, group_size=32).cycles)
    8933.0
    """
    chip = mesh(chip)
    words, cores = size("words", words), size("cores", cores)
    choice("reduction", algorithm, REDUCTIONS)
    check_line(chip, cores)
    if algorithm == "two_phase":
        members = math.isqrt(cores) if group_size is None else size("group_size", group_size)
        if cores % members:
            raise ModelError(f"group_size = {members} must divide the {cores} cores")
        terms = _two_phase(words, cores, members, chip.ramp)
    else:
        terms = _reduction(algorithm, words, cores, chip.ramp)
    terms = {**terms, "transfer": terms["transfer"] / chip.link_words_per_cycle, "alpha": terms["alpha"] * chip.alpha}
    limits = {"compute": 0.0, "link": words * (cores > 1) / chip.link_words_per_cycle,
              "distance": (cores - 1) * chip.alpha}
    return built(chip, None, lambda c: terms, limits, (),
                 f"{algorithm} reduction of {words} words over {cores} cores of {chip.name}")


def _two_phase(words: int, cores: int, size: int, ramp: float) -> dict[str, float]:
    """Chains inside groups, then a chain of the groups' heads, which lie ``size`` hops apart."""
    groups = cores // size
    if size in (1, cores):  # a plain chain
        return _reduction("chain", words, cores, ramp)
    return {"transfer": 2.0 * words, "alpha": float(size - 1 + size * (groups - 1)),
            "beta": (2 * ramp + 1) * (size - 1 + groups - 1)}


def _reduction(algorithm: str, words: int, cores: int, ramp: float) -> dict[str, float]:
    """Transfer, distance and stages of the other forms."""
    far, depth = cores - 1, math.ceil(math.log2(cores)) if cores > 1 else 0
    stage = 2 * ramp + 1
    if algorithm == "star":
        return {"transfer": float(words * far), "alpha": 0.0, "beta": stage}
    if algorithm == "chain":
        return {"transfer": float(words), "alpha": float(far), "beta": stage * far}
    if algorithm == "broadcast":
        return {"transfer": float(words), "alpha": float(cores), "beta": 2 * ramp}
    if algorithm == "ring":
        return {"transfer": 2 * far * words / cores, "alpha": max(4.0 * cores - 6, 0.0), "beta": 2 * far * stage}
    received, hops = words * depth, words * cores / 2 * depth
    travelled = hops / max(far, 1) + far
    return {"transfer": float(received), "alpha": max(travelled - received, 0.0), "beta": stage * depth}
