"""`fuse` and `unfuse` on whole models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from ..nn import ResidualBlock
from .block import FusedBlock, restore, swap
from .leaves import PROGRAM, is_block
from .plan import Plan, plan
from .report import FusionReport

Model = TypeVar("Model", bound=nn.Module)


def fuse(
    model: nn.Module,
    *,
    filter: Callable[[str, nn.Module], bool] | None = None,
    strict: bool = False,
    dry_run: bool = False,
) -> FusionReport:
    """Makes every residual tail of a model run as one operation, in place.

    Tails are found in the traced graph of each block, whatever the block's class: additions, with the relu after them
    and the batch norms and 1x1 convolutions before them. Parameters, buffers, hooks and names stay as they are. What
    cannot be fused runs as before and is reported. Calling it again brings the model's fused blocks up to date.

    Args:
        model: any module, a single block included.
        filter: called with a module's qualified name and the module; False leaves the module's own tails alone.
        strict: raise if anything that looks like a part of a tail had to be left out.
        dry_run: report only.

    Returns:
        What was fused and what was not, and why.

    Raises:
        TypeError: the model is no module, or the filter no function.
        RuntimeError: under ``strict``; the model is unchanged then.
    """
    _check_module(model)
    if filter is not None and not callable(filter):
        raise TypeError(f"filter is a {type(filter).__name__}, expected a function of a name and a module, or None")
    report = FusionReport()
    outcomes: list[tuple[nn.Module, Plan]] = []
    leaves: set[nn.Module] = set()
    for name, block in _blocks(model):
        if isinstance(block, ResidualBlock):
            outcome = Plan(description=block.describe(), refused=block.refusals())
        else:
            outcome = plan(block, leaves)
        if not outcome.traceable:
            leaves.add(block)
        if filter is not None and not filter(name, block):
            continue
        if outcome.program is not None:
            leaves.add(block)
        outcomes.append((block, outcome))
        _add_to_report(report, name, block, outcome)
    if strict and report.refused:
        raise RuntimeError(f"not everything can be fused:\n{report}")
    if not dry_run:
        _apply(outcomes)
    return report


def unfuse(model: Model) -> Model:
    """Undoes `fuse`, in place: every block computes by the standard operations again. Returns the model.

    Raises:
        TypeError: the model is no module.
        RuntimeError: a block's class has been exchanged by something else since.
    """
    _check_module(model)
    for module in model.modules():
        if isinstance(module, ResidualBlock):
            module.fused = False
        elif isinstance(module, FusedBlock):
            restore(module)
    return model


def _check_module(model: object) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}, expected a torch.nn.Module")


def _blocks(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module that may have a tail of its own, inner ones first."""
    seen: set[nn.Module] = set()

    def walk(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
        if module in seen:
            return
        seen.add(module)
        if not isinstance(module, ResidualBlock):
            for child_name, child in module.named_children():
                yield from walk(f"{name}.{child_name}" if name else child_name, child)
        chains = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
        own = isinstance(module, ResidualBlock) or (is_block(module) and type(module) not in chains)
        if own and any(isinstance(inner, nn.Conv2d) for inner in module.modules()):
            yield name, module

    return walk("", model)


def _apply(outcomes: Sequence[tuple[nn.Module, Plan]]) -> None:
    """Changes all of the blocks, or none."""
    former: list[tuple[nn.Module, type, dict[str, Any]]] = []
    try:
        for block, outcome in outcomes:
            former.append((block, type(block), dict(vars(block))))
            _change(block, outcome)
    except BaseException:
        for block, cls, attributes in former:
            block.__class__ = cls
            vars(block).pop(PROGRAM, None)
            vars(block).update(attributes)
        raise


def _change(block: nn.Module, outcome: Plan) -> None:
    if isinstance(block, ResidualBlock):
        block.fused = True
    elif outcome.program is not None:
        swap(block, outcome.program)
    elif isinstance(block, FusedBlock):
        restore(block)


def _add_to_report(report: FusionReport, name: str, block: nn.Module, outcome: Plan) -> None:
    if outcome.description:
        report.fused[name] = outcome.description
    if outcome.traceable or _looks_like_a_block(block):
        for path, reason in outcome.refused.items():
            report.refused[".".join(filter(None, (name, path)))] = reason


def _looks_like_a_block(module: nn.Module) -> bool:
    """Whether a module that cannot be traced is worth a word: most are only containers with much to decide."""
    children = list(module.children())
    return all(any(isinstance(child, kind) for child in children) for kind in (nn.Conv2d, _NormBase))
