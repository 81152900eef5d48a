"""Whatever goes wrong while a model is fused, the model stays as it was."""

import copy
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from user_blocks import Block, assert_trains_alike, copies, draw

import fused_resnet

OWN = str(Path(fused_resnet.fusion.__file__).parent)
# What puts things back: nothing could be promised if that failed, too.
PUTS_BACK = {"put_back", "_put_back", "_fill", "_set", "_delete", "enter_and_note"}


class PlantedError(BaseException):
    pass


def model() -> nn.Module:
    """With a block of the user's, one that is not fused, and one of this package."""
    return nn.Sequential(Block(), fused_resnet.nn.BasicBlock(8, 8, fused=False), Block(8, 8, 1))


def calls_of(fuse):
    """How often each function of the package's `fusion` is called, by file and line."""
    found = Counter()
    with Profiled(lambda frame: found.update([place(frame)])):
        fuse()
    return found


def place(frame):
    return frame.f_code.co_filename, frame.f_code.co_name, frame.f_code.co_firstlineno


class Profiled:
    """Calls a function with the frame of each call of `fusion`'s functions, but for those that put things back."""

    def __init__(self, function):
        self.function = function

    def __enter__(self):
        sys.setprofile(self.note)

    def __exit__(self, *_):
        sys.setprofile(None)

    def note(self, frame, event, _):
        if event != "call" or not frame.f_code.co_filename.startswith(OWN):
            return
        caller = frame
        while caller is not None and caller.f_code.co_name not in PUTS_BACK:
            caller = caller.f_back
        if caller is None:
            self.function(frame)


def state(net):
    """All that fuse may touch."""
    shallow = [
        {name: copy.copy(value) if isinstance(value, (dict, list)) else value for name, value in vars(module).items()}
        for module in net.modules()
    ]
    modes = torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), vars(torch.autograd.graph.saved_tensors_hooks)
    return [type(module) for module in net.modules()], shallow, modes, vars(nn.Module).keys()


# Python swallows what is raised while a generator is thrown away.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_fault_at_any_step_leaves_the_model_as_it_was():
    net = model()
    counts = calls_of(lambda: fused_resnet.fuse(copy.deepcopy(net)))
    assert len(counts) > 100
    before = state(net)
    planted = 0
    for step, times in counts.items():
        for chosen in {1, times}:
            left = chosen

            def plant(frame, step=step):
                nonlocal left
                left -= place(frame) == step
                if left == 0:
                    left = -1
                    raise PlantedError

            try:
                with Profiled(plant):
                    fused_resnet.fuse(net)
            except PlantedError:
                planted += 1
                assert state(net) == before, step
            fused_resnet.unfuse(net)
    assert planted > 150
    fused_resnet.fuse(net, strict=True)


class Frozen(dict):
    """As diffusers' configurations: not to be changed by its own methods."""

    def update(self, *_, **__):
        raise TypeError("frozen")

    clear = __setitem__ = setdefault = pop = update

    def __deepcopy__(self, memo):
        return Frozen(self)


@pytest.mark.parametrize("names", [0, 1], ids=["unread", "read"])
def test_a_block_with_a_dict_that_refuses_to_be_changed_is_fused(names):
    class Configured(Block):
        def __init__(self) -> None:
            super().__init__()
            self.config = Frozen({"scale": 1})

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x * (self.config["scale"] if names else 1))

    block, original = copies(Configured())
    assert fused_resnet.fuse(block, strict=True).fused
    assert_trains_alike(block, original)


def test_an_interruption_while_the_forward_is_traced_leaves_the_block_as_it_was():
    class Interrupted(Block):
        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            if not isinstance(x, Tensor):
                raise KeyboardInterrupt
            return y

    block, original = copies(Interrupted())
    before = state(block)
    with pytest.raises(KeyboardInterrupt):
        fused_resnet.fuse(block)
    assert state(block) == before
    assert torch.equal(block(x := draw()), original(x))
