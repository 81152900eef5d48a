"""Sample tails that drive the tests of values, gradients and errors, and strategies that draw more of them.

A `Tail` is held by plain ``nn`` modules. It computes itself by calling them, or describes itself to `residual_tail`.
"""

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

from fused_resnet.functional import Direct, Norm, Projection, ZeroPad, residual_tail


@dataclass(frozen=True)
class Branch:
    """One branch of a sample: "direct", "projection" or "zero_pad", and a "training" norm, an "eval" norm or none."""

    source: str
    norm: str | None = None
    in_channels: int = 17
    stride: int = 1
    bias: bool = False
    affine: bool = True
    tracked: bool = True
    momentum: float | None = 0.1
    placement: str = "end"
    layout: str = "contiguous"


@dataclass(frozen=True)
class Sample:
    """A tail; `shape` is that of its output, `frozen` names what asks for no gradient."""

    main: Branch
    shortcut: Branch | None
    activation: str | None = "relu"
    shape: tuple[int, int, int, int] = (3, 24, 6, 5)
    dtype: torch.dtype = torch.float32
    norm_dtype: torch.dtype = torch.float32
    gradient_layout: str = "contiguous"
    frozen: frozenset[str] = field(default_factory=frozenset)

    def with_dtype(self, dtype: torch.dtype) -> "Sample":
        return replace(self, dtype=dtype, norm_dtype=torch.promote_types(dtype, torch.float32))


SAMPLES = {
    "basic identity": Sample(Branch("direct", "training"), Branch("direct")),
    "basic projection": Sample(Branch("direct", "training"), Branch("projection", "training", stride=2)),
    "basic zero-padded": Sample(Branch("direct", "training"), Branch("zero_pad", stride=2)),
    "basic zero-padded on both sides": Sample(Branch("direct", "training"), Branch("zero_pad", placement="both")),
    "basic plain": Sample(Branch("direct", "training"), None),
    "basic frozen": Sample(Branch("direct", "eval"), Branch("projection", "eval", stride=2)),
    "bottleneck identity": Sample(Branch("projection", "training"), Branch("direct")),
    "bottleneck projection": Sample(
        Branch("projection", "training"), Branch("projection", "training", in_channels=19, stride=2)
    ),
    "bottleneck zero-padded": Sample(Branch("projection", "training"), Branch("zero_pad", stride=3)),
    "bottleneck plain": Sample(Branch("projection", "training"), None),
    "bottleneck evaluated": Sample(
        Branch("projection", "eval"), Branch("projection", "eval", in_channels=19, stride=2)
    ),
    "bottleneck with a frozen shortcut": Sample(
        Branch("projection", "training"), Branch("projection", "eval", stride=3)
    ),
    "convolution biases": Sample(
        Branch("projection", "training", bias=True), Branch("projection", "eval", bias=True), None
    ),
    "no affine parameters": Sample(
        Branch("projection", "training", affine=False), Branch("projection", "eval", affine=False)
    ),
    "no running statistics": Sample(
        Branch("projection", "training", tracked=False), Branch("direct", "training", tracked=False)
    ),
    "cumulative averages": Sample(
        Branch("direct", "training", momentum=None), Branch("projection", "training", momentum=None)
    ),
    "preactivation identity": Sample(Branch("projection"), Branch("direct"), None),
    "preactivation projection": Sample(Branch("direct"), Branch("projection", stride=2), None),
    "preactivation zero-padded": Sample(Branch("direct"), Branch("zero_pad", stride=2), None),
    "projections without norms": Sample(Branch("projection", bias=True), Branch("projection", stride=2, bias=True)),
    "zero-padded main branch": Sample(Branch("zero_pad"), Branch("projection", "training")),
    "addition and relu": Sample(Branch("direct"), Branch("direct")),
}
# A mere addition is left to autograd: both inputs get one and the same gradient there.
FUSED = {k: s for k, s in SAMPLES.items() if s.main.norm or "projection" in (s.main.source, s.shortcut.source)}


class TailBranch(nn.Module):
    """A branch as modules: `conv` and `norm`, None where there is none."""

    def __init__(self, sample: Branch, out_channels: int, dtype: torch.dtype, norm_dtype: torch.dtype) -> None:
        super().__init__()
        self.sample, self.out_channels = sample, out_channels
        self.conv = self.norm = None
        if sample.source == "projection":
            self.conv = nn.Conv2d(sample.in_channels, out_channels, 1, sample.stride, bias=sample.bias, dtype=dtype)
        if sample.norm:
            self.norm = nn.BatchNorm2d(
                out_channels,
                momentum=sample.momentum,
                affine=sample.affine,
                track_running_stats=sample.tracked,
                dtype=norm_dtype,
            )
            for name, tensor in (*self.norm.named_parameters(), *self.norm.named_buffers()):
                if tensor.is_floating_point():
                    nn.init.uniform_(tensor, 0.5, 2.0) if name == "running_var" else nn.init.normal_(tensor)
            self.norm.train(sample.norm == "training")

    @property
    def in_channels(self) -> int:
        return self.out_channels if self.sample.source == "direct" else self.sample.in_channels

    def forward(self, x: Tensor) -> Tensor:
        """The branch's addend by the unfused modules."""
        if self.conv is not None:
            x = self.conv(x)
        elif self.sample.source == "zero_pad":
            missing = self.out_channels - x.shape[1]
            before = missing // 2 if self.sample.placement == "both" else 0
            s = self.sample.stride
            x = F.pad(x[:, :, ::s, ::s], (0, 0, 0, 0, before, missing - before))
        return x if self.norm is None else self.norm(x)

    def described(self, x: Tensor) -> Direct | Projection | ZeroPad:
        """The branch as `residual_tail` takes it."""
        sample, norm = self.sample, None if self.norm is None else norm_of(self.norm)
        if self.conv is not None:
            return Projection(x, self.conv.weight, norm, sample.stride, self.conv.bias)
        if sample.source == "zero_pad":
            return ZeroPad(x, self.out_channels, sample.stride, sample.placement)
        return Direct(x, norm)


class Tail(nn.Module):
    """A sample as modules; its inputs are passed in as {"main.x": ..., "shortcut.x": ...}."""

    def __init__(self, sample: Sample) -> None:
        super().__init__()
        settings = (sample.shape[1], sample.dtype, sample.norm_dtype)
        self.activation = sample.activation
        self.main = TailBranch(sample.main, *settings)
        self.shortcut = None if sample.shortcut is None else TailBranch(sample.shortcut, *settings)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name not in sample.frozen)

    def unfused(self, inputs: dict[str, Tensor]) -> Tensor:
        """The sum, ahead of the activation."""
        z = self.main(inputs["main.x"])
        return z if self.shortcut is None else z + self.shortcut(inputs["shortcut.x"])

    def fused(self, inputs: dict[str, Tensor]) -> Tensor:
        """`residual_tail`, activation included."""
        shortcut = None if self.shortcut is None else self.shortcut.described(inputs["shortcut.x"])
        return residual_tail(self.main.described(inputs["main.x"]), shortcut, activation=self.activation)


def norm_of(norm: nn.BatchNorm2d) -> Norm:
    """A batch norm module as a branch holds it."""
    return Norm(
        norm.weight,
        norm.bias,
        norm.running_mean,
        norm.running_var,
        norm.num_batches_tracked,
        norm.momentum,
        norm.eps,
        training=norm.training or norm.running_mean is None,
    )


def build(sample: Sample, device: str = "cpu", cut: int = 0) -> tuple[Tail, dict[str, Tensor], Tensor]:
    """The tail of a sample with random inputs and a random incoming gradient.

    `cut` pixels less than the largest input that gives the output's size come in, where the stride allows.
    """
    tail = Tail(sample).to(device)
    n, _, *size = sample.shape
    inputs = {}
    for name, branch in tail.named_children():
        if branch is None:
            continue
        height, width = (pixels * branch.sample.stride - min(cut, branch.sample.stride - 1) for pixels in size)
        x = torch.randn(n, branch.in_channels, height, width, device=device)
        x = lay_out((x + 0.5).to(sample.dtype), branch.sample.layout)
        inputs[f"{name}.x"] = x.requires_grad_(f"{name}.x" not in sample.frozen)
    return tail, inputs, lay_out(torch.randn(sample.shape, device=device).to(sample.dtype), sample.gradient_layout)


def lay_out(x: Tensor, layout: str) -> Tensor:
    """A tensor like x laid out in memory in the way named.

    Its numbers are x's, but "expanded" repeats the first image, and "constant" the first number (as the gradient of
    ``y.sum()`` does).
    """
    n, c, h, w = x.shape
    if layout == "expanded":
        return x[:1].expand(n, c, h, w)
    if layout == "constant":
        return x[:1, :1, :1, :1].expand(n, c, h, w)
    if layout == "transposed":
        return x.transpose(2, 3).contiguous().transpose(2, 3)
    if layout == "sliced":
        return x.new_zeros(n, c + 2, h + 1, 2 * w)[:, 1:-1, 1:, ::2].copy_(x)
    memory_format = getattr(torch, layout.replace("contiguous", "contiguous_format"))
    return torch.empty_like(x, memory_format=memory_format).copy_(x)  # the strides of sizes of one included


LAYOUTS = ("contiguous", "channels_last", "sliced", "transposed", "expanded")
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_CHANNELS = st.one_of(st.sampled_from((1, 35, 65)), st.integers(1, 20))


@st.composite
def branches(draw, out_channels: int, sources=("direct", "projection", "zero_pad")) -> Branch:
    """A branch that gives so many channels."""
    source, layout = draw(st.sampled_from(sources)), draw(st.sampled_from(LAYOUTS))
    stride = 1 if source == "direct" else draw(st.integers(1, 3))
    in_channels = _CHANNELS
    if source == "zero_pad":
        in_channels = st.integers(1, out_channels)
    elif stride > 1 and layout == "channels_last":
        # oneDNN issue 6035: PyTorch's weight gradient of fewer channels writes past its buffer.
        in_channels = st.sampled_from((16, 17, 35, 65))
    return Branch(
        source,
        norm=None if source == "zero_pad" else draw(st.sampled_from((None, "training", "eval"))),
        in_channels=draw(in_channels),
        stride=stride,
        bias=draw(st.booleans()),
        affine=draw(st.booleans()),
        tracked=draw(st.booleans()),
        momentum=draw(st.sampled_from((0.1, None, 0.0, 1.0))),
        placement=draw(st.sampled_from(("end", "both"))),
        layout=layout,
    )


@st.composite
def samples(draw) -> Sample:
    """Any tail whose norms see enough different values a channel for statistics that are not all rounding error."""
    channels, dtype = draw(_CHANNELS), draw(st.sampled_from(DTYPES))
    size = st.integers(1, 9)
    height, width = draw(st.tuples(size, size).filter(lambda pixels: pixels[0] * pixels[1] >= 6))
    half = dtype in (torch.float16, torch.bfloat16)
    norm_dtype = draw(st.sampled_from((dtype, torch.float32))) if half else dtype
    names = [
        f"{b}.{t}" for b in ("main", "shortcut") for t in ("x", "conv.weight", "conv.bias", "norm.weight", "norm.bias")
    ]
    each = branches(channels)
    main, activation = draw(each), draw(st.sampled_from(("relu", None)))
    computes_nothing = main.source == "direct" and main.norm is None and activation is None
    return Sample(
        main,
        draw(each if computes_nothing else st.none() | each),
        activation,
        (draw(st.integers(1, 4)), channels, height, width),
        dtype,
        norm_dtype,
        draw(st.sampled_from((*LAYOUTS, "constant"))),
        draw(st.frozensets(st.sampled_from(names), max_size=4)),
    )


@st.composite
def large_samples(draw) -> Sample:
    """Tails over several of the kernels' tiles and ranges of rows, as large as an emulator has time for."""
    channels = st.sampled_from((127, 128, 129, 256, 257)) | st.integers(100, 300)
    out_channels, sources = draw(channels), draw(st.sampled_from([("direct", "projection"), ("projection",) * 2]))
    made = []
    for source in draw(st.permutations(sources)):
        stride = draw(st.integers(1, 2)) if source == "projection" else 1
        norm, layout = draw(st.sampled_from(("training", "eval"))), draw(st.sampled_from(LAYOUTS[:2]))
        made.append(Branch(source, norm, draw(channels), stride, layout=layout))
    products = out_channels * sum(branch.in_channels for branch in made if branch.source == "projection")
    most = max(100, min(2000, 15_000_000 // products))
    rows, images, width = draw(st.integers(100, most)), 2, draw(st.integers(5, 40))
    shape = (images, out_channels, max(1, rows // images // width), width)
    dtype = draw(st.sampled_from((torch.float32, torch.float16, torch.bfloat16)))
    return Sample(*made, shape=shape, dtype=dtype, gradient_layout=draw(st.sampled_from(LAYOUTS[:2])))
