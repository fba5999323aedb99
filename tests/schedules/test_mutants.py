"""A seeded sample of the mutants; ``python -m tests.mutants --cases 10000 --seed 0`` judges many."""

from collections import Counter

import pytest

import meshkernels as mk
from tests import mutants


def test_a_sample_of_mutants_is_refused_or_right():
    verdicts: Counter[str] = Counter()
    for number, (name, done, text) in zip(range(300), mutants.mutants(seed=2025)):
        try:
            verdicts[mutants.judge(text)] += 1
        except Exception as error:
            pytest.fail(f"{number}: {name}: {done}: {type(error).__name__}: {error}")
    assert verdicts["refused"] > 150 and verdicts["right"] > 15, verdicts


@pytest.mark.parametrize("grid", [(1, 1), (2, 3), (4, 4), (1, 5)])
def test_the_judge_finds_what_is_not_mutated_right(grid):
    for schedule in mutants.built_ins([grid]):
        assert mutants.judge(schedule.to_json()) == "right", schedule.name


def test_the_judge_is_not_blind(monkeypatch):
    """Half a product, waved through by a proof that looks at nothing, is told to be wrong."""
    import dataclasses

    from meshkernels.schedules import verify

    good = mk.schedule("allgather", mk.Mesh(2), 4, 4, 4)
    gather, multiply = good.program
    half = dataclasses.replace(good, program=(gather, dataclasses.replace(multiply, compute=multiply.compute[:1])))
    assert mutants.judge(half.to_json()) == "refused"
    monkeypatch.setattr(mk.Schedule, "proof", property(lambda self: verify.__globals__["Proof"](None, None)))
    with pytest.raises(mutants.WrongResultError, match="another result than NumPy"):
        mutants.judge(half.to_json())
