"""A valid call of the compiled module, for tests to spoil, and how it is refused then."""

import pytest
import torch
from emulated import module_of, recorded_launches


class Call:
    """Arguments of a valid call with two projections, to be spoilt."""

    def __init__(self, backend, device, dtype=torch.float32):
        self.module, self.device, self.dtype = module_of(backend), device, dtype
        self.y = self.filled(2, 6, 3, 4)
        self.relu, self.tf32 = True, False
        self.main = self.branch(self.filled(2, 5, 3, 4), 1)
        self.shortcut = self.branch(self.filled(2, 7, 6, 7), 2)

    def filled(self, *shape, dtype=None):
        return torch.full(shape, 0.5, dtype=dtype or self.dtype, device=self.device)

    def branch(self, x, stride):
        return {
            "source": "projection",
            "x": x,
            "stride": stride,
            "channels_before": 0,
            "weight": self.filled(6, x.shape[1], 1, 1),
            "bias": self.filled(6),
            "norm": self.norm(),
            "materialise": False,
        }

    def norm(self):
        vectors = {name: self.filled(6) for name in ("weight", "bias", "running_mean", "running_var")}
        batches = torch.zeros((), dtype=torch.long, device=self.device)
        rest = {"momentum": 0.1, "eps": 1e-5, "training": True, "keep": False}
        return {**vectors, "num_batches_tracked": batches, **rest}

    def plain(self, source, x):
        """Makes the shortcut a source without parameters."""
        self.shortcut |= {"source": source, "x": x, "stride": 1, "weight": None, "bias": None, "norm": None}

    def forward(self):
        branches = [None if branch is None else self._branch(branch) for branch in (self.main, self.shortcut)]
        return self.module.Forward(main=branches[0], shortcut=branches[1], y=self.y, relu=self.relu, tf32=self.tf32)

    def _branch(self, branch):
        norm = None if branch["norm"] is None else self.module.Norm(**branch["norm"])
        return self.module.Branch(**{**branch, "norm": norm})

    def tensors(self):
        """All tensors that could have been written."""
        holders = [{"y": self.y}]
        for branch in (self.main, self.shortcut):
            holders += [] if branch is None else [branch, branch["norm"] or {}]
        return [t for holder in holders for t in holder.values() if _is_readable(t)]


def _is_readable(value):
    return isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_meta


def refusal(call):
    """The message with which the call is refused, which must have no other effect."""
    before = [(t, t.clone()) for t in call.tensors()]
    if call.device == "cpu":
        with recorded_launches() as launches, pytest.raises(RuntimeError) as raised:
            call.forward().run()
        assert launches == []
    else:
        with pytest.raises(RuntimeError) as raised:
            call.forward().run()
    assert all(torch.equal(tensor, copy) for tensor, copy in before)
    return str(raised.value)
