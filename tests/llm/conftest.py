"""The real model, opened and placed once for all tests that need it (fetched on first use)."""

import pytest

from meshkernels import Mesh, weights
from meshkernels.llm import Llama


@pytest.fixture(scope="session")
def smollm2() -> weights.Checkpoint:
    return weights.load()


@pytest.fixture(scope="session")
def smollm2_on_24(smollm2) -> Llama:
    return Llama(smollm2, Mesh(24))
