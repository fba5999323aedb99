"""A model on ranks against one process, bit by bit; run by mpiexec from test_llm_ranks.py."""

from __future__ import annotations

import gc
import sys
import tracemalloc
from pathlib import Path

import numpy as np
from mpi4py import MPI

import meshkernels as mk
from meshkernels.kernels import memory
from meshkernels.llm import KVCache, Layout, Llama, decode_plan
from meshkernels.llm.cache import balanced
from meshkernels.llm.part import Part
from tests.llama_reference import NumpyLlama, Synthetic, tiny

sys.path.insert(0, str(Path(__file__).parents[1]))  # as pytest has it
from storages import InStorage

COMM = MPI.COMM_WORLD


def bits(model: Llama) -> list[bytes]:
    """Logits of a prompt, of all its positions, and of the tokens after it."""
    found = [model.prefill([1, 5, 2, 7, 3], every=True), model.prefill([1, 5, 2, 7, 3])]
    found += [model.decode(token) for token in (4, 9, 1, 0, 2)]
    return [logits.tobytes() for logits in found]


def same_bits() -> None:
    half = {"dtype": "float16", "accumulate": "float16", "norms": "float32", "cache": "concat"}
    cases = (({}, (4, 4), True), ({"dtype": "float16"}, (3, 6), False), (half, (5, 2), True))
    for options, cores, tied in (*cases, *(({"plan": "fused"} | options, *rest) for options, *rest in cases)):
        source = Synthetic(tiny(), seed=3, tied=tied)
        one, many = (Llama(source, mk.Mesh(*cores, comm=comm), **options) for comm in (None, COMM))
        assert bits(one) == bits(many), (options, cores)
    source = Synthetic(tiny(architecture="qwen2"), seed=3)  # with biases
    one, many = (Llama(source, mk.Mesh(4, 3, comm=comm)) for comm in (None, COMM))
    assert bits(one) == bits(many), "qwen2"
    texts = [model.batch(3) for model in (one, many)]
    prompts, tokens = [[1, 5, 2], [7], [1, 5, 2]], [4, None, 9]
    assert texts[0].prefill(prompts).tobytes() == texts[1].prefill(prompts).tobytes(), "several texts"
    assert texts[0].decode(tokens).tobytes() == texts[1].decode(tokens).tobytes(), "several texts"
    source = Synthetic(tiny(), seed=3)
    meshes = [[mk.Mesh(*cores, comm=comm) for cores in ((4, 2), (2, 3))] for comm in (None, COMM)]
    one, many = (Llama(source, decode, prefill_mesh=prefill) for decode, prefill in meshes)
    assert bits(one) == bits(many), "phases on meshes of their own"
    for cores, storages in (((4, 4), ("Q4_1", "Q8_0", "F16")), ((3, 8), ("Q5_0", "F32")), ((1, 6), ("Q4_0",))):
        stored = InStorage(tiny(4, 2, 16, dim=64, ffn=96), *storages)  # cores have parts of blocks of 32
        one_process, ranks = (bits(Llama(stored, mk.Mesh(*cores, comm=comm))) for comm in (None, COMM))
        assert one_process == ranks, (cores, storages)
    tokens = list(many.generate([1, 2, 3], 6))
    assert tokens == list(one.generate([1, 2, 3], 6))
    reference = NumpyLlama(source)
    logits, wanted = reference.forward([1, 2, 3]), []
    for _ in range(6):
        wanted.append(int(np.argmax(logits[-1] if logits.ndim > 1 else logits)))
        logits = reference.forward(wanted[-1:])
    assert tokens == wanted, "and NumPy's"
    prompts = [[1, 5, 2], [7], [1, 5, 2]]
    texts = [model.batch(3) for model in (one, many)]
    for said in ("prefill", prompts), ("decode", [4, 9, 1]), ("decode", [None, 2, 3]):
        alone, shared = (getattr(batch, said[0])(said[1]) for batch in texts)
        assert alone.tobytes() == shared.tobytes(), said
    drawn = COMM.allgather(list(many.generate([1, 2, 3], 6, temperature=2.0)))
    assert all(each == drawn[0] for each in drawn), "one seed for all"


def grids(rows: int, cols: int) -> list[tuple[int, int]]:
    """Of so many ranks, on so many cores."""
    return [(n, COMM.size // n) for n in range(1, COMM.size + 1)
            if COMM.size % n == 0 and n <= rows and COMM.size // n <= cols]  # fmt: skip


def attention_is_shared_out() -> None:
    """Any cut, through rows of cores of any lengths and through strips of heads: entries go from rank to rank."""
    half = {"dtype": "float16", "accumulate": "float16", "norms": "float32"}
    prompt, tokens = [1, 5, 2, 7, 3, 8, 6, 0, 4], [4, 9, 1, 0, 2, 3, 5, 7, 8, 6, 1]
    for heads, cores in (((4, 2), (5, 4)), ((6, 3), (4, 6)), ((3, 3), (7, 4))):
        source = Synthetic(tiny(*heads), seed=3)
        for plan, options in (("paper", {}), ("fused", {}), ("paper", half | {"cache": "concat"}), ("fused", half)):
            models = [Llama(source, mk.Mesh(*cores), plan=plan, **options)]
            models += [Llama(source, mk.Mesh(*cores, comm=COMM, ranks=grid), plan=plan, **options)
                       for grid in grids(*cores)]  # fmt: skip
            found = [[model.prefill(prompt).tobytes(), *(model.decode(token).tobytes() for token in tokens)]
                     for model in models]  # fmt: skip
            for model, each in zip(models[1:], found[1:]):
                assert each == found[0], (heads, cores, plan, options, model._on)
            short = [[model.prefill([2]).tobytes(), *(model.decode(token).tobytes() for token in tokens[:4])]
                     for model in models]  # fmt: skip
            assert all(each == short[0] for each in short), "rows of cores without entries"


def each_holds_its_part_of_the_cache() -> None:
    """Entries are numbers: where each lies after many appends, and in how many bytes."""
    config = tiny(6, 3)
    for cores in ((6, 6), (5, 4), (4, 9)):
        layout = Layout(config, mk.Mesh(*cores))
        whole = KVCache(layout)
        for grid in grids(*cores):
            on = mk.Mesh(*cores, comm=COMM, ranks=grid).distribution
            part, down = Part.of(layout, on), COMM.rank // grid[1]
            mine = np.flatnonzero(on.cut.owner == COMM.rank) // cores[1]
            assert part.rows == (mine.min(), mine.max() + 1)
            columns = np.flatnonzero(on.cut.owner == COMM.rank) % cores[1]
            strips = np.unique(columns // layout.strip.cols)
            assert part.heads == (strips[0] * layout.strip_kv, (strips[-1] + 1) * layout.strip_kv)
            cache, tokens = KVCache(layout, part=part), 1000
            occupancy = balanced(tokens, cores[0])
            ends = np.cumsum(occupancy)
            own = range(ends[part.rows[0]] - occupancy[part.rows[0]], ends[part.rows[1] - 1])
            numbers = np.broadcast_to(np.arange(tokens, dtype=np.float32)[:, None], (3, tokens, layout.head))
            kept = [(part.kept(numbers, occupancy), part.kept(-numbers, occupancy))] * config.blocks
            assert kept[0][0].shape == (part.heads[1] - part.heads[0], len(own), layout.head)
            cache.text = cache.filled(kept, tokens)
            whole.text = whole.filled([(numbers, -numbers)] * config.blocks)
            room = 256 * -(-(len(own) + 1) // 256)
            assert cache.keys.nbytes * 3 * 1024 == whole.keys.nbytes * (part.heads[1] - part.heads[0]) * room
            assert cache.values.nbytes == cache.keys.nbytes
            for entry in range(tokens, tokens + 700):
                cache.advance()
                if part.appends:
                    place = cache.text.bounds[-1] - 1
                    cache.keys[..., place], cache.values[..., place, :] = entry, -entry
            ends = np.cumsum(cache.occupancy)
            first = 0 if part.rows[0] == 0 else ends[part.rows[0] - 1]
            held = slice(cache.text.bounds[0], cache.text.bounds[-1])
            expected = np.arange(first, ends[part.rows[1] - 1], dtype=np.float32)
            d = config.head_dim
            assert (cache.keys[..., :d, held] == expected).all(), (cores, grid, down)
            assert (cache.values[..., held, :d] == -expected[:, None]).all(), (cores, grid, down)
            assert cache.keys.shape[-1] <= 2 * len(expected) + 256


def bytes_are_the_ledgers() -> None:
    """What a token sends: the all-reduces of its products, as counted before anything runs."""
    half = {"dtype": "float16", "accumulate": "float16", "norms": "float32"}
    for options, cores in (({}, (4, 4)), (half, (5, 2)), ({}, (2, 6)), ({}, (7, 3)), ({"plan": "fused"}, (4, 4))):
        mesh = mk.Mesh(*cores, comm=COMM)
        model, sent = Llama(Synthetic(tiny(), seed=3), mesh, **options), mesh.distribution.ranks.sent["schedule"]
        model.prefill([1, 5])
        before = sent.copy()
        model.decode(4)
        plan = decode_plan(model.layout, 3)
        schedules = [op.schedules[-1].schedule for part, times in ((plan.layer, model.config.blocks), (plan.after, 1))
                     for op in part if any(used.multiplies for used in op.schedules) for _ in range(times)]
        wanted = sum(mk.count(each, "float32", options.get("accumulate", "float32")).between(COMM.size)[COMM.rank]
                     for each in schedules)  # of both plans those of the paper's: what rides along is not sent
        assert (sent - before).tolist() == wanted.tolist(), (options, cores, sent - before, wanted)
        assert COMM.allreduce(int(wanted.sum())) > 0


def memory_is_a_share() -> None:
    """What stays after the model is placed, as the allocator counts it, against all weights in float32."""
    source = Synthetic(tiny(dim=256, ffn=1024, blocks=2), seed=1)
    memory._SHARED, memory._HUGE = 0, 64  # each weight is an allocation of its own, without pages that nobody touches

    def held(comm: MPI.Comm) -> int:
        tracemalloc.start()
        model = Llama(source, mk.Mesh(4, 4, comm=comm))
        gc.collect()
        found = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        del model
        return found

    held(COMM)  # schedules and proofs are kept from here on
    share, alone = held(COMM), sum(source.tensor(name).nbytes for name in source.names)
    print(f"rank {COMM.rank}: {share} bytes of {alone}")
    cores = np.mean(np.array(mk.Mesh(4, 4, comm=COMM).distribution.cut.owner) == COMM.rank)  # its share of the mesh
    assert share < alone * (cores + 0.1), (share, alone, cores)
    every = COMM.allreduce(share)
    assert 0.9 * alone < every < 1.3 * alone, (every, alone)


def refused() -> None:
    """All ranks raise, and go on together."""
    model = Llama(Synthetic(tiny(), seed=3), mk.Mesh(4, 2, comm=COMM), cache_limit=1 << 9)
    texts = model.batch(2)
    last = COMM.size - 1
    for call, says in (
            (lambda: model.prefill([1, 2 + (COMM.rank == last)]), "asked for different things"),
            (lambda: model.prefill([10**9] if COMM.rank == last else [1]), "outside the vocabulary"),
            (lambda: model.decode(1) if COMM.rank == last else model.prefill([1]), "asked for different things"),
            (lambda: model.prefill([1] * model.config.context), "KV cache"),
            (lambda: model.batch(0 if COMM.rank == last else 2), "a batch has at least one"),
            (lambda: texts.prefill([[1]] * (1 + (COMM.rank != last))), "1 prompts for a batch of 2 texts"),
            (lambda: texts.decode([1, 10**9 if COMM.rank == last else 2]), "asked for different things"),
            (lambda: Llama(Synthetic(tiny()), mk.Mesh(4, 2, comm=COMM), prefill_mesh=mk.Mesh(2)), "one process")):
        try:
            call()
        except (mk.MeshError, TypeError) as refusal:
            text = str(refusal)
        else:
            text = "nothing"
        assert says in text, (says, text)
    assert len(list(model.generate([1, 2], 3))) == 3
    batch = model.batch(2)
    for call, says in (
            (lambda: model.batch(2 + (COMM.rank == last)), "asked for different things"),
            (lambda: batch.prefill([[1], [10**9 if COMM.rank == last else 1]]), "outside the vocabulary"),
            (lambda: batch.decode([1] * (2 - (COMM.rank == last))), "for a batch of 2 texts")):
        try:
            call()
        except mk.MeshError as refusal:
            text = str(refusal)
        else:
            text = "nothing"
        assert says in text or "asked for different things" in text, (says, text)
    assert len(list(batch.generate([[1, 2], [3]], 3))) == 3


def other_sizes_are_refused() -> None:
    """Alone, a rank is not ended by what a hook does."""
    model = Llama(Synthetic(tiny(), seed=3), mk.Mesh(4, 2, comm=COMM))
    model.prefill([1, 2])
    model.hooks.append(lambda block, op, values: values.update(N=values["N"][:, :-1]) if "N" in values else None)
    try:
        model.decode(1)
    except mk.MeshError as refusal:
        assert "it must be float32 (1, 22)" in str(refusal)
    else:
        raise AssertionError("21 numbers were multiplied")


if __name__ == "__main__":
    same_bits()
    attention_is_shared_out()
    each_holds_its_part_of_the_cache()
    if COMM.size == 1:
        other_sizes_are_refused()
    if COMM.size > 1:
        bytes_are_the_ledgers()
        memory_is_a_share()
        refused()
    print(f"rank {COMM.rank} done")
