"""``python -m meshkernels demo | generate | examples | simulate | trace | animate | replay``: the library, run."""

from __future__ import annotations

import sys

import meshkernels
from meshkernels import demo, examples
from meshkernels.errors import MeshError, MeshTypeError
from meshkernels.fabric import cli as fabric
from meshkernels.llm import cli as generate
from meshkernels.weights import WeightsError
from perfmodel import console


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand; what it returns and prints on bad input, see `perfmodel.console`."""
    def command() -> int:
        parser = console.Parser(prog="python -m meshkernels", description=__doc__)
        parser.add_argument("--version", action="version", version=f"meshkernels {meshkernels.__version__}")
        commands = parser.add_subparsers(required=True, metavar="COMMAND")
        demo.add_arguments(commands)
        generate.add_arguments(commands)
        examples.add_arguments(commands)
        fabric.add_arguments(commands)
        options = parser.parse_args(argv)
        return options.run(options)

    return console.run("meshkernels", command, (MeshError, MeshTypeError, WeightsError))


if __name__ == "__main__":
    sys.exit(main())
