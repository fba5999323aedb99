"""Shared by all tests: hypothesis without deadlines (the first call of a kernel compiles it), and the real model."""

import pytest
from hypothesis import HealthCheck, settings

from meshkernels import Mesh

settings.register_profile("mesh", deadline=None, max_examples=120, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("mesh")


@pytest.fixture
def figures_closed():
    """Closes the figures of a test, and holds matplotlib's settings to what they were."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    before = dict(mpl.rcParams)
    yield
    plt.close("all")
    assert dict(mpl.rcParams) == before


@pytest.fixture(scope="session")
def smollm2():
    """The checkpoint, opened once for all tests that need it (fetched on first use)."""
    from meshkernels import files

    return files.load()


@pytest.fixture(scope="session")
def smollm2_on_24(smollm2):
    """The model placed on 24 x 24 cores."""
    from meshkernels.llm import Llama

    return Llama(smollm2, Mesh(24))


@pytest.fixture(scope="session")
def smollm2_fused(smollm2):
    """The model on a rectangle of cores that divides little, under the fused plan."""
    from meshkernels.llm import Llama

    return Llama(smollm2, Mesh(10, 9), plan="fused")
