"""``python -m plots [NAME ...]``: draw every figure (or the named ones) into ``figures/``."""

from __future__ import annotations

import importlib
import pkgutil
import sys
import time
from pathlib import Path

from perfmodel import console, files
from plots import style


def figures() -> dict[str, str]:
    """Name and one-line description of every module here that has a ``draw()``: no list to keep."""
    import plots

    found = {}
    for module in pkgutil.iter_modules(plots.__path__):
        if module.name.startswith("_") or module.name == "style":
            continue
        doc = importlib.import_module(f"plots.{module.name}").__doc__ or ""
        found[module.name] = doc.strip().splitlines()[0]
    return found


def main(argv: list[str] | None = None) -> int:
    """Draw; what it returns and prints on bad input, see `perfmodel.console`."""
    return console.run("plots", lambda: _draw(argv))


def _draw(argv: list[str] | None) -> int:
    known = figures()
    parser = console.Parser(prog="python -m plots", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="figures to draw: " + ", ".join(known))
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder to write to (default: figures)")
    options = parser.parse_args(argv)
    unknown = [name for name in options.names if name not in known]
    if unknown:
        parser.error(f"no figure {', '.join(unknown)}; known: {', '.join(known)}")
    style.use()
    import matplotlib.pyplot as plt

    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise files.cannot("make the folder", options.out, error) from None
    for name in options.names or known:
        begin = time.perf_counter()
        figure = importlib.import_module(f"plots.{name}").draw()
        path = options.out / f"{name}.png"
        try:
            figure.savefig(path)
        except OSError as error:
            raise files.cannot("write", path, error) from None
        plt.close(figure)
        print(f"{path}  ({time.perf_counter() - begin:.1f} s)  {known[name]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
