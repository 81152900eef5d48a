"""Processes that share the statistics of a tail's norms, one after another in this one: a part of the batch for each.

Each makes the calls of the compiled module that it would make by itself; what processes exchange is combined here, in
double. The reference is plain PyTorch on the whole batch.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from emulated import module_of
from samples import Sample, Tail, TailBranch, build
from torch import Tensor
from torch.func import functional_call

from fused_resnet.operation.relu_mask import packed_shape

VECTORS = ("norm.weight", "norm.bias")


class Case:
    """A tail with its batch, cut into parts of so many images; norms of `local` branches ("main") are not shared."""

    def __init__(self, sample: Sample, parts: Sequence[int], device: str, local: Sequence[str] = ()) -> None:
        self.tail, inputs, dy = build(sample, device)
        self.parts, self.local = parts, local
        self.inputs = {name: x.detach().split(parts) for name, x in inputs.items()}
        self.dys = dy.split(parts)

    @property
    def branches(self) -> dict[str, TailBranch]:
        return {name: branch for name, branch in self.tail.named_children() if branch is not None}

    def shares(self, name: str) -> bool:
        return self.branches[name].sample.norm == "training" and name not in self.local


class Process:
    """One process' calls of the module."""

    def __init__(self, backend: str, case: Case, rank: int) -> None:
        self.module, self.case = module_of(backend), case
        self.dy = case.dys[rank]
        self.inputs = {name: x[rank] for name, x in case.inputs.items()}
        self.rows = self.dy.numel() // self.dy.shape[1]
        self.y = torch.empty_like(self.dy, memory_format=torch.contiguous_format)
        self.relu = case.tail.activation == "relu"
        self.mask = None
        if self.relu and not self._masks_input:
            shape = packed_shape(self.y.shape, self.y.element_size())
            self.mask = torch.empty(shape, dtype=torch.uint8, device=self.y.device)
        self.gradients: dict[str, Tensor] = {}
        described = [self._described(name, branch) for name, branch in case.branches.items()]
        self.forward = self.module.Forward(
            main=described[0],
            shortcut=described[1] if len(described) == 2 else None,
            y=self.y,
            mask=self.mask,
            relu=self.relu,
            tf32=torch.backends.cudnn.allow_tf32,
        )

    @property
    def _masks_input(self) -> bool:
        """Whether the relu is of one direct source's norm alone, which leaves no mask."""
        (first, *others) = self.case.branches.values()
        return self.relu and not others and first.sample.source == "direct" and first.norm is not None

    def _described(self, name: str, branch: TailBranch) -> Any:
        return self.module.Branch(
            source=branch.sample.source,
            x=self.inputs[f"{name}.x"],
            stride=branch.sample.stride,
            channels_before=0,
            weight=None if branch.conv is None else branch.conv.weight.detach(),
            bias=None if branch.conv is None else _detached(branch.conv.bias),
            norm=None if branch.norm is None else self._norm(branch.norm, branch.norm.training),
        )

    def _norm(self, norm: torch.nn.BatchNorm2d, training: bool) -> Any:
        return self.module.Norm(
            weight=_detached(norm.weight),
            bias=_detached(norm.bias),
            running_mean=None if training else norm.running_mean,
            running_var=None if training else norm.running_var,
            num_batches_tracked=None,
            momentum=0.1,
            eps=norm.eps,
            training=training,
            keep=True,
        )

    def backward(self, shared: bool, own_means: dict[str, Tensor]) -> Any:
        """The backward call; norms are shared where the case says so, with this process's own means, by branch."""
        described = [
            self._gradient(i, name, branch, shared, own_means)
            for i, (name, branch) in enumerate(self.case.branches.items())
        ]
        return self.module.Backward(
            main=described[0],
            shortcut=described[1] if len(described) == 2 else None,
            dy=self.dy,
            mask=self.mask,
            relu=self.relu,
            tf32=torch.backends.cudnn.allow_tf32,
        )

    def _gradient(self, index: int, name: str, branch: TailBranch, shared: bool, own_means: dict[str, Tensor]) -> Any:
        identity = branch.sample.source == "direct" and branch.norm is None
        reads = not identity and branch.sample.source != "zero_pad"
        x, conv = self.inputs[f"{name}.x"], branch.conv
        into = {
            "x": None if identity and self.case.tail.activation is None else torch.empty_like(x),
            "conv.weight": None if conv is None else torch.empty_like(conv.weight),
            **{part: self._empty_vector(branch, part) for part in VECTORS},
        }
        self.gradients |= {f"{name}.{part}": t for part, t in into.items() if t is not None}
        shared = shared and self.case.shares(name)
        statistics = self.forward.statistics(index)
        return self.module.BranchGradient(
            source=branch.sample.source,
            x=x if reads else None,
            weight=None if conv is None else conv.weight.detach(),
            stride=branch.sample.stride,
            channels_before=0,
            norm=None
            if branch.norm is None
            else self.module.NormGradient(
                weight=_detached(branch.norm.weight),
                bias=_detached(branch.norm.bias),
                eps=branch.norm.eps,
                training=branch.norm.training,
                mean=statistics.mean,
                var=statistics.var,
                mu=statistics.mu,
                cov=statistics.cov,
                shared=shared,
                own_mean=own_means[name] if shared and conv is not None else None,
            ),
            dx=into["x"],
            dweight=into["conv.weight"],
            dbias=None,
            dgamma=into["norm.weight"],
            dbeta=into["norm.bias"],
        )

    @staticmethod
    def _empty_vector(branch: TailBranch, part: str) -> Tensor | None:
        has = branch.norm is not None and branch.sample.affine
        return torch.empty_like(branch.get_parameter(part)) if has else None


def _detached(t: Tensor | None) -> Tensor | None:
    return None if t is None else t.detach()


def processes_of(backend: str, case: Case) -> list[Process]:
    return [Process(backend, case, rank) for rank in range(len(case.parts))]


def run_forward(processes: Sequence[Process]) -> list[dict[str, Tensor]]:
    """All processes' outputs; returns what each one's means were, by branch."""
    case = processes[0].case
    for process in processes:
        process.forward.summarise()
    own_means: list[dict[str, Tensor]] = [{} for _ in processes]
    for index, name in enumerate(case.branches):
        if not case.shares(name):
            continue
        statistics = [process.forward.statistics(index) for process in processes]
        mean, var = combined([(process.rows, s.mean, s.var) for process, s in zip(processes, statistics, strict=True)])
        for own, of in zip(own_means, statistics, strict=True):
            own[name] = of.mean.clone()
            of.mean.copy_(mean)
            of.var.copy_(var)
    for process in processes:
        process.forward.apply()
    return own_means


def combined(parts: Sequence[tuple[int, Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of all rows, from rows, mean and variance of each part, in the order of the parts."""
    rows = sum(count for count, _, _ in parts)
    mean = sum(count * m.double() for count, m, _ in parts) / rows
    return mean, sum(count * (v.double() + (m.double() - mean) ** 2) for count, m, v in parts) / rows


def run_backward(processes: Sequence[Process], own_means: Sequence[dict[str, Tensor]]) -> None:
    """All processes' gradients."""
    rows = sum(process.rows for process in processes)
    calls = [process.backward(True, own) for process, own in zip(processes, own_means, strict=True)]
    for call in calls:
        call.summarise()
    total = sum(call.sums().double() for call in calls)
    for process, call in zip(processes, calls, strict=True):
        call.sums().copy_(total * process.rows / rows)
        call.complete()


def results_of(processes: Sequence[Process]) -> dict[str, Tensor]:
    """The batch's output and inputs' gradients, a weight's gradient of each process, and the sums of vectors'."""
    results = {"output": torch.cat([process.y for process in processes])}
    for name in processes[0].gradients:
        parts = [process.gradients[name] for process in processes]
        if name.endswith(".x"):
            results[name] = torch.cat(parts)
        elif name.endswith("conv.weight"):
            results |= {f"{name} of {rank}": part for rank, part in enumerate(parts)}
        else:
            results[name] = sum(part.double() for part in parts).to(parts[0].dtype)
    return results


def reference(
    case: Case, mask: Tensor | None, dtype: torch.dtype | None = None, other: Tail | None = None
) -> dict[str, Tensor]:
    """The same by plain PyTorch, with backward under a mask in place of the relu's; in float64 if asked for.

    `other` is a tail that takes the place of the case's.
    """
    tail = copy.deepcopy(other or case.tail)
    tail = tail if dtype is None else tail.to(dtype)
    leaves: dict[str, Tensor] = {}

    def leaf(name: str, t: Tensor) -> Tensor:
        leaves[name] = t.detach().to(dtype or t.dtype).requires_grad_()
        return leaves[name]

    z = _sum_of_branches(case, tail, leaf)
    dy = torch.cat(case.dys).to(z.dtype)
    for name, branch in case.branches.items():
        if branch.norm is not None and branch.sample.affine:
            leaves |= {f"{name}.{part}": tail.get_parameter(f"{name}.{part}") for part in VECTORS}
    gradients = torch.autograd.grad(z, list(leaves.values()), dy if mask is None else dy * mask)
    results = {"output": (z if tail.activation is None else z.relu()).detach()}
    found = dict(zip(leaves, gradients, strict=True))
    for name in case.inputs:
        results[name] = torch.cat([found.pop(f"{name} of {rank}") for rank in range(len(case.parts))])
    return results | found


def _sum_of_branches(case: Case, tail: Tail, leaf: Callable[[str, Tensor], Tensor]) -> Tensor:
    sums = []
    for name in case.branches:
        branch = tail.get_submodule(name)
        parts = [leaf(f"{name}.x of {rank}", x) for rank, x in enumerate(case.inputs[f"{name}.x"])]
        if branch.conv is not None:  # a copy of the weight for each process, which gets a gradient of its own
            weights = [leaf(f"{name}.conv.weight of {rank}", branch.conv.weight) for rank in range(len(parts))]
            each = zip(parts, weights, strict=True)
            parts = [functional_call(branch.conv, {"weight": w}, (x,)) for x, w in each]
        elif branch.sample.source == "zero_pad":
            parts = [branch(x) for x in parts]
        if branch.norm is None:
            sums.append(torch.cat(parts))
        elif name in case.local:
            sums.append(torch.cat([branch.norm(x) for x in parts]))
        else:
            sums.append(branch.norm(torch.cat(parts)))
    return sum(sums[1:], start=sums[0])
