"""What every test runs under: each backend that can be used here, a fixed seed, one thread, one hypothesis profile."""

import os

import hypothesis
import pytest
import torch
from installations import Installation
from recorded_tails import recorded_tails
from small_nets import NETS, make_nets
from user_blocks import WHOLE_TAIL, Block, copies

import fused_resnet
from fused_resnet.backends.kernels import availability, loading
from fused_resnet.backends.kernels import computation as kernels
from fused_resnet.backends.pytorch.computation import ReferenceComputation
from fused_resnet.operation.branches import Projection
from fused_resnet.operators import remembered

pytest_plugins = ["covering"]

# What torch.compile has made of another state of this package must not answer here.
os.environ.setdefault("TORCHINDUCTOR_FORCE_DISABLE_CACHES", "1")

hypothesis.settings.register_profile(
    "tails",
    deadline=None,  # the first call of a kernel may compile or load it
    max_examples=40,
    derandomize="CI" in os.environ,
    # The `backend` fixture holds for all examples of a test, as it should.
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile("tails")

# Tensors are small here: more threads cost more than they give, and pytest-xdist's workers would fight for the cores.
torch.set_num_threads(1)
# float32 means float32, as it does in the operations that results are compared with; tf32 has tests of its own.
torch.backends.cudnn.allow_tf32 = False


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="train the networks of test_training.py for 20 steps, not 3")


def pytest_collection_modifyitems(items):
    """What takes longest with every case begins first: no worker is left alone with it at the end."""
    items.sort(key=lambda item: item.path.name != "test_training.py")


USABLE = [name for name, reason in fused_resnet.available_backends().items() if reason is None]


def pytest_report_header():
    return fused_resnet.backend.summary()


def _marked(name):
    """Tests of the emulator are selected by ``-m emulated``, those that run on other backends as well included."""
    return pytest.param(name, marks=pytest.mark.emulated) if name == "emulated" else name


@pytest.fixture(params=map(_marked, USABLE))
def backend(request):
    """Name of the backend that the test runs on: each that can be used here, in turn."""
    with fused_resnet.use_backend(request.param):
        yield request.param


@pytest.fixture
def device(backend):
    """Where the tensors of a test of `backend` live."""
    return "cuda" if backend == "cuda" else "cpu"


@pytest.fixture
def computed_tails():
    """The list of (main, shortcut, activation) that are computed while the test runs."""
    with recorded_tails() as calls:
        yield calls


@pytest.fixture
def installation(monkeypatch):
    """An installation without kernels on a machine with two GPUs, of which others can be made."""
    monkeypatch.delenv("FUSED_RESNET_REQUIRE", raising=False)
    caches = (availability.missing_on, loading.was_built)
    for cached in caches:
        cached.cache_clear()
    yield Installation(monkeypatch)
    for cached in caches:
        cached.cache_clear()


@pytest.fixture
def pair():
    """A fused block of a user's and an unfused copy of it, in float64."""
    block, original = copies(Block())
    assert fused_resnet.fuse(block).fused == {"": WHOLE_TAIL}
    return block, original


@pytest.fixture(params=NETS)
def nets(request, backend, device):
    """A small fused network and its unfused copy: float32 where kernels compute, float64 where PyTorch does."""
    return make_nets(request.param, torch.float64 if backend == "reference" else torch.float32, device)


@pytest.fixture
def nothing_remembered(monkeypatch):
    """Every call takes the operators, as where somebody looks on."""
    remembered._modules.clear()
    monkeypatch.setattr(remembered, "_module_on", lambda gpu: None)
    yield
    remembered._modules.clear()


@pytest.fixture
def computed_by(monkeypatch, nothing_remembered):
    """Each tail that is computed: "kernels" or "reference", and whether its branches are projections."""
    found = []

    def noting(by, function):
        def call(of, tail, *args, **kwargs):
            found.append((by, [isinstance(branch, Projection) for branch in tail.branches]))
            return function(of, tail, *args, **kwargs)

        return call

    monkeypatch.setattr(ReferenceComputation, "forward", noting("reference", ReferenceComputation.forward))
    monkeypatch.setattr(kernels, "forward_call", noting("kernels", kernels.forward_call))
    return found
