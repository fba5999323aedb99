"""``python -m bench.closed_forms``: closed forms beside the fabric, into ``bench/results/closed_forms.md``."""

from __future__ import annotations

import sys
from pathlib import Path

import meshkernels as mk
import perfmodel as pm
from meshkernels.fabric import machine, play
from perfmodel import counts_reduce

TABLE = Path(__file__).parent / "results" / "closed_forms.md"
GRIDS, TILES = (16, 48, 96), (1, 2, 4, 8, 16)
GEMMS = ("meshgemm", "cannon", "summa", "summa_relay", "allgather", "allgather_relay", "gemm_t", "meshgemm_t")
#: Algorithms of which there is no closed form but time from counts, step by step.
COUNTED = ("hsumma",)
GEMVS = ("ktree", "chain", "pipeline", "ring")


def errors(name: str, grids: tuple[int, ...] = GRIDS, tiles: tuple[int, ...] = TILES) -> list[tuple[float, float]]:
    """Of each grid and tile: per cent by which the closed forms, with and without a barrier, are off the fabric."""
    found = []
    for grid in grids:
        for tile in tiles:
            size = grid * tile
            try:
                form, free = _predicted(name, grid, size)
            except pm.DoesNotFit:
                continue
            if name in GEMVS:  # the columns of a GEMV do not meet
                schedule = mk.schedule(name, mk.Mesh(grid, 1), size, tile, **_groups(name, grid))
            else:
                schedule = mk.schedule(name, mk.Mesh(grid), size, size, size)
            cycles = play(schedule, machine("wse3"), progress=False).cycles
            found.append((100 * (form / cycles - 1), 100 * (free / cycles - 1)))
    return found


def _groups(name: str, grid: int) -> dict[str, int]:
    """Of a K-tree, the groups of the kernel that was measured.

    The cheapest tree has arms of equal length: both reach a root together, one waits for the other on the fabric, and
    the form, whose constants are from arms of unequal length, is 6 to 9 % below on 48 and 80 cores.
    """
    return {"groups": int(counts_reduce.published_groups(grid))} if name == "ktree" else {}


def _predicted(name: str, grid: int, size: int) -> tuple[float, float]:
    if name in GEMVS:
        return (float(pm.gemv("wse3", size, size, grid=grid, reduce=name, **_groups(name, grid)).cycles),) * 2
    if name in COUNTED:
        counted = mk.count(mk.schedule(name, mk.Mesh(grid), size, size, size))
        return (float(pm.time(counted.to_dict(), "wse3").cycles),) * 2
    first, second = (float(pm.gemm("wse3", size, size, size, grid=grid, algorithm=name, barrier=barrier).cycles)
                     for barrier in (True, False))  # fmt: skip
    return first, second


def main() -> int:
    """Write the table."""
    lines = ["| algorithm | closed form, a barrier after each step | without a barrier |", "|---|---|---|"]
    for name in (*GEMMS, *COUNTED, *GEMVS):
        forms = list(zip(*errors(name)))
        ranges = [f"{min(form):+.1f} to {max(form):+.1f} %" for form in forms]
        second = ranges[1] if name in GEMMS else "the same"
        lines.append(f"| {name}{', from its counts' * (name in COUNTED)} | {ranges[0]} | {second} |")
    text = TABLE.read_text(encoding="utf-8")
    before, _, rest = text.partition("<!-- generated: python -m bench.closed_forms -->\n")
    after = rest.partition("<!-- end -->")[2]
    TABLE.write_text(f"{before}<!-- generated: python -m bench.closed_forms -->\n" + "\n".join(lines)
                     + f"\n<!-- end -->{after}", encoding="utf-8")  # fmt: skip
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
