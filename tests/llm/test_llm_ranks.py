"""A model whose weights are shared out among the ranks of a mesh."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.engines.launch import needs_mpi, on_ranks
from tests.fuzz.gguf_writer import tiny_file


@needs_mpi
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_tokens_bits_and_memory(ranks):
    done = on_ranks(ranks, str(Path(__file__).with_name("on_ranks.py")))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("done") == ranks, done.stdout


@needs_mpi
def test_a_hook_that_fails_on_one_rank_ends_all():
    done = on_ranks(2, """
from mpi4py import MPI
import meshkernels as mk
from meshkernels.llm import Llama
from tests.llama_reference import Synthetic, tiny
model = Llama(Synthetic(tiny()), mk.Mesh(4, 2, comm=MPI.COMM_WORLD))
def hook(block, op, values):
    if MPI.COMM_WORLD.rank == 1 and (block, op.name) == (1, "SiLU"):
        raise ZeroDivisionError("in a hook")
model.hooks.append(hook)
model.prefill([1, 2, 3])
""", limit=60)
    assert done.returncode != 0 and "in a hook" in done.stderr and "rank 1 of 2" in done.stderr, done.stderr


@needs_mpi
def test_generate_on_ranks_prints_once_what_one_process_prints(tmp_path):
    (tmp_path / "tiny.gguf").write_bytes(tiny_file().encoded()[0])
    command = ["generate", "abc", "--model", str(tmp_path / "tiny.gguf"), "--grid", "3x2", "--new", "5", "--json"]
    module = "import sys\nfrom meshkernels.__main__ import main\nsys.exit(main(sys.argv[1:]))\n"
    drawn = ["--temperature", "2", "--seed", "7"]
    for more in ([], drawn):
        alone, shared = (on_ranks(count, module, *command, *more) for count in (1, 3))
        assert alone.returncode == shared.returncode == 0, alone.stderr + shared.stderr
        one, three = json.loads(alone.stdout), json.loads(shared.stdout)
        assert one["new_ids"] == three["new_ids"] and len(one["new_ids"]) == 5 and one["mesh"] == three["mesh"]
    refused = on_ranks(2, module, "generate", "--chat")
    assert refused.returncode == 2 and "a conversation runs in one process" in refused.stderr
