"""The fused plan: NumPy's forward pass in float64, the verbs' bits, its list by hand, and what 16 bits need."""

import numpy as np
import pytest
from llama_reference import NumpyLlama, Synthetic, tiny
from prompts import PROMPTS

import meshkernels as mk
from meshkernels.kernels import attention as kernels
from meshkernels.llm import Layout, Llama, Scheduled, decode_plan, prefill_plan
from meshkernels.llm.block import HEADROOM

GRIDS = [(1, 1), (1, 5), (7, 3), (8, 4), (24, 24)]
MODELS = {"GQA": tiny(), "one head": tiny(1, 1), "MHA, odd": tiny(3, 3, 10), "MQA": tiny(6, 1), "pairs": tiny(4, 4, 2)}
IDS = np.random.default_rng(0).integers(0, 53, 13)


def array(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def logits(model: Llama, new: int = 9) -> tuple[list[int], np.ndarray]:
    """Greedy tokens after a prompt, and the logits of all steps; the cache shifts on the way."""
    found, tokens = [model.prefill(IDS)], []
    for _ in range(new):
        tokens.append(int(found[-1].argmax()))
        found.append(model.decode(tokens[-1]))
    return tokens, np.array(found)


# ------------------------------------------------------------------------------------------------ against others
@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_numpy_and_tokens_those_of_the_paper(name, grid):
    source = Synthetic(MODELS[name])
    exact, model = NumpyLlama(source), Llama(source, mk.Mesh(*grid), plan="fused")
    np.testing.assert_allclose(model.prefill(IDS, every=True), exact.forward(IDS, every=True), atol=2e-5)
    tokens, found = logits(model)
    exact.reset()
    expected = [exact.forward(IDS), *(exact.forward([token]) for token in tokens)]
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert tokens == logits(Llama(source, mk.Mesh(*grid)))[0]


@pytest.mark.parametrize(("cache", "grid"), [
    ("shift", (24, 2)), ("concat", (3, 2)), ("shift", (2, 9)), ("shift", (1, 1))], ids=str)  # fmt: skip
def test_a_text_of_one_token_and_rows_without_entries(cache, grid):
    source = Synthetic(MODELS["GQA"])
    exact, model = NumpyLlama(source), Llama(source, mk.Mesh(*grid), plan="fused", cache=cache,
                                       prefill_mesh=1 if grid == (1, 1) else 5)
    np.testing.assert_allclose(model.prefill([7]), exact.forward([7]), atol=2e-5)
    for token in range(30):
        np.testing.assert_allclose(model.decode(token), exact.forward([token]), atol=2e-5)


@pytest.mark.parametrize("options", [{}, {"accumulate": "float16", "norms": "float32"}, {"accumulate": "float16"}],
                         ids=str)
@pytest.mark.parametrize("grid", [(1, 1), (7, 3), (8, 8)], ids=str)
def test_float16_storage_and_sums(grid, options):
    """As far from float32 as the paper's plan in the same precision, or nearer; equal tokens but for ties."""
    source = Synthetic(MODELS["GQA"])
    exact = logits(Llama(source, mk.Mesh(*grid)))[1]
    (old, paper), (new, fused) = (logits(Llama(source, mk.Mesh(*grid), dtype="float16", plan=plan, **options))
                                  for plan in ("paper", "fused"))
    top = np.sort(exact, axis=1)
    clear = np.flatnonzero(top[:, -1] - top[:, -2] < 0.02)
    until = clear[0] if len(clear) else len(old)
    assert old[:until] == new[:until] and until > 0
    assert np.isfinite(fused).all()
    assert abs(fused[0] - exact[0]).max() <= 1.5 * abs(paper[0] - exact[0]).max() + 2e-3


# -------------------------------------------------------------------------------------------------- bits of the mesh
@pytest.mark.parametrize("ends", [(3, 3, 8, 9), (0, 0, 1, 2), (5,), tuple(range(2, 50, 2))], ids=str)
def test_attention_of_a_token_is_the_all_reduce_of_softmax_states(ends):
    """The states of every row of cores by NumPy, one product after the other; then the verb, bit by bit."""
    mesh, heads, d = mk.Mesh(len(ends), 2), 4, 6
    S, V = array(heads, ends[-1]) * 9, array(2, ends[-1] + 3, d)
    scheduled = Scheduled(mesh, (2 + d,), 0, op="logsumexp", stacked=heads)
    P, found, largest = S.copy(), np.empty((heads, d), np.float32), np.empty((heads, len(ends)), np.float32)
    for h in range(heads):
        kernels.own_exponentials(h, P, np.array([0, *ends]), False, largest)
    states = np.zeros((len(ends), heads, 2 + d), np.float32)
    for y, (begin, end) in enumerate(zip([0, *ends], ends)):
        states[y, :, 0] = S[:, begin:end].max(1, initial=-np.inf)
        for h in range(heads):
            for t in range(begin, end):  # a product is exact in float64: one rounding, as of a multiply-add
                states[y, h, 1] += P[h, t]
                states[y, h, 2:] = states[y, h, 2:].astype(float) + float(P[h, t]) * V[h // 2, t].astype(float)
    assert np.array_equal(largest.T, states[:, :, 0])
    whole = mk.allreduce(np.repeat(states[:, None], 2, 1), mesh, op="logsumexp")[0]  # (heads, 2 + d)
    for h in range(heads):
        kernels.attend(h, P, largest, V, np.array([0, *ends]), *scheduled.order, False, found)
    np.testing.assert_array_equal(found, whole[:, 2:] * (np.float32(1) / whole[:, 1:2]))
    parts = [np.empty((heads, n, 1, 2 + d), np.float32) for n in (len(ends) // 3, len(ends) - len(ends) // 3)]
    for part, own in zip(parts, (slice(0, len(parts[0][0])), slice(len(parts[0][0]), None))):  # rows on two ranks
        bounds = np.array([0, *ends])[own.start : own.stop + 1 if own.stop is not None else None]
        for h in range(heads):
            kernels.row_states(h, P, np.ascontiguousarray(largest[:, own]), V, bounds, False, part)
    shared, states, (dst, src, root) = np.empty_like(found), np.concatenate(parts, axis=1), scheduled.order
    for h in range(heads):
        kernels.merge_rows(h, states, dst, src, False)
        kernels.divide(h, np.ascontiguousarray(states[:, root]), False, shared)
    assert shared.tobytes() == found.tobytes()
    p = np.exp(S.astype(float) - S.max(1, keepdims=True))
    exact = np.einsum("ht,htd->hd", p / p.sum(1, keepdims=True), V[[0, 0, 1, 1], : ends[-1]].astype(float))
    np.testing.assert_allclose(found, exact, atol=1e-6)


@pytest.mark.parametrize("grid", [(1, 1), (3, 3), (7, 3), (3, 7), (8, 4)], ids=str)
def test_sums_of_what_passes_by_are_those_of_a_column_of_ones(grid):
    """Partial values of whole numbers: the same sums as MeshGEMM makes of them with ones, on every column of cores."""
    mesh = mk.Mesh(*grid)
    used = Scheduled(mesh, (9, mesh.lcm, mesh.cols), algorithm="meshgemm")  # one element a block
    X = array(9, mesh.lcm)
    ones = np.ones((mesh.lcm, mesh.cols), np.float32)
    assert np.array_equal(used.passing_by(np.ascontiguousarray(X.T)), mk.gemm(X, ones, mesh, method="lockstep"))


@pytest.mark.parametrize("stacked", [1, 3])
@pytest.mark.parametrize("grid", [(1, 1), (2, 5), (7, 3), (8, 2), (24, 8)], ids=str)
def test_stacked_heads_have_the_bits_of_each_alone(grid, stacked):
    mesh, Q, K, V = mk.Mesh(*grid), array(stacked, 13, 22), array(13, 22), array(13, 6)
    scores = Scheduled(mesh, (13, 22, 13), algorithm="meshgemm_t", stacked=stacked, skewed="C")
    mixed = Scheduled(mesh, (13, 13, 6), algorithm="meshgemm", stacked=stacked, skewed="AB")
    S = scores.multiply(Q.reshape(-1, 22), K).reshape(stacked, 13, 13)
    O = mixed.multiply(S.reshape(-1, 13), V).reshape(stacked, 13, 6)
    for h in range(stacked):
        assert np.array_equal(S[h], mk.gemm_t(Q[h], K, mesh, method="lockstep"))
        assert np.array_equal(O[h], mk.gemm(S[h], V, mesh, method="lockstep"))


def test_rescaling_by_powers_of_two_changes_no_bit():
    """Each tile with an exponent of its own, rescaled as the tiles come, or one exponent for the whole row."""
    S, V = array(40) * 20, array(40, 3)
    whole = np.zeros(3, np.float32)
    p = np.exp2(S - np.ceil(S.max()))
    for t in range(40):
        whole = (whole.astype(float) + float(p[t]) * V[t].astype(float)).astype(np.float32)
    total, exponent = np.zeros(3, np.float32), -np.inf
    for t in range(0, 40, 8):
        own = np.ceil(S[t : t + 8].max())
        tile, new = np.exp2(S[t : t + 8] - own), max(exponent, own)
        total, exponent = total * np.float32(np.exp2(exponent - new)), new
        for i in range(8):
            q = float(tile[i]) * np.exp2(float(own - new))
            total = (total.astype(float) + q * V[t + i].astype(float)).astype(np.float32)
    small = np.finfo(np.float32).tiny
    assert (abs(p[p > 0]) > small).all() or np.allclose(total, whole, rtol=1e-6)
    np.testing.assert_allclose(total * np.exp2(exponent - np.ceil(S.max())), whole, rtol=1e-7)


# ------------------------------------------------------------------------------------------------------ the list
def test_the_list_in_words():
    plan = decode_plan(Layout(MODELS["GQA"], mk.Mesh(4)), 9, "fused")
    assert [op.name for op in plan.layer] == ["QKV", "RoPE", "append", "score", "softmax, mix", "attention out",
                                              "residual 1", "up, gate", "SiLU", "down", "residual 2"]
    assert plan.name == "fused" and [c[0] for op in plan.layer for used in op.schedules for c in used.collectives] == [
        "add", "add", "logsumexp", "add", "add", "add"]
    prompt = prefill_plan(Layout(MODELS["GQA"], mk.Mesh(4)), 9, plan="fused")
    algorithms = [used.algorithm for op in prompt.layer for used in op.schedules if used.multiplies]
    assert algorithms == ["meshgemm", "meshgemm_t", "meshgemm", "meshgemm", "meshgemm", "meshgemm"]
    assert not any(used.collectives for op in prompt.layer for used in op.schedules)


def test_attention_of_a_prompt_by_hand():
    """4 x 4 cores, one head, 8 tokens: K and V are skewed in 2 rounds, 4 + 4 products; S is never aligned."""
    plan = prefill_plan(Layout(tiny(1, 1, 8), mk.Mesh(4)), 8, plan="fused")
    score, mix = (line.work for line in plan.ledger() if line.name in ("score", "softmax, mix"))
    turns = 4 * (0 + 1 + 2 + 1)  # of the 4 columns, whose 4 tiles each move on
    tile = 2 * 2
    assert (score.steps, score.hops, score.stages) == (2 + 4, 2 * (2 + 4), 0)
    assert score.words == (turns + 4 * 4 * 3) * tile + 4 * 4 * 4 * tile + turns * 2 * 3  # K, S, V with a column of ones
    assert (mix.steps, mix.hops, mix.stages) == (4, 2 * 3, 0)
    assert mix.words == 4 * 4 * 3 * (tile + 2) + 4 * 4 * 3 * 2 * 3  # S with the exponents of its rows, V


@pytest.mark.parametrize("make", [lambda: Llama(Synthetic(tiny()), 2, plan="best"),
                                  lambda: decode_plan(Layout(tiny(), mk.Mesh(2)), 1, "best"),
                                  lambda: prefill_plan(Layout(tiny(), mk.Mesh(2)), 1, plan="best")])
def test_an_unknown_plan_is_refused(make):
    with pytest.raises(mk.MeshError, match="plan = 'best'; known: 'paper', 'fused'"):
        make()


# ------------------------------------------------------------------------------------------------- the real model
def test_what_is_not_normalised_needs_float32_sums(smollm2):
    """SmolLM2's residual stream ends at 28,048; X gain fits float16, products nearly fill it, squares never fit."""
    model, seen = Llama(smollm2, mk.Mesh(8), plan="fused"), {}
    gain, up, gate = (smollm2.tensor(f"blk.28.{name}.weight") for name in ("ffn_norm", "ffn_up", "ffn_gate"))
    model.hooks.append(lambda block, op, values: seen.setdefault((block, op.name), values[op.writes[0]]))
    model.prefill(smollm2.tokenizer.encode(PROMPTS["licence"])[:400])
    X = seen[28, "residual 1"].astype(float)
    sums = max(abs((X * gain) @ W.T).max() for W in (up, gate))
    assert abs(X * gain).max() < 50000 < sums < 65504 and (X * X).sum(1).max() > 1e4 * 65504
    assert sums < HEADROOM * 65504 / 8, "the headroom that float16 sums get"
