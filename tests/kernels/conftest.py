"""What all tests of the kernels have in common."""

import pytest

from fused_resnet.strategy import use_strategy


@pytest.fixture(autouse=True)
def projections_by_the_kernels():
    """Projections are the kernels', whatever is faster on the GPU that the tests run on."""
    with use_strategy("moments"):
        yield
