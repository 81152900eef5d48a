"""A fused block works on whatever its unfused form works on, and raises as it raised."""

import copy

import pytest
import torch
from torch import Tensor, nn
from user_blocks import Written, copies, draw, iadd

import fused_resnet


class Flexible(nn.Module):
    """A block whose tail takes what the operands' shapes and dtypes make of it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, 6, 3, padding=1)
        self.linear = nn.Linear(6, 6)
        self.use_linear = False

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        return torch.relu((self.linear if self.use_linear else self.conv)(x) + shortcut)


class TestInputsThatATailRefuses:
    """They run the original operations (probes of torch.fx: a graph hides shapes and dtypes)."""

    @pytest.mark.parametrize(
        ("x", "shortcut"),
        [
            ((6, 5, 5), (6, 5, 5)),
            ((2, 6, 5, 5), (1, 6, 1, 1)),
            ((1, 6, 5, 5), (2, 6, 5, 5)),
            ((2, 6, 5, 5), (5,)),
            ((0, 6, 5, 5), (0, 6, 5, 5)),
        ],
    )
    def test_shapes(self, x, shortcut):
        block, original = Flexible(), Flexible()
        original.load_state_dict(block.state_dict())
        assert fused_resnet.fuse(block).fused
        operands = torch.randn(x), torch.randn(shortcut)
        assert torch.equal(block(*operands), original(*operands))

    def test_a_linear_layer_and_an_addition(self):
        block = Flexible()
        block.use_linear = True
        original = copy.deepcopy(block)
        assert fused_resnet.fuse(block).fused
        x = torch.randn(3, 6)
        assert torch.equal(block(x, x), original(x, x))

    def test_mixed_dtypes_promote(self):
        block = Flexible()
        fused_resnet.fuse(block)
        assert block(torch.randn(2, 6, 5, 5), torch.randn(2, 6, 5, 5).double()).dtype == torch.float64

    @pytest.mark.parametrize(("addition", "dtype"), [(torch.add, torch.float32), (iadd, torch.bfloat16)])
    def test_a_float32_identity_under_autocast(self, addition, dtype):
        block = Written(addition, torch.relu)
        block.conv1, block.downsample = nn.Conv2d(8, 8, 1), nn.Identity()
        block, original = copies(block, torch.float32)
        fused_resnet.fuse(block)
        x = torch.randn(2, 8, 8, 8)
        with torch.autocast("cpu", torch.bfloat16):
            outputs = [model(x) for model in (block, original)]
        assert outputs[0].dtype == outputs[1].dtype == dtype
        torch.testing.assert_close(*outputs)

    def test_one_value_a_channel_raises_as_before(self, pair):
        for block in pair:
            with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
                block(draw(1, 6, 1, 1))
