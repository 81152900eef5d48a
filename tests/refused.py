"""Valid calls of the compiled module, for tests to spoil, and how they are refused then."""

import pytest
import torch
from emulated import module_of

from benchmarks.emulator import recorded_launches


class Call:
    """Arguments of a valid call, to be spoilt: attributes, and a dictionary for each branch and norm."""

    def __init__(self, backend, device, dtype=torch.float32):
        self.module, self.device, self.dtype = module_of(backend), device, dtype

    def filled(self, *shape, dtype=None):
        return torch.full(shape, 0.5, dtype=dtype or self.dtype, device=self.device)

    def packed_mask(self):
        """Of six channels, whose bytes are padded to four."""
        return torch.full((2, 3, 4, 4), 0xFF, dtype=torch.uint8, device=self.device)

    def put(self, path, value):
        """Replaces the argument of that name by what `value` makes of it."""
        holder = vars(self)
        *parts, last = path.split(".")
        for part in parts:
            holder = holder[part]
        holder[last] = value(holder[last])

    def tensors(self):
        """All tensors that could have been written."""
        holders = [vars(self)]
        for branch in (self.main, self.shortcut):
            holders += [] if branch is None else [branch, branch["norm"] or {}]
        return [t for holder in holders for t in holder.values() if _is_readable(t)]


class ForwardCall(Call):
    """Two projections."""

    def __init__(self, backend, device, dtype=torch.float32):
        super().__init__(backend, device, dtype)
        self.y = self.filled(2, 6, 3, 4)
        self.mask = self.packed_mask()
        self.relu, self.tf32 = True, False
        self.main = self.branch(self.filled(2, 5, 3, 4), 1)
        self.shortcut = self.branch(self.filled(2, 7, 6, 7), 2)

    def branch(self, x, stride):
        return {
            "source": "projection",
            "x": x,
            "stride": stride,
            "channels_before": 0,
            "weight": self.filled(6, x.shape[1], 1, 1),
            "bias": self.filled(6),
            "norm": self.norm(),
        }

    def norm(self):
        vectors = {name: self.filled(6) for name in ("weight", "bias", "running_mean", "running_var")}
        batches = torch.zeros((), dtype=torch.long, device=self.device)
        options = {"momentum": 0.1, "eps": 1e-5, "training": True, "keep": False}
        return {**vectors, "num_batches_tracked": batches, **options}

    def plain(self, source, x):
        """Makes the shortcut a source without parameters."""
        self.shortcut |= {"source": source, "x": x, "stride": 1, "weight": None, "bias": None, "norm": None}

    def made(self):
        branches = [None if branch is None else self._branch(branch) for branch in (self.main, self.shortcut)]
        outputs = {"y": self.y, "mask": self.mask}
        return self.module.Forward(main=branches[0], shortcut=branches[1], **outputs, relu=self.relu, tf32=self.tf32)

    def _branch(self, branch):
        norm = None if branch["norm"] is None else self.module.Norm(**branch["norm"])
        return self.module.Branch(**{**branch, "norm": norm})


class BackwardCall(Call):
    """A projection whose statistics were taken from its input, and one whose norm goes by running statistics."""

    def __init__(self, backend, device, dtype=torch.float32):
        super().__init__(backend, device, dtype)
        self.dy, self.mask = self.filled(2, 6, 3, 4), self.packed_mask()
        self.relu, self.tf32 = True, False
        self.main = self.branch(self.filled(2, 5, 3, 4), 1)
        self.main["norm"] |= {"mean": None, "mu": self.floats(5), "cov": self.floats(5, 5)}
        self.shortcut = self.branch(self.filled(2, 7, 6, 7), 2)
        self.shortcut["norm"]["training"] = False

    def floats(self, *shape):
        return self.filled(*shape, dtype=torch.float32)

    def branch(self, x, stride):
        return {
            "source": "projection",
            "x": x,
            "weight": self.filled(6, x.shape[1], 1, 1),
            "stride": stride,
            "channels_before": 0,
            "norm": self.norm(),
            "dx": self.filled(*x.shape),
            "dweight": self.filled(6, x.shape[1], 1, 1),
            **{f"d{vector}": self.filled(6) for vector in ("bias", "gamma", "beta")},
        }

    def norm(self):
        statistics = {"mean": self.floats(6), "var": self.floats(6), "mu": None, "cov": None}
        return {"weight": self.filled(6), "bias": None, "eps": 1e-5, "training": True, **statistics}

    def plain(self, source, dx):
        """Makes the shortcut a source without parameters."""
        nothing = dict.fromkeys(("x", "weight", "norm", "dweight", "dbias", "dgamma", "dbeta"))
        self.shortcut |= {**nothing, "source": source, "stride": 1, "dx": dx}

    def made(self):
        branches = [None if branch is None else self._branch(branch) for branch in (self.main, self.shortcut)]
        output = {"dy": self.dy, "mask": self.mask, "relu": self.relu}
        return self.module.Backward(main=branches[0], shortcut=branches[1], **output, tf32=self.tf32)

    def _branch(self, branch):
        norm = None if branch["norm"] is None else self.module.NormGradient(**branch["norm"])
        return self.module.BranchGradient(**{**branch, "norm": norm})


def _is_readable(value):
    return isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_meta


def refusal(call):
    """The message with which the call is refused, which must have no other effect."""
    before = [(t, t.clone()) for t in call.tensors()]
    if call.device == "cpu":
        with recorded_launches() as launches, pytest.raises(RuntimeError) as raised:
            call.made().run()
        assert launches == []
    else:
        with pytest.raises(RuntimeError) as raised:
            call.made().run()
    assert all(torch.equal(tensor, copy) for tensor, copy in before)
    return str(raised.value)
