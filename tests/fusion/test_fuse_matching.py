"""What `fuse` finds in a block's graph, and what it must not take."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from user_blocks import (
    ADDITIONS,
    RELUS,
    WHOLE_TAIL,
    Block,
    OptionA,
    PreActivation,
    WithSomethingBetween,
    Written,
    assert_trains_alike,
    copies,
)

import fused_resnet


def fuse_and_compare(block: nn.Module, shape: tuple[int, ...] = (4, 6, 8, 8)) -> fused_resnet.fusion.FusionReport:
    block, original = copies(block)
    report = fused_resnet.fuse(block)
    assert_trains_alike(block, original, shape)
    return report


@pytest.mark.parametrize("addition", ADDITIONS)
def test_every_spelling_of_the_addition_is_found(addition):
    report = fuse_and_compare(Written(ADDITIONS[addition], F.relu))
    assert sorted(report.fused[""].split(" + ")) == sorted(WHOLE_TAIL.split(" + "))
    assert not report.refused


@pytest.mark.parametrize("relu", RELUS)
def test_every_spelling_of_the_relu_is_found(relu):
    assert fuse_and_compare(Written(torch.add, RELUS[relu])).fused[""] == WHOLE_TAIL


def test_an_addition_with_alpha_is_not_a_tail():
    report = fuse_and_compare(Written(lambda a, b: torch.add(a, b, alpha=0.5), F.relu))
    assert not report.fused
    assert "alpha=0.5" in report.refused[""]


def test_an_addition_without_norm_projection_or_relu_is_not_a_tail():
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(6, 6, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) + x

    report = fuse_and_compare(Plain())
    assert not report.fused
    assert not report.refused


def test_a_bare_addition_and_relu_is_the_smallest_tail():
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(6, 6, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.conv(x) + x)

    assert fuse_and_compare(Bare()).fused[""].startswith("identity + identity + relu")


def test_what_stands_between_norm_and_addition_is_left_outside_and_the_rest_fused():
    report = fuse_and_compare(WithSomethingBetween(nn.AvgPool2d(3, 1, padding=1)))
    assert report.fused[""] == "identity + downsample.0 + downsample.1 + relu"


def test_an_identity_module_is_looked_through():
    assert fuse_and_compare(WithSomethingBetween(nn.Identity())).fused[""] == WHOLE_TAIL


def test_a_pool_ahead_of_the_projection_is_left_outside():
    block = Block()
    block.downsample = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(6, 8, 1, bias=False), nn.BatchNorm2d(8))
    assert fuse_and_compare(block).fused[""] == "conv2 + bn2 + downsample.1 + downsample.2 + relu"


def test_a_biased_projection_is_fused_running_mean_included():
    block = Block()
    block.conv2 = nn.Conv2d(8, 8, 1)
    nn.init.constant_(block.conv2.bias, 3.0)
    assert fuse_and_compare(block).fused[""] == WHOLE_TAIL


def test_a_pre_activation_tail_is_fused_without_norm_and_relu():
    assert fuse_and_compare(PreActivation()).fused[""] == "conv2 + shortcut"


OPTION_A = {
    "appended": lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, 5), "constant", 0),
    "both sides, odd one at the end": lambda x: F.pad(x[..., ::2, ::2], (0, 0, 0, 0, 2, 3)),
    "by keywords": lambda x: F.pad(input=x[:, :, ::2, ::2], pad=[0, 0, 0, 0, 2, 3], mode="constant", value=0.0),
}


@pytest.mark.parametrize("how", OPTION_A)
def test_option_a_as_a_function_becomes_a_zero_pad(how):
    report = fuse_and_compare(OptionA(OPTION_A[how]), (3, 4, 7, 7))
    assert report.fused[""].startswith("bn2 + zero pad + relu")


NOT_OPTION_A = {
    "odd one at the front": lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 3, 2)),
    "filled with ones": lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, 5), "constant", 1),
    "pixels padded too": lambda x: F.pad(x[:, :, 1::2, 1::2], (0, 1, 0, 1, 0, 5)),
    "concatenated": lambda x: torch.cat([x, x[:, :1] * 0, x * 0], 1)[:, :, ::2, ::2],
}


@pytest.mark.parametrize("how", NOT_OPTION_A)
def test_another_padding_is_left_outside(how):
    report = fuse_and_compare(OptionA(NOT_OPTION_A[how]), (3, 4, 7, 7))
    assert report.fused[""].startswith("bn2 + identity + relu")


@pytest.mark.parametrize(
    "index", [(slice(None), slice(None), slice(1, None, 2), slice(None, None, 2)), (..., slice(3))]
)
def test_other_slices_are_left_outside_the_zero_pad(index):
    class Sliced(OptionA):
        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.bn2(self.conv2(F.relu(self.conv1(x)))) + F.pad(x[index], (0, 0, 0, 0, 0, 5)))

    shape = (3, 4, 8, 8) if len(index) == 4 else (3, 4, 8, 3)
    block = Sliced(lambda x: x, stride=2 if len(index) == 4 else 1)
    assert fuse_and_compare(block, shape).fused[""].startswith("bn2 + zero pad + relu")


class OwnForward(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class OwnConv(nn.Conv2d):
    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(x, weight * 2, bias)


REFUSED = {
    "group norm": ("bn2", lambda: nn.GroupNorm(2, 8), "GroupNorm"),
    "norm with a forward of its own": ("bn2", lambda: OwnForward(8), "forward of its own"),
    "convolution with a forward of its own": ("conv2", lambda: OwnConv(8, 8, 1), "_conv_forward of its own"),
    "grouped 1x1 convolution": ("conv2", lambda: nn.Conv2d(8, 8, 1, groups=2), "2 groups"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_module_that_cannot_be_fused_is_left_as_it_is_and_reported(what):
    path, make, reason = REFUSED[what]
    block = Block()
    setattr(block, path, make())
    report = fuse_and_compare(block)
    assert reason in report.refused[path]
    assert "downsample.0 + downsample.1 + relu" in report.fused[""]
    assert path not in report.fused[""]


@pytest.mark.parametrize(("stride", "padding"), [((1, 2), 0), (2, 1)])
def test_a_1x1_convolution_of_another_geometry_is_reported(stride, padding):
    block = Block(stride=1)
    block.downsample[0] = nn.Conv2d(6, 8, 1, stride, padding)
    block.conv1 = nn.Conv2d(6, 8, 3, stride, padding=1 + padding)
    report = fuse_and_compare(block)
    assert "1x1 convolution with" in report.refused["downsample.0"]
    assert report.fused[""] == "conv2 + bn2 + downsample.1 + relu"


def test_synchronised_norms_are_fused():
    block = nn.SyncBatchNorm.convert_sync_batchnorm(Block())
    report = fused_resnet.fuse(block)
    assert report.fused[""] == WHOLE_TAIL
    assert not report.refused


@pytest.mark.parametrize("path", ["conv2", "bn2", "relu", "downsample", "downsample.0"])
def test_a_hook_keeps_its_module_out(path):
    block, original = copies(Block())
    calls = []
    for model in (block, original):
        model.get_submodule(path).register_forward_hook(lambda *_: calls.append(path))
    report = fused_resnet.fuse(block)
    assert not calls  # tracing runs no hooks
    assert_trains_alike(block, original)
    fired = len(calls)
    assert fired
    assert fired % 2 == 0
    assert "has hooks" in report.refused[path]
    assert path not in report.fused[""].split(" + ")


def test_a_pre_norm_tensor_that_something_else_reads_is_not_taken():
    class Reader(Block):
        def forward(self, x: Tensor) -> Tensor:
            p = self.conv2(F.relu(self.bn1(self.conv1(x))))
            return self.relu(self.bn2(p) + self.downsample(x)) * p.mean()

    report = fuse_and_compare(Reader())
    assert report.fused[""] == "bn2 + downsample.0 + downsample.1 + relu"
    assert report.refused == {"conv2": "its output is read elsewhere"}


def test_a_sum_that_something_else_reads_is_fused_without_the_relu():
    class Reader(Block):
        def forward(self, x: Tensor) -> Tensor:
            a, b = self.branches(x)
            total = a + b
            return F.relu(total) + total

    assert fuse_and_compare(Reader()).fused[""] == WHOLE_TAIL.removesuffix(" + relu")


def test_a_norm_that_is_called_twice_is_not_taken():
    class Twice(Block):
        def forward(self, x: Tensor) -> Tensor:
            out = self.relu(self.bn2(self.conv1(x)))
            return self.relu(self.bn2(self.conv2(out)) + self.downsample(x))

    report = fuse_and_compare(Twice())
    assert report.refused == {"bn2": "it is called more than once"}


def test_a_tensor_added_to_itself_is_computed_once():
    class Doubled(Block):
        def forward(self, x: Tensor) -> Tensor:
            out, _ = self.branches(x)
            return F.relu(out + out)

    assert fuse_and_compare(Doubled()).fused[""].startswith("identity + identity + relu")


def test_several_tails_in_one_forward_are_all_fused():
    class Two(Block):
        def __init__(self) -> None:
            super().__init__()
            self.conv3 = nn.Conv2d(8, 8, 1)
            self.bn3 = nn.BatchNorm2d(8)

        def forward(self, x: Tensor) -> Tensor:
            a, b = self.branches(x)
            middle = F.relu(a + b)
            return F.relu(self.bn3(self.conv3(middle)) + middle)

    assert fuse_and_compare(Two()).fused[""] == f"{WHOLE_TAIL}; conv3 + bn3 + identity + relu"


def test_three_summands_are_two_tails():
    class Three(Block):
        def forward(self, x: Tensor) -> Tensor:
            a, b = self.branches(x)
            return F.relu(a + b + x[:, :1, ::2, ::2].expand(-1, 8, -1, -1))

    report = fuse_and_compare(Three())
    assert report.fused[""] == f"{WHOLE_TAIL.removesuffix(' + relu')}; identity + identity + relu"


class TestInPlace:
    """Operations in place are seen by whoever shares the memory: fused or not."""

    def test_an_addition_into_the_blocks_input_is_left_alone(self):
        class IntoInput(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv = nn.Conv2d(6, 6, 1)
                self.bn = nn.BatchNorm2d(6)

            def forward(self, x: Tensor) -> Tensor:
                x += self.bn(self.conv(x))
                return F.relu(x)

        block, original = copies(IntoInput())
        report = fused_resnet.fuse(block)
        assert "in place" in report.refused[""]
        x = torch.randn(2, 6, 4, 4, dtype=torch.float64)
        mine, theirs = x.clone(), x.clone()
        block(mine)
        original(theirs)
        assert torch.equal(mine, theirs)
        assert not torch.equal(mine, x)

    def test_an_alias_of_the_sum_sees_the_addition(self):
        class Alias(Block):
            def forward(self, x: Tensor) -> Tensor:
                out, shortcut = self.branches(x)
                alias = out.view(out.shape)
                out += shortcut
                return alias * 2

        fuse_and_compare(Alias())

    @pytest.mark.parametrize("alias", [lambda x: x, lambda x: x.view(x.shape)], ids=["itself", "a view"])
    def test_a_shortcut_computed_before_its_input_is_overwritten_is_not_delayed(self, alias):
        class Overwritten(Block):
            def forward(self, x: Tensor) -> Tensor:
                x = x * 1
                shortcut = self.downsample(x)
                out = self.conv2(F.relu(self.bn1(self.conv1(self.relu(alias(x))))))
                return self.relu(self.bn2(out) + shortcut)

        block, original = copies(Overwritten())
        report = fused_resnet.fuse(block)
        assert report.fused[""] == "conv2 + bn2 + identity + relu"
        assert "overwritten" in report.refused["downsample.0"]
        x = torch.randn(4, 6, 8, 8, dtype=torch.float64)
        with torch.no_grad():  # autograd refuses the unfused block, too: the convolution's input has changed
            torch.testing.assert_close(block(x), original(x))

    def test_an_addition_into_a_private_product_is_fused(self):
        class Scaled(Block):
            def forward(self, x: Tensor) -> Tensor:
                out, shortcut = self.branches(x)
                out = out * out.mean((2, 3), keepdim=True).sigmoid()
                out += shortcut
                return self.relu(out)

        assert fuse_and_compare(Scaled()).fused[""] == "identity + downsample.0 + downsample.1 + relu"
