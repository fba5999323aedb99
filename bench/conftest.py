"""Which benchmarks run: those that this process has threads for, and in a quick run only those that are short.

A quick run measures on one thread, and leaves out what is marked ``large`` and the sweep of `bench_host`, which has a
command of its own.
"""

import numba
import pytest

from bench.measure import quick


def _threads(item: pytest.Item) -> int:
    return item.callspec.params.get("threads", 1) if hasattr(item, "callspec") else 1


def pytest_collection_modifyitems(config, items):
    """Leave out what a quick run has no time for."""
    left_out = [item for item in items if quick() and (
        _threads(item) > 1 or item.get_closest_marker("large") or item.path.stem == "bench_host")]  # fmt: skip
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(autouse=True)
def enough_threads(request):
    wanted = _threads(request.node)
    if wanted > (most := numba.config.NUMBA_NUM_THREADS):
        pytest.skip(f"{wanted} threads: this process may start {most} (cores, or NUMBA_NUM_THREADS)")
