import numpy as np
import pytest

from meshkernels.kernels.additions import additions


def names(parts, dst, src, rows, entries):
    """The wanted sums as nested sets {what was there, what was added}, as the list says and as the entries do."""
    listed = list(range(parts))
    for into, other in zip(dst, src):
        listed[into] = frozenset([listed[into], listed[other]])
    kept, places = {}, iter(entries.places.tolist())
    for part, count in zip(entries.parts.tolist(), entries.counts.tolist()):
        home = next(places)
        total = kept[home] if part < 0 else part
        for _ in range(count):
            total = frozenset([total, kept.pop(next(places)) if part >= 0 else kept[next(places)]])
        assert part < 0 or home not in kept, "a sum that is still needed is written over"
        kept[home] = total
    return [listed[row] for row in rows], [kept[place] for place in entries.wanted.tolist()]


def tree_of(random, parts):
    """Additions of a random forest in a random order, and its roots."""
    parent = [int(random.integers(0, part)) if part and random.random() < 0.9 else -1 for part in range(parts)]
    shuffled = random.permutation(parts)
    left = [sum(1 for other in parent if other == part) for part in range(parts)]
    waiting, dst, src = [part for part in range(parts) if not left[part]], [], []
    while waiting:
        part = waiting.pop(int(random.integers(len(waiting))))
        if parent[part] < 0:
            continue
        dst.append(int(shuffled[parent[part]]))
        src.append(int(shuffled[part]))
        left[parent[part]] -= 1
        if not left[parent[part]]:
            waiting.append(parent[part])
    return np.array(dst, np.int64), np.array(src, np.int64), np.flatnonzero(
        ~np.isin(np.arange(parts), np.array(src, np.int64)))  # fmt: skip


@pytest.mark.parametrize("seed", range(60))
def test_every_sum_has_the_additions_of_the_list_in_its_order(seed):
    random = np.random.default_rng(seed)
    parts = int(random.integers(1, 40))
    dst, src, roots = tree_of(random, parts)
    wanted = roots[random.permutation(len(roots))[: max(1, len(roots) // 2)]]
    found = additions(dst, src, wanted)
    assert (found.parts >= 0).all() and (np.diff(found.parts) > 0).all()  # a forest, in the order of rows
    expected, got = names(parts, dst, src, wanted, found)
    assert got == expected


@pytest.mark.parametrize("dst, src, rows", [
    ([0, 1], [1, 0], [0, 1]), ([0, 0], [1, 1], [0]), ([0], [0], [0]), ([0], [1], [1, 0]), ([0, 1], [1, 2], [0, 2])])
def test_other_lists_are_followed_addition_by_addition(dst, src, rows):
    dst, src, rows = (np.array(each, np.int64) for each in (dst, src, rows))
    expected, got = names(3, dst, src, rows, additions(dst, src, rows))
    assert got == expected


def test_of_nothing_wanted_nothing_is_computed():
    none = np.zeros(0, np.int64)
    assert additions(none, none, none).size == 0 == len(additions(np.array([1]), np.array([0]), none).parts)


def test_a_line_of_cores_needs_one_sum_in_memory_and_a_two_level_tree_as_many_as_a_group():
    line = additions(np.arange(1, 360), np.arange(359), np.array([359]))
    assert line.size == 1
    dst, src = [], []
    for begin in range(0, 360, 20):  # both halves of 20 towards the middle, then the middles towards the first
        dst += [*range(begin + 18, begin + 9, -1), *range(begin + 1, begin + 11)]
        src += [*range(begin + 19, begin + 10, -1), *range(begin, begin + 10)]
    dst += range(330, -10 + 20, -20)
    src += range(350, 10, -20)
    tree = additions(np.array(dst), np.array(src), np.array([10]))
    expected, got = names(360, dst, src, [10], tree)
    assert got == expected and tree.size < 40
