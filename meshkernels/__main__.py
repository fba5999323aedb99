"""``python -m meshkernels demo | generate``: the library from the shell."""

from __future__ import annotations

import argparse
import sys

import perfmodel
from meshkernels import demo
from meshkernels.errors import MeshError, MeshTypeError
from meshkernels.llm import cli as generate
from meshkernels.weights import WeightsError


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand; a refusal is one line on stderr and exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m meshkernels", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    demo.add_arguments(commands)
    generate.add_arguments(commands)
    options = parser.parse_args(argv)
    try:
        return options.run(options)
    except (MeshError, MeshTypeError, WeightsError, perfmodel.ModelError) as refusal:
        print(f"meshkernels: {refusal}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
