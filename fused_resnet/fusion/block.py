"""A fused block: the module itself, its class exchanged for a subclass whose forward runs the block's program.

Exchanging the class touches this one instance: parameters, children, hooks and names stay what and where they are, and
``isinstance`` still holds. Replicas work too, since forward receives the instance that it is called on.
"""

from __future__ import annotations

import copyreg
import functools
from abc import ABCMeta
from typing import Any, NoReturn, cast

from torch import Tensor, fx, nn

from ..conversion.recomputation import forgetting
from ..operation.requirement import require_kernels
from ..operation.tracers import refuse_scripting
from .leaves import PROGRAM, FusedForward
from .program import Program, StaleProgram
from .unpickled import renew


class FusedBlock(FusedForward, nn.Module):
    """Mixed into a block's class by `swap`."""

    _fused_program: Program | StaleProgram | None = None

    def __init_subclass__(cls) -> None:
        """Leaves out what the block's class does to those that inherit from it: it may register them."""

    def _run_tail(self, index: int, *sources: Tensor) -> Tensor:
        assert isinstance(self._fused_program, Program)
        return self._fused_program.tails[index](self, *sources)

    def _run_tail_forgetting(self, index: int, *sources: Tensor) -> Tensor:
        with forgetting(*sources):
            return self._run_tail(index, *sources)

    def _run_forgetting(self, path: str, x: Tensor) -> Tensor:
        with forgetting(x):
            y: Tensor = self.get_submodule(path)(x)
            return y

    def __prepare_scriptable__(self) -> NoReturn:
        refuse_scripting("compile")

    def __reduce_ex__(self, protocol: Any) -> Any:
        recipe: Any = super().__reduce_ex__(protocol)
        function, arguments, *rest = recipe
        if function is copyreg.__newobj__:  # type: ignore[attr-defined]
            return _new_fused, (self._unfused_class, *arguments[1:]), *rest
        plain = [self._unfused_class if part is type(self) else part for part in (function, *arguments)]
        return plain[0], tuple(plain[1:]), *rest

    def _bring_up_to_date(self) -> None:
        """Gives an unpickled block its program at the first call; a compiler runs this while it compiles that call."""
        if isinstance(self._fused_program, StaleProgram):
            renew(self)

    # As ``torch.compiler.assume_constant_result`` does, which imports the compiler.
    vars(_bring_up_to_date)["_dynamo_marked_constant"] = True

    def _replicate_for_data_parallel(self) -> Any:
        self._bring_up_to_date()  # a replica is gone after its call
        return super()._replicate_for_data_parallel()  # type: ignore[no-untyped-call]


def _new_fused(cls: type[nn.Module], *arguments: Any) -> nn.Module:
    fused = _fused_class(cls)
    block: nn.Module = fused.__new__(fused, *arguments)
    return block


def refusal(block: FusedBlock, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """Why a call of the block would run its unfused forward, None where it would not."""
    program = block._fused_program
    if isinstance(program, StaleProgram):
        return program.refusal
    if program is None:
        return "fuse was called on another instance"
    return "it is called with keyword arguments" if kwargs else program.refusal(block, args)


def swap(block: nn.Module, program: Program) -> None:
    """Makes a block run a program; called again, exchanges the program."""
    if not isinstance(block, FusedBlock):
        block.__class__ = _fused_class(type(block))
    vars(block)[PROGRAM] = program


def restore(block: FusedBlock) -> None:
    """Gives a fused block its own class back.

    Raises:
        RuntimeError: something else has exchanged the class since.
    """
    cls = block._unfused_class
    if type(block) is not _fused_class(cls):
        raise RuntimeError(f"{type(block).__name__} has been given another class since it was fused; unfuse it first")
    cast(nn.Module, block).__class__ = cls
    vars(block).pop(PROGRAM, None)


_fused_classes: dict[type[nn.Module], type[nn.Module]] = {}


def _fused_class(cls: type[nn.Module]) -> type[nn.Module]:
    if cls not in _fused_classes:
        _fused_classes[cls] = _make_fused_class(cls)
    return _fused_classes[cls]


def _make_fused_class(cls: type[nn.Module]) -> type[nn.Module]:
    @functools.wraps(cls.forward)
    def forward(self: FusedBlock, *args: Any, **kwargs: Any) -> Any:
        for argument in args:
            if isinstance(argument, fx.Proxy):
                return cls.forward(self, *args, **kwargs)
        self._bring_up_to_date()
        program = self._fused_program
        # The second is what the first does with most calls, and saves a function's call.
        if kwargs or not isinstance(program, Program):
            reason = refusal(self, args, kwargs)
        else:
            reason = program.refusal(self, args)
        if reason is not None:
            require_kernels(reason)
        if not isinstance(program, Program) or reason is not None:
            return cls.forward(self, *args, **kwargs)
        return program.forward(self, *args)

    names = ("__module__", "__qualname__", "__doc__")
    namespace = {**{name: getattr(cls, name) for name in names}, "forward": forward, "_unfused_class": cls}
    # Not by a metaclass of the user's, which may register the classes that it makes.
    make = next(made.__new__ for made in type(cls).__mro__ if made in (type, ABCMeta))
    fused: type[nn.Module] = make(type(cls), cls.__name__, (FusedBlock, cls), namespace)
    return fused
