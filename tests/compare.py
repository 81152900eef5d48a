"""The accuracy rule of every test: a result must be about as accurate as PyTorch's own operations.

All computations start from the same (rounded) numbers. The error of a tensor is the norm of its difference from the
result in float64. `fused_resnet.doctor.accuracy` says how large it may be.

A relu's mask flips on rounding, and one flipped element outweighs all rounding errors. Gradients are therefore
compared under the mask of the tested output: all computations but the tested one end before the relu, and the incoming
gradient is masked instead.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from samples import Tail
from torch import Tensor, nn

from fused_resnet.doctor.accuracy import FLOORS, allowed_error


def assert_accurate(
    name: str,
    tested: Tensor,
    eager: Tensor,
    exact: Tensor,
    scale: float = 0.0,
    dtype: torch.dtype | None = None,
    floor: float = 0.0,
    usual_error: Callable[[], float] = lambda: 0.0,
) -> None:
    """Applies the rule to one tensor, with the floor of its own dtype or of the one given, or a higher `floor`.

    `scale` replaces the exact tensor's norm where that is smaller. It is for tensors that are zero in exact
    arithmetic, or nearly so by the chance of one draw: there the terms that cancel decide what rounding leaves over.
    `usual_error` of the unfused operations counts where theirs in this draw is smaller by chance.
    """
    assert (tested.shape, tested.dtype) == (eager.shape, eager.dtype), name
    size = max(exact.norm().item(), scale)
    error, eager_error = ((result.double() - exact).norm().item() for result in (tested, eager))
    floor = max(FLOORS[dtype or tested.dtype], floor)
    allowed = allowed_error(eager_error, size, floor)
    if error > allowed:
        allowed = max(allowed, allowed_error(usual_error(), size, floor))
    assert error <= allowed, (
        f"{name}: error {error:.2e} is above {allowed:.2e}; unfused {eager_error:.2e}, norm {size:.2e}, {tested.dtype}"
    )


# Elements of a gradient whose error in one draw is a matter of luck.
_FEW = 8


@dataclass
class Outcome:
    """What one computation of a tail gives."""

    output: Tensor
    gradients: dict[str, Tensor]
    buffers: dict[str, Tensor]


def fused(tail: Tail, inputs: dict[str, Tensor], dy: Tensor) -> Outcome:
    """`residual_tail` on a copy of the tail's tensors."""
    return _compute(tail, inputs, lambda tail, inputs: (y := tail.fused(inputs), y), dy)


def unfused(
    tail: Tail, inputs: dict[str, Tensor], dy: Tensor, mask: Tensor | None = None, dtype: torch.dtype | None = None
) -> Outcome:
    """The unfused modules on a copy of the tail's tensors, in float64 if asked for.

    `mask` takes the place of the relu's own in backward.
    """

    def forward(tail: Tail, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        z = tail.unfused(inputs)
        y = z.relu() if tail.activation == "relu" else z
        return y, y if mask is None else z

    if dtype is not None:
        tail = copy.deepcopy(tail).to(dtype)
        inputs = {name: x.detach().to(dtype).requires_grad_(x.requires_grad) for name, x in inputs.items()}
    if mask is not None:
        # A relu's own backward decides the layout of the gradient, and with it the order of PyTorch's sums.
        dy = torch.ops.aten.threshold_backward(dy, mask.to(dy.dtype), 0)
    return _compute(tail, inputs, forward, dy)


def assert_as_accurate_as_unfused(
    tail: Tail, inputs: dict[str, Tensor], dy: Tensor, other: Tail | None = None
) -> Outcome:
    """Applies the rule to the output, all gradients and the running statistics; returns the tested outcome.

    `other` is the tail whose unfused operations decide what accuracy is asked for, where these are not its own.
    """
    tested = fused(tail, inputs, dy)
    mask = tested.output > 0 if tail.activation == "relu" else None
    eager = unfused(other or tail, inputs, dy, mask)
    exact = unfused(tail, inputs, dy, mask, torch.float64)
    assert_accurate("output", tested.output, eager.output, exact.output)
    assert_same_memory_format(tested.output, eager.output)
    assert tested.gradients.keys() == eager.gradients.keys()
    scales = _gradient_scales(tail, inputs, dy, mask)
    for name, gradient in tested.gradients.items():
        # With the activations' floor: where memory layouts differ, PyTorch rounds a norm's gradients to their dtype.
        both = eager.gradients[name], exact.gradients[name]
        usual = {}
        if gradient.numel() <= _FEW:
            usual["usual_error"] = partial(_usual_error, other or tail, inputs, dy, mask, name)
        assert_accurate(f"gradient of {name}", gradient, *both, scales[name], tested.output.dtype, **usual)
    for prefix, branch in tail.named_children():
        own = ({n: b for n, b in result.buffers.items() if n.startswith(prefix)} for result in (tested, eager, exact))
        assert_statistics_accurate(*own, _floor_of_statistics(branch, dy, tested.output.dtype))
    return tested


def _usual_error(tail: Tail, inputs: dict[str, Tensor], dy: Tensor, mask: Tensor | None, name: str) -> float:
    """The root mean square error of an unfused gradient, over random incoming gradients of dy's size.

    A gradient of few elements is the sum of many rounded terms; in one draw their errors may cancel.
    """
    size, squares = dy.double().square().mean().sqrt(), []
    for _ in range(8):
        drawn = (torch.randn_like(dy, dtype=torch.double) * size).to(dy.dtype)
        found, exact = (unfused(tail, inputs, drawn, mask, dtype).gradients[name] for dtype in (None, torch.float64))
        squares.append((found.double() - exact).square().sum().item())
    error = math.sqrt(sum(squares) / len(squares))
    return error if math.isfinite(error) else 0.0  # what overflows unfused excuses nothing


def _floor_of_statistics(branch, dy: Tensor, dtype: torch.dtype) -> float:
    """Which way the values of a product round that a statistic is of is chance, too, and averages out."""
    if branch.conv is None:
        return 0.0
    return FLOORS[dtype] / math.sqrt(dy.numel() // dy.shape[1])


def assert_statistics_accurate(
    tested: dict[str, Tensor], eager: dict[str, Tensor], exact: dict[str, Tensor], floor: float = 0.0
) -> None:
    """Applies the rule to the running statistics among named buffers; counters must be equal."""
    for name, buffer in tested.items():
        if name.endswith("num_batches_tracked"):
            assert torch.equal(buffer, eager[name]), name
        else:
            # A mean is as accurate as the standard deviation it is of.
            scale = exact[name.replace("running_mean", "running_var")].sqrt().norm().item()
            assert_accurate(name, buffer, eager[name], exact[name], scale, floor=floor)


def assert_same_memory_format(tested: Tensor, expected: Tensor) -> None:
    """Both are, or both are not, contiguous; and the same for channels_last."""
    formats = (torch.contiguous_format, torch.channels_last)
    found, wanted = ([t.is_contiguous(memory_format=f) for f in formats] for t in (tested, expected))
    assert found == wanted, f"strides {tested.stride()}, expected the format of {expected.stride()}"


def _compute(tail, inputs, forward, dy) -> Outcome:
    tail = copy.deepcopy(tail)
    leaves = {name: x.detach().requires_grad_(x.requires_grad) for name, x in inputs.items()}
    output, last = forward(tail, leaves)
    sources = {n: t for n, t in (*leaves.items(), *tail.named_parameters()) if t.requires_grad}
    gradients = torch.autograd.grad(last, list(sources.values()), dy.to(last.dtype)) if sources else ()
    return Outcome(output.detach(), dict(zip(sources, gradients, strict=True)), dict(tail.named_buffers()))


def _gradient_scales(tail, inputs, dy, mask) -> dict[str, float]:
    """The size of each gradient without cancellation, in float64: a root mean square over random incoming gradients.

    Training norms are frozen at the batch's statistics for it. That the statistics follow the input makes terms
    cancel: all of them for a convolution's bias, all but what eps leaves for the weight of a single input channel,
    most of them where a channel has few values.
    """
    tail = copy.deepcopy(tail).double()
    inputs = {name: x.detach().double().requires_grad_(x.requires_grad) for name, x in inputs.items()}
    _freeze_at_batch_statistics(tail, inputs)
    size = dy.double().square().mean().sqrt()
    draws = [unfused(tail, inputs, torch.randn_like(dy, dtype=torch.double) * size, mask).gradients for _ in range(3)]
    return {name: math.sqrt(sum(g[name].square().sum().item() for g in draws) / len(draws)) for name in draws[0]}


def _freeze_at_batch_statistics(tail, inputs) -> None:
    norms = [m for m in tail.modules() if isinstance(m, nn.BatchNorm2d) and (m.training or m.running_mean is None)]
    for norm in norms:
        norm.train()
        norm.track_running_stats, norm.momentum = True, 1.0
        norm.running_mean, norm.running_var = inputs["main.x"].new_zeros(2, norm.num_features)
    tail.unfused(inputs)
    for norm in norms:
        norm.eval()
