"""One's own measurements, fitted: a sweep of a GEMM kernel becomes constants, a device file and predictions."""

import tempfile
from pathlib import Path

import numpy as np

import perfmodel as pm


def main() -> None:
    """Invent a sweep with known constants and noise, fit it, save it, predict with it."""
    random = np.random.default_rng(1)
    published = pm.fit(pm.measurements("wse3_meshgemm"))
    P, tile = (side.ravel() for side in np.meshgrid([16, 32, 64, 128, 256], [4, 7, 8, 13, 16, 32, 48]))
    sizes = {"P": P, "M": P * tile, "K": P * tile, "N": P * tile}
    mine = {**sizes, "cycles": published.predict(**sizes) * random.normal(1.0, 0.01, len(P))}
    fitted = pm.fit(mine)
    for name, value in fitted.values.items():
        print(f"{name:12} {value:10.4g} +- {fitted.stderr.get(name, 0):.2g}")
    with tempfile.TemporaryDirectory() as folder:
        chip = pm.device(str(fitted.save(Path(folder) / "mine.toml")))
        print(f"4096^3 on 512 x 512 cores: {pm.gemm(chip, 4096, 4096, 4096, grid=512).cycles:,.0f} cycles")


if __name__ == "__main__":
    main()
