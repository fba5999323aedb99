"""`verify`: each rule has a schedule that breaks it; orders are derived; induction agrees with walking every step."""

from dataclasses import replace

import numpy as np
import pytest

import meshkernels as mk
from meshkernels import schedules as S
from meshkernels.schedules.order import derive
from meshkernels.schedules.verify import finish
from meshkernels.schedules.walk import Walk
from tests import mutants, oracle
from tests.handmade import any_order, bent_allreduce

SUMMA = mk.schedule("summa", mk.Mesh(2, 3), 6, 6, 6)
CANNON = mk.schedule("cannon", mk.Mesh(3), 6, 6, 6)
CHAIN = mk.schedule("chain", mk.Mesh(4, 2), 8, 6)
RING = mk.schedule("ring", mk.Mesh(3, 2), 6, 6)
GEMM_T = mk.schedule("gemm_t", mk.Mesh(3), 6, 6, 6)
ALLTOALL = mk.schedule("alltoall", mk.Mesh(2, 3), 2)
TRANSPOSE = mk.schedule("transpose", mk.Mesh(2, 3), 4, 5)
BENT = bent_allreduce(mk.Mesh(3, 2))


def _program(schedule, *program):
    return replace(schedule, program=program)


def _buffers(schedule, **changes):
    return replace(schedule, buffers={**schedule.buffers, **changes})


def _step(step, n, **changes):
    """``step`` with its n-th move changed."""
    return replace(step, moves=(*step.moves[:n], replace(step.moves[n], **changes), *step.moves[n + 1 :]))


load, into_root, out = CHAIN.program
send, body, rest = SUMMA.program
align, turn, last = CANNON.program
shift, gather = RING.program[1].body[0], RING.program[2]
keep, exchange, read = ALLTOALL.program

BROKEN = [
    # holdings
    (_program(SUMMA, body, rest), r"step 0 \(broadcast\): core \(0, 0\) does not hold a tile in 'A panel'"),
    (
        _program(SUMMA, _step(send, 0, route=S.Multicast(1, S.line(1, [-1, 0, 0]))), body, rest),
        r"step 1 .*core \(0, 0\) does not hold a tile in 'A panel'",
    ),
    (
        _program(SUMMA, _step(send, 1, slot=1), body, rest),
        "do not|does not hold tiles of 'A panel' and 'B panel' that belong",
    ),
    (
        _program(
            CANNON, align, replace(turn, body=(_step(turn.body[0], 1, route=S.Shift(0, mk.Ring.natural(3), 2)),)), last
        ),
        r"step 2 \(shift\): core \(\d, \d\) does not hold tiles of 'A' and 'B' that belong to the same part",
    ),
    (
        _buffers(SUMMA, A=replace(SUMMA.buffers["A"], home=None)),
        r"step 0 .*core \(0, 0\) is sent a slot of 'A' that holds nothing",
    ),
    # overwriting
    (
        _buffers(CANNON, A=replace(CANNON.buffers["A"], copies=1)),
        r"step \d+ .*buffer 'A' is overwritten while it is read: .*copies = 2",
    ),
    (_buffers(SUMMA, **{"B panel": S.Tiles("B")}), r"step 1 .*buffer 'B panel' is overwritten while it is read"),
    (_buffers(CHAIN, y=S.Values((1, 3))), "step 1 .*buffer 'y' is overwritten while it is read"),
    (
        _program(SUMMA, replace(send, moves=send.moves * 2), body, rest),
        r"core \(0, 0\) receives two messages in one slot of 'A panel'",
    ),
    (
        _program(CANNON, align, replace(turn, body=(replace(turn.body[0], moves=turn.body[0].moves * 2),)), last),
        "two moves arrive in buffer '[AB]'",
    ),
    (
        _program(BENT, *BENT.program, S.Step("all", moves=S.Move("y", S.Permute(0, 0)))),
        "receives two messages in one slot of 'y'",
    ),
    # contributions
    (
        _program(SUMMA, send, replace(body, times=2), rest),
        "does not hold all contributions to the block .* slot 0 of its buffer 'C'",
    ),
    (
        _program(SUMMA, send, body, rest, rest),
        r"core \(0, 0\) adds more contributions to a number in 'C' than there are",
    ),
    (
        _program(
            SUMMA,
            send,
            replace(body, body=(replace(body.body[0], compute=(replace(body.body[0].compute[0], accumulate=False),)),)),
            rest,
        ),
        "does not hold all contributions",
    ),
    (
        _program(
            CHAIN,
            load,
            replace(into_root, moves=(replace(into_root.moves[0], route=S.Reduce(0, S.line(0, [2, 2, 2, -1]))),)),
            out,
        ),
        "does not hold all contributions",
    ),
    (_program(CHAIN, load, into_root, into_root), r"core \(0, 0\) adds up numbers in 'y' that are no longer valid"),
    (_program(CHAIN, load, into_root, load, into_root, into_root), "no longer valid"),
    (
        _program(
            CHAIN,
            load,
            replace(into_root, moves=(replace(into_root.moves[0], route=S.Reduce(0, S.line(0, [1, 2, 2, 2]))),)),
        ),
        r"core \(0, 0\) streams 'y' to a core that is not the root of its own group",
    ),
    (
        _program(CHAIN, load, into_root, replace(out, moves=(replace(out.moves[0], route=S.Multicast(0, 0)),))),
        r"core \(\d, \d\) is sent a slot of 'y' that holds nothing",
    ),
    (
        _program(RING, RING.program[0], S.Repeat(3, shift), gather),
        "added up more often|combined with numbers of another",
    ),
    (_program(BENT, *BENT.program[:-1]), "does not hold all contributions"),
    (_program(BENT, *BENT.program, BENT.program[-1]), "added up more often than there are contributions"),
    (
        _program(
            GEMM_T,
            replace(
                GEMM_T.program[0],
                body=(
                    replace(
                        GEMM_T.program[0].body[0],
                        compute=(replace(GEMM_T.program[0].body[0].compute[0], accumulate=True),),
                    ),
                ),
            ),
            GEMM_T.program[1],
        ),
        "adds to numbers in 'partial' that have been sent on",
    ),
    # where the result lies
    (
        replace(CANNON, collect=S.Collect("C", S.Place(S.line(0, [1, 0, 2]), S.line(1, range(3))))),
        r"at the end core \(0, 0\) does not hold the block .* collected from slot 0 of its buffer 'C'",
    ),
    (
        replace(CANNON, collect=S.Collect("C", S.Place(0, S.line(1, range(3))))),
        r"block \(0, 0\) of the result is collected 3 times",
    ),
    (
        replace(CANNON, collect=S.Collect("C", S.Place(S.line(0, [0, 1, -1]), S.line(1, range(3))))),
        r"block \(2, 0\) .*collected 0 times",
    ),
    (replace(CANNON, collect=S.Collect("A", CANNON.collect.place)), "collect: 'A' is not a buffer of Values"),
    (_program(ALLTOALL, keep, exchange), "does not hold all contributions"),
    (_program(ALLTOALL, keep, read), "does not hold a tile in 'got'"),
    (
        _program(TRANSPOSE, replace(TRANSPOSE.program[0], moves=TRANSPOSE.program[0].moves[1:])),
        "does not hold all contributions",
    ),
    # routes, types and ranges
    (
        _program(SUMMA, _step(send, 0, route=S.Multicast(1, 3)), body, rest),
        "cores 3 to 3 of a line are named; there are 3",
    ),
    (_program(SUMMA, _step(send, 0, route=S.Multicast(2, 0)), body, rest), "axis is 2"),
    (_program(SUMMA, _step(send, 0, combine="add"), body, rest), "tiles cannot be combined"),
    (_program(SUMMA, _step(send, 0, route=S.Reduce(1, 0)), body, rest), "tiles cannot be combined"),
    (_program(SUMMA, _step(send, 0, into="B panel"), body, rest), "'B panel' holds tiles of 'B'"),
    (_program(SUMMA, _step(send, 0, into="C"), body, rest), "'C' is of another kind"),
    (_program(SUMMA, _step(send, 0, into="D"), body, rest), "there is no buffer 'D'"),
    (_program(SUMMA, _step(send, 0, slot=3), body, rest), "slot 3 to 3 of 2"),
    (_program(SUMMA, _step(send, 0, slot=None, into_slot=None), body, rest), "all slots are sent"),
    (
        _program(CANNON, align, replace(turn, body=(_step(turn.body[0], 0, route=S.Shift(1, ((0, 1, 1),))),)), last),
        "cycles must visit cores 0 to 2 of a line, each once",
    ),
    (
        _program(
            CANNON,
            replace(align, body=(_step(align.body[0], 0, route=S.Shift(1, mk.Ring.natural(3), S.line(1, range(3)))),)),
            turn,
            last,
        ),
        "by must be the same on a whole line of axis 1",
    ),
    (
        _program(CHAIN, load, replace(into_root, moves=(replace(into_root.moves[0], combine=None),)), out),
        "a Reduce needs combine = 'add'",
    ),
    (
        _program(CHAIN, load, replace(into_root, moves=(replace(into_root.moves[0], combine="max"),)), out),
        "combine is 'max', the task's op 'add'",
    ),
    (
        _program(CHAIN, load, into_root, replace(out, moves=(replace(out.moves[0], combine="add"),))),
        "what is broadcast replaces",
    ),
    (_program(ALLTOALL, keep, exchange, S.Step("read", [replace(op, transposed=True) for op in read.compute])), "."),
    (_program(CHAIN, S.Step("load", S.Copy("x", "y", piece=None)), into_root), "multiplies tiles, it copies none"),
    (replace(CHAIN, task=S.Task("mean", ("x", "W"))), "task.kind is 'mean'; known"),
    (replace(CHAIN, task=S.Task("product", ("x",))), "takes 2 operand"),
    (replace(CHAIN, task=S.Task("product", ("x", "W"), "max")), "task.op is 'max'"),
    (replace(CANNON, result=mk.Tiling((6, 5), (3, 3))), "the task makes"),
    (_buffers(CANNON, C=S.Values((2, 3))), "buffer 'C' has shape = "),
    (_buffers(CANNON, C=S.Values((2, 2), dtype="stored")), "adds up, in 'sum'"),
    (_buffers(CANNON, C=S.Values((2, 2), dtype="float16")), "dtype = 'float16'"),
    (_buffers(CANNON, A=S.Tiles("Z")), "holds operand 'Z'"),
    (_program(CANNON, S.Repeat(1, S.Repeat(1, S.Repeat(1, CANNON.program[1:])))), "two deep at most"),
    (_program(CANNON), "no steps"),
    (_program(CANNON, S.Repeat(-1, align), turn, last), "times = -1"),
]


@pytest.mark.parametrize(
    ("broken", "says"), BROKEN, ids=lambda each: each.name if isinstance(each, mk.Schedule) else each[:40]
)
def test_refused(broken, says):
    for call in (mk.verify, mk.count):
        with pytest.raises(mk.ScheduleError, match=f"(?s){says}"):
            call(broken)


def test_unbroken():
    for schedule in (SUMMA, CANNON, CHAIN, RING, GEMM_T, ALLTOALL, TRANSPOSE, BENT):
        assert mk.verify(schedule) is mk.verify(schedule), "proved once"


def test_a_schedule_without_moves_is_refused():
    bare = replace(CANNON, program=(S.Repeat(3, S.Step("multiply", S.Multiply("A", "B", "C"))),))
    with pytest.raises(mk.ScheduleError, match="belong to the same part of the contraction"):
        mk.gemm(np.eye(6), np.eye(6), mk.Mesh(3), algorithm=bare)


@pytest.mark.parametrize("row_first", [False, True])
def test_round_a_bend(row_first):
    schedule = bent_allreduce(mk.Mesh(4, 3), 2, row_first)
    x = np.random.default_rng(0).integers(-9, 9, (4, 6)).astype(float)
    for method in ("fused", "lockstep"):
        assert np.array_equal(mk.run(schedule, {"x": x}, method=method), x.sum(0, keepdims=True))


# ------------------------------------------------------------------------------------------------------- induction
def test_a_pipeline_that_skips_blocks_is_not_leapt_over():
    """Panels are filled before: chains k, k + 1, then k + 3, k + 5 ...; one block twice and another never."""
    P = 7
    r, T, C = range(P), mk.Tiling((P, P), (P, P)), S.Values((1, 1))
    y, x = S.line(0, r), S.line(1, r)

    def block(ahead):
        return S.Index([(k + ahead) % P for k in r], y=r, x=r)

    ring = tuple(-np.arange(P) % P)
    buffers = {"A": S.Tiles("A", home=S.Place(y, block(1)), copies=2), "C": C,
               "B": S.Tiles("B", home=S.Place(block(1), x), copies=2),
               "a": S.Tiles("A", home=S.Place(y, block(0)), copies=2),
               "b": S.Tiles("B", home=S.Place(block(0), x), copies=2)}  # fmt: skip
    step = S.Step("go", S.Multiply("a", "b", "C"), [
        S.Move("A", S.Multicast(1, x), into="a"), S.Move("B", S.Multicast(0, y), into="b"),
        S.Move("A", S.Shift(1, (ring,), 2)), S.Move("B", S.Shift(0, (ring,), 2))])  # fmt: skip
    wrong = S.Schedule("skips", S.Task("product", ("A", "B")), mk.Mesh(P), {"A": T, "B": T}, T, buffers,
                       (S.Repeat(P, step),), S.Collect("C", S.Place(y, x)))  # fmt: skip
    with pytest.raises(mk.ScheduleError, match="contributions"):
        mk.verify(wrong)


def test_a_sum_that_grows_once_does_not_grow_for_ever():
    """F goes to E, and E to G one iteration later: G holds one product, then two, and two for ever."""
    T = 8
    k = S.Index(range(T), step=1)
    buffers = {"A": S.Tiles("A", T, S.Place(0, k)), "B": S.Tiles("B", T, S.Place(k, 0)),
               **{n: S.Values((1, 1), copies=2) for n in "DEFG"}}  # fmt: skip

    def multiply(k, into, accumulate=True):
        return S.Multiply("A", "B", into, k, k, accumulate=accumulate)

    own = S.Multicast(1, 0)
    program = (S.Step("know the ring", [multiply(k, "D") for k in range(T)]),
               S.Step("close the ring", [multiply(T - 1, "D", False), multiply(0, "D")]),
               S.Step("before", [multiply(0, "E", False), multiply(0, "G", False)]),
               S.Repeat(T, S.Step("delay", [multiply(0, "F", False), multiply(1, "F")],
                                  [S.Move("E", own, into="G"), S.Move("F", own, into="E")])))  # fmt: skip
    A, B, C = mk.Tiling((1, T), (1, T)), mk.Tiling((T, 1), (T, 1)), mk.Tiling((1, 1), (1, 1))
    wrong = S.Schedule("delay", S.Task("product", ("A", "B")), mk.Mesh(1), {"A": A, "B": B}, C, buffers, program,
                       S.Collect("G", S.Place(0, 0)))  # fmt: skip
    with pytest.raises(mk.ScheduleError, match="does not hold all contributions"):
        mk.verify(wrong)


@pytest.mark.parametrize("change", [
    lambda step: replace(step, moves=(step.moves[0], replace(step.moves[1], into_slot=0))),
    lambda step: replace(step, moves=step.moves[1:]),
    lambda step: replace(step, moves=(replace(step.moves[0], route=replace(step.moves[0].route, by=2)), step.moves[1])),
    lambda step: replace(step, moves=(step.moves[0], replace(step.moves[1], route=S.Reduce(1, 2, low_first=True)))),
], ids=["one slot for two blocks", "B stays", "B skips", "one root for all"])  # fmt: skip
def test_what_is_only_written_is_still_looked_at(change):
    """gemm_t leaps over iterations that leave the result apart; a slot written twice, or another block, is found."""
    good = mk.schedule("gemm_t", mk.Mesh(18, 9), 18, 9, 18)
    assert isinstance(mk.verify(good).order, S.ChainSum)
    repeat, last = good.program
    with pytest.raises(mk.ScheduleError):
        mk.verify(replace(good, program=(replace(repeat, body=(change(repeat.body[0]),)), last)))


class EveryStep(Walk):
    """Walks all iterations of all repeats."""

    inducts = False


def _finished(kind, schedule):
    walk = kind(schedule)
    walk.run(schedule.program)
    finish(walk)
    return walk


def _same(one, other, shape):
    return np.array_equal(np.broadcast_to(one, shape), np.broadcast_to(other, shape))


@pytest.mark.parametrize(
    "mesh", [(9, 9), (12, 12), (13, 13), (8, 16), (16, 8), (9, 6), (15, 5), (5, 20), (17, 1), (1, 16), (10, 15)]
)
def test_induction_agrees_with_walking_everything(mesh):
    leapt = 0
    for schedule in mutants.built_ins([mesh]):
        quick, slow = (_finished(kind, schedule) for kind in (Walk, EveryStep))
        leapt += quick.walked < slow.walked
        assert quick.index == slow.index == len(schedule.steps)
        for name in schedule.buffers:
            shape, one, other = (*mesh, schedule.slots(name)), quick.state(name), slow.state(name)
            assert set(one) == set(other), "both know as much"
            for key in ("down", "across", "held") if name in quick.tiles else ("down", "across", "part", "weight"):
                assert _same(one[key], other[key], shape), (schedule.name, name, key)
        one, other = (derive(walk) for walk in (quick, slow))
        assert type(one) is type(other), schedule.name
        if isinstance(one, S.RingOrder):
            for field in ("row_start", "col_start", "blocks"):
                assert np.array_equal(getattr(one, field), getattr(other, field)), schedule.name
    assert leapt or 1 in mesh, "what is tested here is the leap"


def test_errors_behind_a_leap_are_found():
    """One iteration too many, or too few, of a long repeat; and a fault in the step after it."""
    good = mk.schedule("meshgemm", mk.Mesh(40), 40, 40, 40)
    align, shift, last = good.program
    for program in ((align, replace(shift, times=38), last), (align, replace(shift, times=40), last),
                    (align, shift, last, last),
                    (align, replace(shift, times=79), last), (replace(align, times=19), shift, last)):  # fmt: skip
        with pytest.raises(mk.ScheduleError):
            mk.verify(replace(good, program=program))


# ---------------------------------------------------------------------------------------------------------- orders
@pytest.mark.parametrize("P", [1, 2, 3, 4, 5, 8, 9, 12, 13, 31])
@pytest.mark.parametrize(("name", "order"), [("meshgemm", oracle.meshgemm_order), ("cannon", oracle.cannon_order),
                                             ("summa", oracle.natural_order), ("summa_relay", oracle.natural_order),
                                             ("allgather", oracle.natural_order),
                                             ("hsumma", oracle.natural_order)])  # fmt: skip
def test_derived_order_is_the_published_one(name, order, P):
    found = mk.verify(mk.schedule(name, mk.Mesh(P), 2 * P, 3 * P, 2 * P)).order
    assert isinstance(found, S.RingOrder) and (found.block, found.row_tile, found.col_tile) == (3, 2, 2)
    for y in range(P):
        for x in range(P):
            chain = [int(found.blocks[(found.row_start[y] + found.col_start[x] + t) % P]) for t in range(P)]
            assert chain == order(P, y, x)


@pytest.mark.parametrize("P", range(1, 10))
def test_meshgemm_t_is_a_rotation_too(P):
    """C(y, k) meets block x of the contraction at time t = pi(y) + pi(x) - pi(k): in the order of pi, from x = ..."""
    found = mk.verify(mk.schedule("meshgemm_t", mk.Mesh(P), P, P, P)).order
    assert isinstance(found, S.RingOrder)
    for y in range(P):
        for k in range(P):
            chain = [int(found.blocks[(found.row_start[y] + found.col_start[k] + t) % P]) for t in range(P)]
            assert chain == [oracle.rho(oracle.pi(k, P) - oracle.pi(y, P) + t, P) for t in range(P)]


def test_other_orders():
    assert isinstance(mk.verify(GEMM_T).order, S.ChainSum)
    for axis in (0, 1):
        found = mk.verify(mk.schedule("ktree", mk.Mesh(4, 3), 8, 6, axis=axis)).order
        assert found == S.SplitSum(axis)
    for schedule in (
        any_order(mk.Mesh(5), 5, 5, 5),
        mk.schedule("cannon25d", mk.Mesh(4, 8), 4, 4, 4),
        ALLTOALL,
        TRANSPOSE,
        BENT,
    ):
        assert mk.verify(schedule).order is None


def test_roots_that_differ_from_row_to_row_are_no_two_sided_chain():
    R, P = 2, 4
    A, B, C = mk.Tiling((R * 3, P * 5), (R, P)), mk.Tiling((P * 2, P * 5), (P, P)), mk.Tiling((R * 3, P * 2), (R, P))
    y, x = S.line(0, range(R)), S.line(1, range(P))
    buffers = {"A": S.Tiles("A", home=S.Place(y, x)), "C": S.Values(C.tile, 1), "p": S.Values(C.tile, P),
               "B": S.Tiles("B", P, S.Place(S.Index(range(P), step=1), x))}  # fmt: skip
    moves = [S.Move("p", S.Reduce(1, S.Index(range(P), y=[j, j + 1]), True), j, "C", 0, "add") for j in range(P)]
    step = S.Step("all", [S.Multiply("A", "B", "p", 0, j, j, True, False) for j in range(P)], moves)
    schedule = S.Schedule("roots", S.Task("product_t", ("A", "B")), mk.Mesh(R, P), {"A": A, "B": B}, C, buffers,
                          (step,), S.Collect("C", S.Place(y, S.Index(range(P), y=[0, -1], x=range(P)))))  # fmt: skip
    a, b = (np.random.default_rng(0).standard_normal(t.shape).astype(np.float32) for t in (A, B))
    fused, lockstep = (mk.run(schedule, {"A": a, "B": b}, method=how) for how in ("fused", "lockstep"))
    assert mk.verify(schedule).order is None and fused.tobytes() == lockstep.tobytes()
    np.testing.assert_allclose(fused, a @ b.T, rtol=1e-4, atol=1e-4)


def test_what_the_first_products_were_is_not_forgotten():
    """Between the steps of gemm_t blocks of A and B move on along x, alike: each element's chain begins elsewhere."""
    P = 4
    good = mk.schedule("gemm_t", mk.Mesh(P), 3 * P, 5 * P, 2 * P)
    repeat, last = good.program
    turn = S.Step("turn", moves=[S.Move(n, S.Multicast(1, S.line(1, [3, 0, 1, 2])), 0) for n in "AB"])
    turned = replace(good, buffers=good.buffers | {"A": replace(good.buffers["A"], copies=2)},
                     program=(replace(repeat, body=(*repeat.body, turn)), last, turn))  # fmt: skip
    rng = np.random.default_rng(0)
    A, B = (rng.standard_normal(shape).astype(np.float32) for shape in ((3 * P, 5 * P), (2 * P, 5 * P)))
    fused, lockstep = (mk.run(turned, {"A": A, "B": B}, method=how) for how in ("fused", "lockstep"))
    assert fused.tobytes() == lockstep.tobytes()
    np.testing.assert_allclose(fused, A @ B.T, rtol=1e-4, atol=1e-4)


def test_a_vector_that_is_put_right_after_the_product_is_no_split_sum():
    P = 5
    good = mk.schedule("pipeline", mk.Mesh(P, 2), 4 * P, 6)
    turned, x = S.line(0, [1, 2, 3, 4, 0]), S.line(1, range(2))
    buffers = good.buffers | {"x": S.Tiles("x", home=S.Place(0, turned), copies=2),
                              "W": S.Tiles("W", home=S.Place(turned, x), copies=2)}  # fmt: skip
    back = S.Step("back", moves=[S.Move(n, S.Multicast(0, S.line(0, [4, 0, 1, 2, 3]))) for n in "xW"])
    schedule = replace(good, buffers=buffers, program=(*good.program, back))
    assert mk.verify(schedule).order is None
    rng = np.random.default_rng(0)
    x, W = (rng.standard_normal(shape).astype(np.float32) for shape in ((1, 4 * P), (4 * P, 6)))
    fused, lockstep = (mk.run(schedule, {"x": x, "W": W}, method=how) for how in ("fused", "lockstep"))
    assert fused.tobytes() == lockstep.tobytes()
    np.testing.assert_allclose(fused, x @ W, rtol=1e-4, atol=1e-4)


def test_no_schedule_can_be_made_to_fit_the_weights():
    """They are drawn anew in every process: here, in two."""
    import subprocess
    import sys

    code = "from meshkernels.schedules.contributions import _weights; print(_weights(9).tolist())"
    one, other = (subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
                  for _ in range(2))  # fmt: skip
    assert one != other and len(one.split()) == len(other.split()) == 9


def test_a_long_line_can_be_counted():
    ledger = mk.count(mk.schedule("summa", mk.Mesh(4200, 1), 4200, 8, 8))
    assert ledger.macs.sum() == 4200 * 8 * 8 and ledger.steps == 4201


def test_numbers_that_every_iteration_starts_anew_are_not_leapt_over():
    """Products that replace the sum leave the last block; a shift too many, and that block comes twice."""
    P, T = 5, 6
    s = mk.schedule("meshgemm", mk.Mesh(P), 10, 10, 10)
    align, repeat, _ = s.program
    (step,) = repeat.body
    fresh = replace(step, compute=replace(step.compute[0], accumulate=False))
    for extra in range(P):  # k after the repeat, then P - 1 more, begun ``extra`` shifts late: right only without any
        late = S.Repeat(extra, S.Step("shift", moves=step.moves))
        program = (align, S.Repeat(T, fresh), late, S.Repeat(P - 1, step))
        wrong = replace(s, program=program)
        if extra == 0:
            A, B = np.arange(200.0).reshape(2, 10, 10)
            assert np.array_equal(mk.run(wrong, {"A": A, "B": B}), A @ B)
        else:
            with pytest.raises(mk.ScheduleError, match=r"all contributions, each of them once|more contributions"):
                mk.verify(wrong)


def test_a_contraction_of_more_blocks_than_a_proof_can_number_is_refused():
    s = mk.schedule("summa", mk.Mesh(1), 2, 2, 2)
    cut = {"A": replace(s.operands["A"], grid=(1, 1 << 30)), "B": replace(s.operands["B"], grid=(1 << 30, 1))}
    with pytest.raises(mk.ScheduleError, match="1073741824 blocks; 4194304 at most"):
        mk.verify(replace(s, operands=cut))
