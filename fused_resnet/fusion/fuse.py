"""`fuse` and `unfuse` on whole models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from torch import nn

from ..conversion import recomputation
from ..nn import ResidualBlock
from .additions import may_add
from .block import FusedBlock, restore, swap
from .leaves import PROGRAM, containers, is_block, is_norm
from .matching import BY_ITSELF
from .options import Options
from .plan import Plan, plan
from .report import FusionReport

Model = TypeVar("Model", bound=nn.Module)
Filter = Callable[[str, nn.Module], bool]

_FILTERED = "the filter leaves it alone"
_CHAINS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def fuse(
    model: nn.Module,
    *,
    norms: bool = False,
    recompute: bool = False,
    filter: Filter | None = None,
    strict: bool = False,
    dry_run: bool = False,
) -> FusionReport:
    """Makes every residual tail of a model run as one operation, in place.

    Tails are found in the traced graph of each block, whatever the block's class: additions, with the relu after them
    and the batch norms and 1x1 convolutions before them. Parameters, buffers, hooks and names stay as they are. What
    cannot be fused runs as before and is reported. Calling it again brings the model's fused blocks up to date.

    Args:
        model: any module, a single block included.
        norms: make the other batch norms, with the relu behind each, one operation as well, in blocks and outside.
        recompute: the same, and have backward compute their outputs again in the place of keeping them, where a
            convolution, a pool or a tail is all that reads them. Takes less memory and a little more time; same bits.
        filter: called with a module's qualified name and the module; False leaves the module's own tails alone.
        strict: raise if anything that looks like a part of a tail had to be left out.
        dry_run: report only.

    Returns:
        What was fused and what was not, and why.

    Raises:
        TypeError: the model is no module, or the filter no function.
        RuntimeError: under ``strict``, or where PyTorch is too old for ``recompute``; the model is unchanged then.
    """
    _check_module(model)
    if recompute:
        recomputation.require()
    if filter is not None and not callable(filter):
        raise TypeError(f"filter is a {type(filter).__name__}, expected a function of a name and a module, or None")
    search = _Search(model, Options(norms or recompute, recompute), filter)
    if strict and search.report.refused:
        raise RuntimeError(f"not everything can be fused:\n{search.report}")
    if not dry_run:
        _apply(search.outcomes)
    return search.report


def unfuse(model: Model) -> Model:
    """Undoes `fuse`, in place: every block computes by the standard operations again. Returns the model.

    Raises:
        TypeError: the model is no module.
        RuntimeError: a block's class has been exchanged by something else since.
    """
    _check_module(model)
    for module in model.modules():
        if isinstance(module, ResidualBlock):
            module.fused = module.fused_norms = module.recompute = False
        elif isinstance(module, FusedBlock):
            restore(module)
    return model


def _check_module(model: object) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}, expected a torch.nn.Module")


class _Search:
    """What can be fused in a model.

    Inner modules come first. Each that has something to fuse is one call in the graphs of those around it. One that has
    only norms, and ends in one, waits: an addition around it may take that.

    Attributes:
        outcomes: the modules to change, and how.
        report: the same for people.
    """

    def __init__(self, model: nn.Module, options: Options, filter: Filter | None) -> None:
        self.report = FusionReport()
        self.outcomes: list[tuple[nn.Module, Plan]] = []
        self._options, self._filter = options, filter
        self._leaves: set[nn.Module] = set()
        self._looked_through: set[nn.Module] = set()
        self._untraceable: dict[str, str] = {}
        self._filtered: set[str] = set()
        waiting: list[tuple[str, nn.Module, Plan]] = []
        for name, block in _blocks(model, options.norms):
            outcome = self._plan(block)
            if not outcome.traceable:
                self._leaves.add(block)
            if outcome.program is not None and outcome.waits:
                waiting.append((name, block, outcome))
            else:
                self._settle(name, block, outcome)
        for name, block, outcome in reversed(waiting):
            seen = block in self._looked_through
            self._settle(name, block, Plan(left=outcome.left) if seen else outcome)
        self._account_for_norms(model)

    def _plan(self, block: nn.Module) -> Plan:
        if isinstance(block, ResidualBlock):
            return _plan_of_own(block, self._options)
        return plan(block, self._leaves, self._options)

    def _settle(self, name: str, block: nn.Module, outcome: Plan) -> None:
        if self._filter is not None and not self._filter(name, block):
            self._filtered |= {f"{name}.{path}" if name else path for path in outcome.norms}
            if outcome.description:
                self.report.left[name] = _FILTERED
            return
        if outcome.program is not None:
            self._leaves.add(block)
            self._looked_through.update(module for _, module in containers(block, self._leaves - {block}))
        self.outcomes.append((block, outcome))
        self._report(name, block, outcome)

    def _report(self, name: str, block: nn.Module, outcome: Plan) -> None:
        def qualified(path: str) -> str:
            return ".".join(filter(None, (name, path)))

        if outcome.description:
            self.report.fused[name] = outcome.description
        # A forward that calls its child's forward has the child's norms in its own graph, beside the child's.
        taken = map(qualified, outcome.norms)
        self.report.fused_norms += [path for path in taken if path not in self.report.fused_norms]
        for path, reason in outcome.left.items():
            self.report.left[qualified(path)] = reason
        if outcome.traceable or _looks_like_a_block(block):
            for path, reason in outcome.refused.items():
                self.report.refused[qualified(path)] = reason
        if not outcome.traceable:
            self._untraceable[name] = outcome.refused[""]
            if name not in self.report.refused and may_add(block):
                self.report.left[name] = f"it may add: {outcome.refused['']}"

    def _account_for_norms(self, model: nn.Module) -> None:
        """Each batch norm is fused, or refused, or left with a reason."""
        report = self.report
        for name, module in model.named_modules():
            if not is_norm(module):
                continue
            if name in report.fused_norms:
                report.left.pop(name, None)
                report.refused.pop(name, None)
            elif name in report.refused:
                report.left.pop(name, None)
            elif name not in report.left:
                report.left[name] = self._why_left(name)

    def _why_left(self, name: str) -> str:
        """The reason, from the innermost module around it that has no graph."""
        if name in self._filtered:
            return _FILTERED
        around = [path for path in self._untraceable if not path or name.startswith(f"{path}.") or name == path]
        if not around:
            return "no forward that can be traced calls it"
        path = max(around, key=len)
        return f"{path or 'the model'}: {self._untraceable[path]}"


def _blocks(model: nn.Module, norms: bool) -> Iterator[tuple[str, nn.Module]]:
    """Every module that may have a tail of its own, inner ones first."""
    seen: set[nn.Module] = set()

    def walk(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
        if module in seen:
            return
        seen.add(module)
        if not isinstance(module, ResidualBlock):
            for child_name, child in module.named_children():
                yield from walk(f"{name}.{child_name}" if name else child_name, child)
        if _may_have_tails(module, norms):
            yield name, module

    return walk("", model)


def _may_have_tails(module: nn.Module, norms: bool) -> bool:
    if isinstance(module, (ResidualBlock, FusedBlock)):
        return True
    if not is_block(module) or (type(module) in _CHAINS and not (norms and isinstance(module, nn.Sequential))):
        return False
    inside = (isinstance(inner, (nn.Conv2d, nn.ReLU)) or is_norm(inner) for inner in module.modules())
    return not module._modules or may_add(module) or any(inside)


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


def _plan_of_own(block: ResidualBlock, options: Options) -> Plan:
    """Plans a block of this package, which knows its tail."""
    taken, refused = block.norms(options.norms), block.refusals()
    others = [name for name, module in block.named_modules() if is_norm(module) and name not in (*taken, *refused)]
    left = dict.fromkeys(others, "its tail is left as it is" if refused else BY_ITSELF)
    return Plan(description=block.describe(), refused=refused, norms=taken, left=left, options=options)


def _change(block: nn.Module, outcome: Plan) -> None:
    if isinstance(block, ResidualBlock):
        block.fused, (block.fused_norms, block.recompute) = True, outcome.options
    elif outcome.program is not None:
        swap(block, outcome.program)
    elif isinstance(block, FusedBlock):
        restore(block)


def _looks_like_a_block(module: nn.Module) -> bool:
    """Whether a module that cannot be traced is worth a word: most are only containers with much to decide."""
    return any(map(is_norm, module.children()))
