"""Random blocks, with aliases and operations in place: whatever `fuse` makes of one, it computes the same."""

import copy

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import fused_resnet

CHANNELS = 4


def iadd(a: Tensor, b: Tensor) -> Tensor:
    a += b
    return a


def imul(a: Tensor, b: Tensor) -> Tensor:
    a *= 0.5
    return a


MODULES = {
    "conv3x3": lambda: nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1),
    "conv1x1": lambda: nn.Conv2d(CHANNELS, CHANNELS, 1, bias=False),
    "norm": lambda: nn.BatchNorm2d(CHANNELS),
    "relu module": lambda: nn.ReLU(),
    "relu module in place": lambda: nn.ReLU(inplace=True),
    "identity": lambda: nn.Identity(),
}
FUNCTIONS = {
    "+": lambda a, b: a + b,
    "+=": iadd,
    "add_": lambda a, b: a.add_(b),
    "*": lambda a, b: a * b.sigmoid(),
    "*=": imul,
    "relu": lambda a, b: F.relu(a),
    "relu in place": lambda a, b: F.relu(a, inplace=True),
    "view": lambda a, b: a.view(a.shape),
}
# Each step names an operation and two earlier values, counted backwards; tails are likelier than chance has them.
STEPS = st.tuples(
    st.sampled_from([*MODULES, "norm", "norm", "conv1x1", "norm again", *FUNCTIONS, "+", "+", "relu"]),
    st.integers(0, 3),
    st.integers(0, 5),
)


class RandomBlock(nn.Module):
    """Runs its steps one after the other and returns the last value and one other."""

    def __init__(self, steps: list[tuple[str, int, int]], second: int) -> None:
        super().__init__()
        self.steps, self.second = steps, second
        made = {str(i): MODULES[name]() for i, (name, _, _) in enumerate(steps) if name in MODULES}
        self.made = nn.ModuleDict({"conv": nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), **made})
        norms = [key for key, module in self.made.items() if isinstance(module, nn.BatchNorm2d)]
        self.norm_again = norms[0] if norms else "conv"

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        values = [x, self.made["conv"](x)]
        for i, (name, first, second) in enumerate(self.steps):
            a, b = values[-1 - first % len(values)], values[-1 - second % len(values)]
            if name in FUNCTIONS:
                values.append(FUNCTIONS[name](a, b))
            else:
                values.append(self.made[self.norm_again if name == "norm again" else str(i)](a))
        return values[-1], values[self.second % len(values)]


@settings(max_examples=150)
@given(st.lists(STEPS, min_size=3, max_size=12), st.integers(0, 10), st.booleans())
def test_a_random_block_computes_the_same_fused_and_unfused(steps, second, norms):
    block = RandomBlock(steps, second).double()
    original = copy.deepcopy(block)
    fused_resnet.fuse(block, norms=norms)
    x = torch.randn(2, CHANNELS, 4, 4, dtype=torch.float64)
    for training in (True, False):
        inputs = x.clone(), x.clone()
        with torch.no_grad():
            outputs = [model.train(training)(own) for model, own in zip((block, original), inputs, strict=True)]
        torch.testing.assert_close(*outputs, rtol=1e-7, atol=1e-9)
        torch.testing.assert_close(*inputs, rtol=1e-7, atol=1e-9)  # where it is overwritten, it is so by both
    torch.testing.assert_close(block.state_dict(), original.state_dict(), rtol=1e-7, atol=1e-9)
    _assert_same_gradients(block.train(), original.train(), x)


def _assert_same_gradients(block: nn.Module, original: nn.Module, x: Tensor) -> None:
    expected = _gradients(original, x)
    if expected is None:  # autograd refuses operations in place on what backward needs
        return
    gradients = _gradients(block, x)
    assert gradients is not None
    scale = 1 + max(g.norm().item() for g in expected.values())
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        assert (gradient - expected[name]).norm() <= 1e-7 * scale, name


def _gradients(block: nn.Module, x: Tensor) -> dict[str, Tensor] | None:
    x = x.clone().requires_grad_()
    try:
        sum(output.square().sum() for output in block(x * 1)).backward()
    except RuntimeError:
        return None
    return {name: p.grad for name, p in (*block.named_parameters(), ("x", x)) if p.grad is not None}
