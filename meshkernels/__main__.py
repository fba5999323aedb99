"""``python -m meshkernels demo | generate | examples | simulate | trace | animate | replay``: the library, run."""

from __future__ import annotations

import importlib
import sys

import meshkernels
from meshkernels.errors import MeshError, MeshTypeError, MissingExtra, WeightsError
from perfmodel import console

#: Where each subcommand is declared; `meshkernels.fabric.cli` declares several.
COMMANDS = {"demo": "meshkernels.demo", "generate": "meshkernels.llm.cli", "examples": "meshkernels.examples",
            "simulate": "meshkernels.fabric.cli"}  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand; what it returns and prints on bad input, see `perfmodel.console`."""
    def command() -> int:
        parser = console.Parser(prog="python -m meshkernels", description=__doc__)
        parser.add_argument("--version", action="version", version=f"meshkernels {meshkernels.__version__}")
        commands = parser.add_subparsers(required=True, metavar="COMMAND")
        wanted = (sys.argv[1:] if argv is None else argv)[:1]
        for name, module in COMMANDS.items():
            try:
                importlib.import_module(module).add_arguments(commands)
            except MissingExtra as missing:
                if wanted == [name]:
                    raise MeshError(f"{name} cannot run: {missing}") from None
                commands.add_parser(name, help=f"not installed: {missing.install}")
        options = parser.parse_args(argv)
        return options.run(options)

    return console.run("meshkernels", command, (MeshError, MeshTypeError, WeightsError, MissingExtra))


if __name__ == "__main__":
    sys.exit(main())
