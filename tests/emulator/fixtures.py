"""Fixtures of the tests of the emulator: a pytest plugin that those tests ask for by name."""

import pytest
import torch
from emulator.library import Emulator, Gpu


@pytest.fixture(scope="session")
def emulator_cache(pytestconfig, tmp_path_factory):
    cache = getattr(pytestconfig, "cache", None)  # pytest can be run without
    return tmp_path_factory.mktemp("emulator") if cache is None else cache.mkdir("emulator")


@pytest.fixture(scope="session")
def emulator(emulator_cache):
    return Emulator(emulator_cache)


@pytest.fixture(scope="session")
def gpu(emulator_cache):
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    return Gpu(emulator_cache)


@pytest.fixture(scope="session", params=["emulator", "gpu"])
def machine(request):
    """What kernels run on: what holds for the emulator must hold for a GPU."""
    return request.getfixturevalue(request.param)


@pytest.fixture(params=[0, 1, 2])
def seed(request, emulator):
    """Orders in which the emulator runs threads."""
    emulator.set_seed(request.param)
    yield request.param
    emulator.set_seed(0)
