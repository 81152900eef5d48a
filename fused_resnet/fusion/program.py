"""A block's fused forward: its graph with each tail as one call, and the conditions under which it may run."""

from __future__ import annotations

import copy
from collections.abc import Callable, Set
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from ..conversion.frozen_norms import FrozenNorm
from ..conversion.modules import (
    branch_of,
    frozen_refusal,
    has_hooks,
    hooks_for_all,
    leave_out,
    norm_with_relu_or,
    refusal,
    residual_tail_or,
)
from ..examined import Examined
from ..operation.branches import Activation, Branch, Direct, ZeroPad
from .found import Part, Tail
from .leaves import containers, finder, unfused_class
from .options import Options
from .settings import Settings
from .watched import Watched

# Modules of PyTorch's that keep what they read for backward, and nothing else of that size.
_KEEP_THEIR_INPUT = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)
# Methods of a fused block, which its graph calls.
RUN_TAIL, RUN_TAIL_FORGETTING, RUN_FORGETTING = "_run_tail", "_run_tail_forgetting", "_run_forgetting"


class Program:
    """What a fused block runs in the place of its forward."""

    def __init__(
        self, block: nn.Module, graph: fx.Graph, leaves: Set[nn.Module], tails: list[Tail], options: Options
    ) -> None:
        self._options = options
        self._guards = [_Guard(path, module) for path, module in containers(block, leaves)]
        self._watched = Watched(Settings(block, leaves))
        self._leaves = [path for path, module in block.named_modules() if module in leaves]
        self._arguments = sum(node.op == "placeholder" for node in graph.nodes)
        self._examined = Examined()
        self.tails = [_RunnableTail(tail) for tail in tails]
        calls = _replace_tails(graph, tails)
        if options.recompute:
            for runnable, call, tail in zip(self.tails, calls, tails, strict=True):
                runnable.recomputed = _forget(block, call, tail)
        self.forward = _compile(graph, type(block).__name__)

    def refusal(self, block: nn.Module, arguments: tuple[Any, ...]) -> str | None:
        """Why the program cannot run: the block is not as it was when its graph was traced, or not called as it was.

        Hooks count as a change: the graph passes the modules by that they are registered on. (Those of the block
        itself have fired already.)
        """
        if len(arguments) != self._arguments:
            return f"it is called with {len(arguments)} arguments, and was traced with {self._arguments}"
        if torch.compiler.is_dynamo_compiling():
            return self._examine(block)
        if not self._examined.holds_for(block):
            reason = self._examine(block)
            if reason is not None:
                return reason
            containers = [guard.module(block) for guard in self._guards]
            others = [module for tail in self.tails for module in tail.modules(block)]
            self._examined.note(block, containers, others, self._watched.views(block), self._watched.reads(block))
        return hooks_for_all()

    def _examine(self, block: nn.Module) -> str | None:
        for guard in self._guards:
            reason = guard.refusal(block)
            if reason is not None:
                return reason
        for guard in self._guards[1:]:
            if has_hooks(guard.module(block)):
                return f"{guard.path} has hooks"
        reason = self._watched.change(block) or hooks_for_all()
        if reason is not None:
            return reason
        for tail in self.tails:
            reason = tail.refusal(block)
            if reason is not None:
                return reason
        return None

    def __deepcopy__(self, memo: dict[int, Any]) -> Program:
        """Serves a deep copy of the block: it finds modules by name and compares attributes with the copy's own."""
        twin = object.__new__(Program)
        vars(twin).update({name: copy.deepcopy(value, memo) for name, value in vars(self).items()})
        return twin

    def __reduce__(self) -> tuple[type[StaleProgram], tuple[list[str], Options, int]]:
        # Compiled code is not pickled: an unpickled block traces itself again.
        return StaleProgram, (self._leaves, self._options, self.size)

    @property
    def size(self) -> int:
        """How many modules its tails do the work of."""
        return sum(tail.size for tail in self.tails)


class StaleProgram:
    """What is left of a program in a pickle.

    Attributes:
        options: what `fuse` was asked for.
        size: how many modules the program's tails did the work of; 0 where that is not known.
        refusal: why there is no program in its place yet.
        fails_for_good: whether there will be none.
    """

    refusal = "it has been unpickled, and not been called since"
    fails_for_good = False

    def __init__(self, leaves: list[str], options: Options | None = None, size: int = 0) -> None:
        """`leaves`: paths of the modules that the graph did not look into."""
        self._leaves, self.options, self.size = leaves, options or Options(), size

    def leaves_of(self, block: nn.Module) -> set[nn.Module]:
        """The modules that the graph did not look into."""
        return {block.get_submodule(path) for path in self._leaves}


class _Guard:
    """What a traced forward may have looked at in one module, its settings aside: class, children and their kinds."""

    def __init__(self, path: str, module: nn.Module) -> None:
        self.path = path
        self.module = finder(path)
        self._class = unfused_class(module)
        self._children = _children(module)
        self._tensors = _tensors(module)

    def refusal(self, block: nn.Module) -> str | None:
        """What has changed since, None where nothing has."""
        module = self.module(block)
        changed = self._change(module)
        return None if changed is None else f"{self.path or type(module).__name__} has changed: {changed}"

    def _change(self, module: nn.Module) -> str | None:
        if unfused_class(module) is not self._class:
            return "its class"
        if _children(module) != self._children:
            return "its children"
        if _tensors(module) != self._tensors:
            return "which parameters and buffers it has"
        # The graph passes by what is called in a container. (The block's own forward has been called already.)
        return "it has a forward of its own" if self.path and "forward" in vars(module) else None


def _children(module: nn.Module) -> list[tuple[str, type | None, Any]]:
    return [
        (name, None if child is None else _kind(child), getattr(child, "inplace", None))
        for name, child in module._modules.items()
    ]


def _kind(child: nn.Module) -> type:
    """Its class; of one whose parameters are computed from others, the class that it had before.

    A norm that shares its statistics between processes is called like any other.
    """
    if "parametrizations" in child._modules:
        return parametrize.type_before_parametrizations(child)
    return nn.BatchNorm2d if isinstance(child, nn.SyncBatchNorm) else unfused_class(child)


def _tensors(module: nn.Module) -> list[tuple[str, bool]]:
    """Names of parameters and buffers, and whether there is one."""
    return [(name, tensor is None) for own in (module._parameters, module._buffers) for name, tensor in own.items()]


class _RunnableTail:
    """A tail, from the values it starts from and the modules that the block has when it runs.

    Attributes:
        recomputed: whether backward computes its output again, and whoever reads that keeps a recipe.
        size: how many modules it does the work of.
    """

    def __init__(self, tail: Tail) -> None:
        self.recomputed = False
        self._main = _part_reader(tail.main)
        self._shortcut = None if tail.shortcut is None else _part_reader(tail.shortcut)
        self._activation: Activation = "relu" if tail.activated else None
        self._frozen = [
            (i, finder(path), part.conv is not None)
            for i, part in enumerate(tail.parts)
            for path, kind in part.modules
            if kind is FrozenNorm
        ]
        taken = [module for part in tail.parts for module in part.modules]
        if tail.relu is not None and tail.relu.op == "call_module":
            taken.append((str(tail.relu.target), nn.ReLU))
        self._taken = [(path, finder(path), kind) for path, kind in taken]
        self.size = len(taken)
        self._unfused = _compile(_graph_of(tail), "unfused tail")

    def modules(self, block: nn.Module) -> list[nn.Module]:
        """The modules whose work it does."""
        return [module(block) for _, module, _ in self._taken]

    def refusal(self, block: nn.Module) -> str | None:
        """Why the tail cannot do the work of the modules any more that it takes the place of."""
        for path, module, kind in self._taken:
            reason = refusal(module(block), kind)
            if reason is not None:
                return f"{path}: {reason}"
        return None

    def __call__(self, block: nn.Module, *sources: Tensor) -> Tensor:
        def unfused() -> Tensor:
            result: Tensor = self._unfused(block, *sources)
            return result

        for i, norm, behind_convolution in self._frozen:
            reason = frozen_refusal(norm(block), sources[i], behind_convolution)
            if reason is not None:
                return leave_out(unfused, reason)
        main = self._main(block, sources[0])
        if self.recomputed:
            return norm_with_relu_or(unfused, main)
        shortcut = None if self._shortcut is None else self._shortcut(block, sources[1])
        return residual_tail_or(unfused, main, shortcut, self._activation)


def _part_reader(part: Part) -> Callable[[nn.Module, Tensor], Branch]:
    """What describes a part as a branch of the block that it is given."""
    if part.padding is not None:
        padding, stride = part.padding, part.stride

        def read_zero_pad(block: nn.Module, x: Tensor) -> Branch:
            channels = x.shape[1] if x.dim() > 1 else 0
            return ZeroPad(x, channels + sum(padding), stride, "both" if padding[0] else "end")

        return read_zero_pad
    conv, norm = (None if path is None else finder(path) for path in (part.conv, part.norm))
    if conv is None and norm is None:
        return lambda block, x: Direct(x)
    return lambda block, x: branch_of(x, conv and conv(block), norm and norm(block))


def _replace_tails(graph: fx.Graph, tails: list[Tail]) -> list[fx.Node]:
    """Puts a call of the block's method `RUN_TAIL` where each tail's last operation was; these calls."""
    replaced: dict[fx.Node, fx.Node] = {}
    for i, tail in enumerate(tails):
        sources = [replaced.get(part.source, part.source) for part in tail.parts]
        with graph.inserting_after(tail.last):
            call = graph.create_node("call_module", RUN_TAIL, (i, *sources))
        tail.last.replace_all_uses_with(call)
        replaced[tail.last] = call
        for node in reversed(tail.nodes()):
            graph.erase_node(node)
    return [replaced[tail.last] for tail in tails]


def _forget(block: nn.Module, call: fx.Node, tail: Tail) -> bool:
    """Has the only reader of a norm's relu keep a recipe in its place; whether there is such a reader."""
    if tail.addition is not None or not tail.activated or len(call.users) != 1:
        return False
    (reader,) = call.users
    if reader.op != "call_module":
        return False
    if reader.target == RUN_TAIL:
        reader.target = RUN_TAIL_FORGETTING
    elif reader.target != RUN_TAIL_FORGETTING:
        if not isinstance(block.get_submodule(str(reader.target)), _KEEP_THEIR_INPUT) or reader.args != (call,):
            return False
        reader.args = (str(reader.target), call)
        reader.target = RUN_FORGETTING
    return True


def _graph_of(tail: Tail) -> fx.Graph:
    """The operations that a tail replaces, as a function of its sources."""
    graph = fx.Graph()
    values = {tail.main.source: graph.placeholder("main")}
    if tail.shortcut is not None:
        shortcut = graph.placeholder("shortcut")
        values.setdefault(tail.shortcut.source, shortcut)
    for node in tail.nodes():
        values[node] = graph.node_copy(node, lambda n: values[n])
    graph.output(values[tail.last])
    return graph


def _compile(graph: fx.Graph, name: str) -> Callable[..., Any]:
    """A function of the block and the graph's inputs; modules and parameters are looked up on the block."""
    code = graph.python_code("self")
    namespace = dict(code.globals)
    exec(compile(code.src, f"<fused_resnet: {name}>", "exec"), namespace)
    forward: Callable[..., Any] = namespace["forward"]
    return forward
