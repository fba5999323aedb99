"""What the paper claims, as numbers that the model can contradict."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perfmodel import counts_reduce, llm, operators, tune
from perfmodel.device import device
from perfmodel.model import model


@dataclass(frozen=True)
class Claim:
    """One claim: what the paper says, what the model says, and whether they agree."""

    text: str
    published: str
    model: str
    holds: bool


def claims() -> list[Claim]:
    """Every claim, evaluated now."""
    return [_independent_of_p(), *_against_summa_and_cannon(), _efficiency(), _gemv_speedup(), _levels(),
            _decode_grid()]


def _gemm(algorithm: str, n: int, grid: int, chip: str = "wse2") -> float:
    return float(operators.gemm(device(chip), n, n, n, grid=grid, algorithm=algorithm).cycles)


def _independent_of_p() -> Claim:
    """Cycles per step at a constant tile of 8^3."""
    chip = device("wse3")
    grids = np.array([208, 272, 400, 528, 656, 720])
    step = operators.gemm(chip, 8 * grids, 8 * grids, 8 * grids, grid=grids).cycles / grids
    spread = float(step.max() / step.min() - 1)
    return Claim("MeshGEMM's cost per step does not depend on P (tile 8^3, P 208 to 720)", "constant",
                 f"varies by {spread:.2%}", spread < 0.01)


def _against_summa_and_cannon() -> list[Claim]:
    """GEMM 2K to 8K on 360^2 to 720^2 cores, and how the three scale at 2K."""
    points = [(n, p) for n in (2048, 4096, 8192) for p in (360, 540, 720)]
    ratios = {a: [_gemm(a, *at) / _gemm("meshgemm", *at) for at in points] for a in ("cannon", "summa_relay")}
    high = max(map(max, ratios.values()))
    middle = float(np.median([value for values in ratios.values() for value in values]))
    lowest = {"all-gather 2K at 540": _gemm("allgather_relay", 2048, 540) / _gemm("meshgemm", 2048, 540),
              **{f"{a} {n // 1024}K at {p}": ratios[a][i] for a in ratios for i, (n, p) in enumerate(points)}}
    closest = sorted(lowest.items(), key=lambda item: item[1])[:2]
    growth = {a: _gemm(a, 2048, 720) / _gemm(a, 2048, 360) for a in ("meshgemm", *ratios)}
    return [
        Claim("MeshGEMM has the lowest latency everywhere (GEMM 2K-8K, 360^2 to 720^2)", "always",
              "closest: " + ", ".join(f"{name} {ratio:.2f}x" for name, ratio in closest), closest[0][1] > 1),
        Claim("SUMMA and Cannon take 2 to 3 times as long as MeshGEMM (the same)", "2-3x",
              f"median {middle:.1f}x, up to {high:.1f}x", 2 <= middle <= 3),
        Claim("GEMM 2K: SUMMA and Cannon get slower from 360^2 to 720^2", "> 1x",
              f"SUMMA {growth['summa_relay']:.1f}x, Cannon {growth['cannon']:.1f}x",
              min(growth["summa_relay"], growth["cannon"]) > 1),
        Claim("GEMM 2K: MeshGEMM stays flat from 360^2 to 720^2", "1x", f"{growth['meshgemm']:.2f}x",
              abs(growth["meshgemm"] - 1) < 0.1),
    ]


def _efficiency() -> Claim:
    """Share of cycles in compute at 720^2, by size, and what share of the cores' peak rate that is.

    The paper calls the first compute efficiency; `Prediction.efficiency` is the second.

    Returns:
        The claim, judged at 4K.
    """
    chip, texts = device("wse2"), []
    at_4k: list[float] = []
    for n in (2048, 4096, 8192):
        shares, peaks = [], []
        for algorithm in ("meshgemm", "cannon", "summa_relay"):
            p = operators.gemm(chip, n, n, n, grid=720, algorithm=algorithm)
            shares.append(float(p.terms["compute"] / p.cycles))
            peaks.append(float(p.efficiency))
        texts.append(f"{n // 1024}K: {' / '.join(f'{v:.0%}' for v in shares)} of cycles, "
                     f"{' / '.join(f'{v:.0%}' for v in peaks)} of peak")
        at_4k = shares if n == 4096 else at_4k
    return Claim("Share of cycles in compute at 720^2 (the paper's compute efficiency; beside it the share of peak, "
                 "`efficiency`), MeshGEMM / Cannon / SUMMA, judged at 4K", "> 70 %, < 50 %",
                 "; ".join(texts), at_4k[0] > 0.7 and max(at_4k[1:]) < 0.5)


def _gemv_speedup() -> Claim:
    """K-tree against the vendor's pipeline all-reduce, GEMV 8K and 16K on 720^2."""
    chip = device("wse2")
    gains = [float(operators.gemv(chip, n, n, grid=720, reduce="pipeline").cycles
                   / operators.gemv(chip, n, n, grid=720).cycles) for n in (8192, 16384)]
    return Claim("GEMV with the K-tree is 4.6 times as fast as with the pipeline (8K, 16K on 720^2)", "4.6x",
                 f"{gains[0]:.1f}x, {gains[1]:.1f}x", min(gains) > 4 and max(gains) < 8)


def _levels() -> Claim:
    """Reduction cost alpha H + beta S on 720 cores with one, two and three levels."""
    chip = device("wse2")
    two = tune.best_groups(chip, 720).value
    cost: dict[int, float] = {}
    for groups in ((), (two,), (80, 9), (90, 10), (72, 8)):
        counted = counts_reduce.allreduce("ktree", 720, 1, groups=groups)
        level = len(groups) + 1
        cost[level] = min(cost.get(level, np.inf), chip.alpha * counted.hops + chip.beta * counted.stages)
    excess = cost[2] / min(cost.values()) - 1
    return Claim("K = 2 is best or near-best (720 cores, alpha H + beta S)", "K = 2",
                 ", ".join(f"K = {k}: {v:.0f}" for k, v in cost.items()) + f"; {excess:.0%} from the best",
                 excess < 0.15)


def _decode_grid() -> Claim:
    """8B decode from 360^2 to 720^2."""
    rates = [float(llm.decode(device("wse2"), model("llama3-8b"), context=4096, grid=g).tokens_per_s)
             for g in (360, 480, 600, 720)]
    return Claim("Decode gets slower with more cores (8B, 360^2 to 720^2)", "falls",
                 " > ".join(f"{rate:.0f}" for rate in rates) + " token/s", rates == sorted(rates, reverse=True))


