"""``python -m bench.yields``: MeshGEMM on 1,000 wafers with faults, into ``bench/results/yields.json`` (minutes)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

import meshkernels as mk
from meshkernels.fabric.yields import scan

RESULT = Path(__file__).parent / "results" / "yields.json"
SIDE, FABRIC, MAPS, TILES, DEAD = 96, 98, 1000, (1, 8), 0.01


def main() -> int:
    """Scan, write, and print a line for each tile."""
    found = {}
    for tile in TILES:
        size = SIDE * tile
        slower = scan(mk.schedule("meshgemm", mk.Mesh(SIDE), size, size, size), "wse3", (FABRIC, FABRIC), maps=MAPS,
                      dead=DEAD)  # fmt: skip
        found[str(tile)] = [None if np.isnan(ratio) else round(float(ratio), 5) for ratio in slower]
        low, middle, high = np.nanpercentile(100 * (slower - 1), (5, 50, 95))
        print(f"tiles of {tile}: {low:.1f} / {middle:.1f} / {high:.1f} % slower (5th, 50th, 95th percentile), "
              f"{int(np.isnan(slower).sum())} of {MAPS} refused", flush=True)  # fmt: skip
    RESULT.write_text(json.dumps({"device": "wse3", "algorithm": "meshgemm", "side": SIDE, "fabric": FABRIC,
                                  "dead": DEAD, "slower": found}) + "\n", encoding="utf-8")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
