"""``python -m plots [NAME ...]``: draw every figure (or the named ones) into ``figures/``.

Figures of algorithms take ``--algorithm`` and ``--grid``; ``--style`` reads a matplotlib style file on top of ours.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
import time
from inspect import signature
from pathlib import Path

from meshkernels.errors import MeshError, MeshTypeError, MissingExtra, WeightsError
from perfmodel import console, files
from perfmodel.errors import unknown
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
    return console.run("plots", lambda: _draw(argv), (MeshError, MeshTypeError, MissingExtra, WeightsError))


def _draw(argv: list[str] | None) -> int:
    known = figures()
    parser = console.Parser(prog="python -m plots", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="figures to draw: " + ", ".join(known))
    parser.add_argument("--list", action="store_true", help="print names and captions; draw nothing")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder to write to (default: figures)")
    parser.add_argument("--format", default="png", metavar="F,...", help="pdf, svg, png or several (default: png)")
    parser.add_argument("--style", type=Path, metavar="FILE", help="a matplotlib style file")
    parser.add_argument("--algorithm", nargs="+", metavar="NAME", help="which algorithms a figure shows")
    parser.add_argument("--grid", type=console.grid, metavar="N", help="cores a side, or rows x columns: 6, 6x4")
    options = parser.parse_args(argv)
    for name in options.names:
        if name not in known:
            raise unknown("figure", name, known)
    if options.list:
        width = max(map(len, known))
        for name in options.names or known:
            print(f"{name:{width}}  {known[name]}")
        return 0
    chosen = {name: getattr(options, name) for name in ("algorithm", "grid") if getattr(options, name) is not None}
    style.use()
    import matplotlib.pyplot as plt

    formats = options.format.split(",")
    if bad := set(formats) - set(plt.figure().canvas.get_supported_filetypes()):
        parser.error(f"no format {', '.join(sorted(bad))}; known: pdf, svg, png and others of matplotlib")
    plt.close()
    if options.style:
        try:
            plt.style.use(options.style)
        except OSError as error:
            raise files.cannot("read the style", options.style, error) from None

    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise files.cannot("make the folder", options.out, error) from None
    for name in options.names or known:
        begin = time.perf_counter()
        draw = importlib.import_module(f"plots.{name}").draw
        if chosen and (refused := set(chosen) - set(signature(draw).parameters)):
            if not options.names:
                continue  # of all figures those that take the options
            parser.error(f"the figure {name} takes no --{', --'.join(sorted(refused))}")
        figure = draw(**chosen)
        for suffix in formats:
            path = options.out / f"{name}.{suffix}"
            try:
                figure.savefig(path)
            except OSError as error:
                raise files.cannot("write", path, error) from None
            print(f"{path}  ({time.perf_counter() - begin:.1f} s)  {known[name]}")
        plt.close(figure)
    return 0


if __name__ == "__main__":
    sys.exit(main())
