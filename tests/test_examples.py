"""Each example runs and prints what it is there to show."""

import pytest

from meshkernels import examples
from meshkernels.__main__ import main
from meshkernels.algorithms import _FAMILIES

SHOWS = {
    "own_algorithm": ["agree bit for bit: True", "fox", "cycles predicted"],
    "own_device": ["WSE-2", "token/s"],
    "own_measurements": ["+-", "4096^3 on 512 x 512 cores:"],
    "stepping": ["cannon: ", "meshgemm: ", "right: True"],
    "capacity": ["200 x 200 cores, concat", "shift"],
}


@pytest.fixture(autouse=True)
def registry():
    """What an example registers is gone after it."""
    before = {family: dict(members) for family, members in _FAMILIES.items()}
    yield
    for family, members in _FAMILIES.items():
        members.clear()
        members.update(before[family])


@pytest.mark.parametrize("name", SHOWS)
def test_example(name, capsys):
    assert main(["examples", name]) == 0
    out = capsys.readouterr().out
    assert all(text in out for text in [name, *SHOWS[name]]), out


def test_all_are_listed_and_have_a_caption(capsys):
    assert set(examples.known()) == set(SHOWS)
    assert main(["examples", "--list"]) == 0
    assert capsys.readouterr().out.count("== ") == len(SHOWS)
    assert main(["examples", "own_devise"]) == 2
    err = capsys.readouterr().err
    assert "unknown example 'own_devise'; known: capacity, own_algorithm" in err and "did you mean 'own_device'" in err
