"""``python -m meshkernels examples``: five short scripts to read, to run and to start from.

Each is a module of this package with a docstring and a ``main()`` that prints; a script of one's own can do all of it.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil

from perfmodel.errors import unknown


def known() -> dict[str, str]:
    """Name and first line of every example."""
    return {module.name: (importlib.import_module(f"{__name__}.{module.name}").__doc__ or "").splitlines()[0]
            for module in pkgutil.iter_modules(__path__)}  # fmt: skip


def add_arguments(commands: argparse._SubParsersAction) -> None:
    """Declare the subcommand."""
    parser = commands.add_parser("examples", help="short scripts to start from: list them and run them",
                                 description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="which to run (default: all)")
    parser.add_argument("--list", action="store_true", help="print names, captions and paths; run nothing")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the subcommand; returns the exit code."""
    found = known()
    for name in options.names:
        if name not in found:
            raise unknown("example", name, found)
    for name in options.names or found:
        module = importlib.import_module(f"{__name__}.{name}")
        print(f"== {name}: {found[name]}\n   {module.__file__}")
        if not options.list:
            module.main()
            print()
    return 0
