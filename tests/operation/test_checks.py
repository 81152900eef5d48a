"""Invalid calls: the documented error, a message that names the argument, and nothing written."""

import dataclasses
import itertools

import pytest
import torch
from compare import assert_as_accurate_as_unfused
from samples import Branch, Sample, build
from torch import nn

from fused_resnet import residual_tail
from fused_resnet.functional import Direct, Norm, Projection, ZeroPad
from fused_resnet.strategy import use_strategy

N, K, C, H, W = 2, 3, 6, 4, 4


def tensors(*shape, **options):
    return torch.randn(*shape, **options)


def norm(channels=C, **changes):
    """A norm with everything there is, but for the changes."""
    fields = {
        "weight": tensors(channels),
        "bias": tensors(channels),
        "running_mean": tensors(channels),
        "running_var": torch.rand(channels),
        "num_batches_tracked": torch.tensor(5),
    }
    return Norm(**{**fields, **changes})


def direct(*shape, norm=None, **options):
    return Direct(tensors(*(shape or (N, C, H, W)), **options), norm)


def normed(**changes):
    return direct(norm=norm(**changes))


def projection(**changes):
    fields = {"x": tensors(N, K, H, W), "weight": tensors(C, K, 1, 1), "norm": norm()}
    return Projection(**{**fields, **changes})


def meta(branch, name):
    return dataclasses.replace(branch, **{name: getattr(branch, name).to("meta")})


# How the message starts (which argument, what it was, what was expected), and the arguments that get it.
VALUES = {
    "main.weight has shape (6, 5, 1, 1), expected (C, 3, 1, 1)": lambda: (projection(weight=tensors(C, 5, 1, 1)), None),
    "main.weight has shape (6, 3, 3, 3), expected (C, 3, 1, 1)": lambda: (projection(weight=tensors(C, K, 3, 3)), None),
    "main.weight has shape (6, 3), expected (C, 3, 1, 1)": lambda: (projection(weight=tensors(C, K)), None),
    "main.x has shape (2, 6, 4), expected four dimensions: (N, C, H, W)": lambda: (direct(N, C, H), None),
    "shortcut.x has shape (6, 4, 4), expected four dimensions": lambda: (direct(), direct(C, H, W)),
    "shortcut gives shape (2, 5, 4, 4), expected main's (2, 6, 4, 4)": lambda: (normed(), direct(N, 5, H, W)),
    "shortcut gives shape (1, 6, 4, 4), expected main's (2, 6, 4, 4)": lambda: (normed(), direct(1, C, H, W)),
    "shortcut gives shape (2, 6, 2, 2), expected main's (2, 6, 4, 4) (shortcut.x (2, 3, 4, 4), stride 2)": lambda: (
        normed(),
        projection(stride=2),
    ),
    "main.stride is 0, expected an integer of at least 1": lambda: (projection(stride=0), None),
    "main.stride is (2, 2), expected an integer": lambda: (projection(stride=(2, 2)), None),
    "shortcut.out_channels is 6, expected at least shortcut.x's 7": lambda: (normed(), ZeroPad(tensors(N, 7, H, W), C)),
    "shortcut.placement is 'start', expected 'end' or 'both'": lambda: (
        normed(),
        ZeroPad(tensors(N, K, H, W), C, placement="start"),
    ),
    "main.bias has shape (3,), expected (6,)": lambda: (projection(bias=tensors(K)), None),
    "main.norm.weight has shape (5,), expected (6,)": lambda: (normed(weight=tensors(5)), None),
    "main.norm.bias has shape (1,), expected (6,)": lambda: (normed(bias=tensors(1)), None),
    "main.norm.running_mean has shape (1, 6), expected (6,)": lambda: (normed(running_mean=tensors(1, C)), None),
    "shortcut.norm.running_var has shape (7,), expected (6,)": lambda: (normed(), normed(running_var=tensors(7))),
    "main.norm has only one of running_mean and running_var, expected both": lambda: (normed(running_var=None), None),
    "shortcut.norm has only one of running_mean and": lambda: (normed(), normed(running_mean=None)),
    "main.norm.running_mean is None, expected running statistics where training is False": lambda: (
        direct(norm=Norm(training=False)),
        None,
    ),
    "main.norm.num_batches_tracked is None, expected a tensor where momentum is None": lambda: (
        normed(momentum=None, num_batches_tracked=None),
        None,
    ),
    "main.norm: Expected more than 1 value per channel when training, got input size torch.Size([1, 6, 1": lambda: (
        direct(1, C, 1, 1, norm=norm()),
        None,
    ),
    "shortcut.norm: Expected more than 1 value per channel": lambda: (
        direct(1, C, 1, 1),
        projection(x=tensors(1, K, 2, 2), stride=2),
    ),
    "main.weight is on meta, expected main.x's cpu": lambda: (meta(projection(), "weight"), None),
    "main.norm.running_var is on meta, expected main.x's cpu": lambda: (direct(norm=meta(norm(), "running_var")), None),
    "shortcut.norm.num_batches_tracked is on meta, expected shortcut.x's cpu": lambda: (
        direct(),
        direct(norm=meta(norm(), "num_batches_tracked")),
    ),
    "shortcut.x is on meta, expected main.x's cpu": lambda: (normed(), direct(device="meta")),
}
TYPES = {
    "main.x is torch.int64, expected one of torch.float32": lambda: (Direct(torch.ones(N, C, H, W).long()), None),
    "main.x is torch.complex64, expected one of torch.float32": lambda: (direct(dtype=torch.complex64), None),
    "main.weight is torch.float64, expected main.x's torch.float32": lambda: (
        projection(weight=tensors(C, K, 1, 1).double()),
        None,
    ),
    "main.bias is torch.float16, expected main.x's torch.float32": lambda: (projection(bias=tensors(C).half()), None),
    "main.norm.weight is torch.float16, expected torch.float32": lambda: (normed(weight=tensors(C).half()), None),
    "main.norm.running_mean is torch.bfloat16, expected torch.float16 or torch.float32": lambda: (
        direct(dtype=torch.float16, norm=norm(running_mean=tensors(C).bfloat16())),
        None,
    ),
    "shortcut.x is torch.float64, expected main.x's torch.float32": lambda: (normed(), direct(dtype=torch.float64)),
    "main is a Tensor, expected Direct, Projection or ZeroPad": lambda: (tensors(N, C, H, W), None),
    "main is a NoneType, expected Direct, Projection or ZeroPad": lambda: (None, direct()),
    "shortcut is a Tensor, expected Direct, Projection or ZeroPad": lambda: (normed(), tensors(N, C, H, W)),
    "main.x is a float, expected a tensor": lambda: (Direct(1.0), None),
    "main.weight is a float, expected a tensor": lambda: (projection(weight=1.0), None),
    "main.norm.weight is a float, expected a tensor or None": lambda: (normed(weight=1.0), None),
    "main.norm.num_batches_tracked is a int": lambda: (normed(num_batches_tracked=5), None),
    "main.norm is a BatchNorm2d, expected Norm or None": lambda: (direct(norm=nn.BatchNorm2d(C)), None),
}


def state(*branches):
    """Every tensor within the branches that has values, with its version."""
    holders = [b for b in branches if dataclasses.is_dataclass(b)]
    holders += [b.norm for b in holders if isinstance(b.norm, Norm)]
    found = [t for h in holders for t in vars(h).values() if isinstance(t, torch.Tensor) and not t.is_meta]
    return [(t, t._version, t.clone()) for t in found]


def assert_refused(error, message, make):
    branches = make()
    before = state(*branches)
    for strategy in ("moments", "library"):
        with use_strategy(strategy), pytest.raises(error) as caught:
            residual_tail(*branches)
        assert str(caught.value).startswith(message)
        for tensor, version, value in before:
            assert tensor._version == version
            assert torch.equal(tensor, value)


@pytest.mark.parametrize(("message", "make"), VALUES.items(), ids=VALUES)
def test_wrong_value_is_refused_and_nothing_written(message, make, backend):
    assert_refused(ValueError, message, make)


@pytest.mark.parametrize(("message", "make"), TYPES.items(), ids=TYPES)
def test_wrong_type_is_refused_and_nothing_written(message, make, backend):
    assert_refused(TypeError, message, make)


@pytest.mark.parametrize("activation", ["gelu", "ReLU", "", True])
def test_unknown_activation(activation, backend):
    branch = direct(norm=norm())
    before = state(branch)
    with pytest.raises(ValueError, match=f"activation is {activation!r}, expected 'relu' or None"):
        residual_tail(branch, None, activation=activation)
    assert all(tensor._version == version for tensor, version, _ in before)


def test_an_invalid_shortcut_leaves_a_valid_main_branch_alone(backend):
    main = projection()
    before = state(main)
    with pytest.raises(ValueError, match="shortcut"):
        residual_tail(main, direct(N, C, H, W + 1))
    assert all(tensor._version == version for tensor, version, _ in before)


def test_one_value_a_channel_is_the_unfused_error(backend):
    """A batch of one 1x1 image in training: ``F.batch_norm`` raises, and so does the tail, in the same words."""
    module = nn.BatchNorm2d(C)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel") as unfused:
        module(tensors(1, C, 1, 1))
    with pytest.raises(ValueError, match="Expected more than 1 value per channel") as fused:
        residual_tail(direct(1, C, 1, 1, norm=norm()), None)
    assert str(unfused.value) in str(fused.value)


def test_one_value_a_channel_is_fine_in_evaluation(device):
    sample = Sample(Branch("direct", "eval"), Branch("projection", "eval"), shape=(1, C, 1, 1))
    assert_as_accurate_as_unfused(*build(sample, device))


@pytest.mark.parametrize("strategy", ["moments", "library"])
@pytest.mark.parametrize("source", ["direct", "projection"])
def test_vectors_of_different_dtypes_either_work_or_are_refused(source, strategy, device):
    """PyTorch refuses some of them in the middle of a batch norm; the tail does so before it counts the batch."""
    sample = Sample(Branch(source, "training"), None, dtype=torch.bfloat16)
    for dtypes in itertools.product((torch.bfloat16, torch.float32), repeat=3):
        tail, inputs, _ = build(sample, device)
        norm = tail.main.norm
        norm.weight.data, norm.bias.data = norm.weight.data.to(dtypes[0]), norm.bias.data.to(dtypes[1])
        norm.running_mean, norm.running_var = norm.running_mean.to(dtypes[2]), norm.running_var.to(dtypes[2])
        with use_strategy(strategy):
            try:
                assert tail.fused(inputs).isfinite().all()
            except TypeError:
                assert norm.num_batches_tracked == 0
