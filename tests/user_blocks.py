"""Residual blocks as users write them, none of them this package's own."""

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SHAPE = (4, 6, 8, 8)


def draw(*shape: int) -> Tensor:
    """A float64 input, by default one of `Block`."""
    return torch.randn(shape or SHAPE, dtype=torch.float64)


class Block(nn.Module):
    """A Bottleneck-like block with a projection; subclasses change one thing each."""

    def __init__(self, in_channels: int = 6, channels: int = 8, stride: int = 2) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = nn.Sequential(
            nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
        )

    def branches(self, x: Tensor) -> tuple[Tensor, Tensor]:
        out = self.relu(self.bn1(self.conv1(x)))
        return self.bn2(self.conv2(out)), self.downsample(x)

    def forward(self, x: Tensor) -> Tensor:
        out, shortcut = self.branches(x)
        out += shortcut
        return self.relu(out)


WHOLE_TAIL = "conv2 + bn2 + downsample.0 + downsample.1 + relu"


class Written(Block):
    """The tail in another spelling."""

    def __init__(self, add: Callable[..., Tensor], relu: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.add, self.act = add, relu

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.add(*self.branches(x)))


def iadd(a: Tensor, b: Tensor) -> Tensor:
    a += b
    return a


ADDITIONS = {
    "a + b": lambda a, b: a + b,
    "b + a": lambda a, b: b + a,
    "a += b": iadd,
    "torch.add(a, b)": torch.add,
    "torch.add(other=b, input=a)": lambda a, b: torch.add(other=b, input=a),
    "a.add(b)": lambda a, b: a.add(b),
    "a.add_(b)": lambda a, b: a.add_(b),
    "a.add_(other=b)": lambda a, b: a.add_(other=b),
}
RELUS = {
    "F.relu": F.relu,
    "F.relu in place": lambda x: F.relu(x, inplace=True),
    "F.relu_": F.relu_,
    "torch.relu": torch.relu,
    "torch.relu_": torch.relu_,
    "x.relu()": lambda x: x.relu(),
    "x.relu_()": lambda x: x.relu_(),
    "nn.ReLU": nn.ReLU(),
    "nn.ReLU in place": nn.ReLU(inplace=True),
}


class WithSomethingBetween(Block):
    """A module between the last norm and the addition."""

    def __init__(self, between: nn.Module) -> None:
        super().__init__()
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        out, shortcut = self.branches(x)
        return self.relu(self.between(out) + shortcut)


class PreActivation(nn.Module):
    """He et al. 2016, with a projection of the activated input."""

    def __init__(self) -> None:
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(6), nn.BatchNorm2d(4)
        self.conv1 = nn.Conv2d(6, 4, 3, 2, padding=1, bias=False)
        self.conv2 = nn.Conv2d(4, 8, 1, bias=False)
        self.shortcut = nn.Conv2d(6, 8, 1, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(x), inplace=True)
        shortcut = self.shortcut(out)
        out = self.conv2(F.relu(self.bn2(self.conv1(out)), inplace=True))
        return out + shortcut


class LambdaLayer(nn.Module):
    """How many CIFAR ResNets hold option A."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class OptionA(nn.Module):
    """A CIFAR BasicBlock whose shortcut is a function of the input."""

    def __init__(self, shortcut: Callable[[Tensor], Tensor], stride: int = 2) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(4, 9, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(9)
        self.conv2 = nn.Conv2d(9, 9, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(9)
        self.shortcut = LambdaLayer(shortcut)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return F.relu(out)


def copies(block: nn.Module, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, nn.Module]:
    """The block in a dtype, to be fused, and a copy to hold it against; norms away from their initial values."""
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d) and module.affine:
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    block = block.to(dtype)
    return block, copy.deepcopy(block)


def assert_trains_alike(
    fused: nn.Module,
    unfused: nn.Module,
    shape: tuple[int, ...] = SHAPE,
    tolerance: float = 1e-9,
    steps: int = 2,
) -> None:
    """Some steps of training and one evaluation: outputs, all gradients and the whole state agree in float64."""
    generator = torch.Generator().manual_seed(1)
    models = (fused, unfused)
    was_training = [model.training for model in models]
    optimizers = [torch.optim.SGD(model.parameters(), lr=5e-4, momentum=0.9) for model in models]
    for _ in range(steps):
        x = torch.randn(shape, generator=generator, dtype=torch.float64)
        inputs = [x.clone().requires_grad_() for _ in models]
        outputs = [model(own) for model, own in zip(models, inputs, strict=True)]
        weights = torch.randn(outputs[1].shape, generator=generator, dtype=torch.float64)
        for optimizer, output in zip(optimizers, outputs, strict=True):
            optimizer.zero_grad()
            (output * weights).sum().backward()
            optimizer.step()
        _assert_close("output", *outputs, tolerance)
        _assert_close("gradient of the input", inputs[0].grad, inputs[1].grad, tolerance)
        for (name, a), (_, b) in zip(fused.named_parameters(), unfused.named_parameters(), strict=True):
            assert (a.grad is None) == (b.grad is None), name
            if b.grad is not None:
                _assert_close(f"gradient of {name}", a.grad, b.grad, tolerance)
    for (name, a), (_, b) in zip(fused.state_dict().items(), unfused.state_dict().items(), strict=True):
        _assert_close(name, a, b, tolerance)
    with torch.no_grad():
        _assert_close("output in evaluation", fused.eval()(x), unfused.eval()(x), tolerance)
    for model, training in zip(models, was_training, strict=True):
        model.train(training)


def _assert_close(name: str, a: Tensor, b: Tensor, tolerance: float) -> None:
    error = (a.double() - b.double()).norm().item()
    assert error <= tolerance * max(1.0, b.double().norm().item()), f"{name}: differs by {error:.2e}"
