# What csrc/bindings.cpp makes of the kernels, for tools that read types; tests hold it against the built modules.
# Shapes: activations (N, C, H, W), weights (C, K, 1, 1), a norm's vectors (C).

from collections.abc import Sequence

from torch import Tensor

class Norm:
    def __init__(
        self,
        *,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        num_batches_tracked: Tensor | None,
        momentum: float | None,
        eps: float,
        training: bool,
        keep: bool,
    ) -> None: ...

class Branch:
    def __init__(
        self,
        *,
        source: str,
        x: Tensor,
        stride: int,
        channels_before: int,
        weight: Tensor | None,
        bias: Tensor | None,
        norm: Norm | None,
    ) -> None: ...

class NormStatistics:
    @property
    def mean(self) -> Tensor | None: ...
    @property
    def var(self) -> Tensor | None: ...
    @property
    def mu(self) -> Tensor | None: ...
    @property
    def cov(self) -> Tensor | None: ...

class Forward:
    def __init__(
        self,
        *,
        main: Branch,
        shortcut: Branch | None,
        y: Tensor,
        mask: Tensor | None,
        relu: bool,
        tf32: bool,
    ) -> None: ...
    def run(self) -> None: ...
    def moments(self) -> None: ...
    def finish(self) -> None: ...
    def apply(self) -> None: ...
    def summarise(self) -> None: ...
    def statistics(self, branch: int) -> NormStatistics: ...

class NormGradient:
    def __init__(
        self,
        *,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        training: bool,
        mean: Tensor | None,
        var: Tensor | None,
        mu: Tensor | None,
        cov: Tensor | None,
        shared: bool = False,
        own_mean: Tensor | None = None,
    ) -> None: ...

class BranchGradient:
    def __init__(
        self,
        *,
        source: str,
        x: Tensor | None,
        weight: Tensor | None,
        stride: int,
        channels_before: int,
        norm: NormGradient | None,
        dx: Tensor | None,
        dweight: Tensor | None,
        dbias: Tensor | None,
        dgamma: Tensor | None,
        dbeta: Tensor | None,
    ) -> None: ...

class Backward:
    def __init__(
        self,
        *,
        main: BranchGradient,
        shortcut: BranchGradient | None,
        dy: Tensor,
        mask: Tensor | None,
        relu: bool,
        tf32: bool,
    ) -> None: ...
    def run(self) -> None: ...
    def reduce(self) -> None: ...
    def finish(self) -> None: ...
    def apply(self) -> None: ...
    def summarise(self) -> None: ...
    def sums(self) -> Tensor: ...
    def complete(self) -> None: ...

def run_remembered(main: object, shortcut: object, relu: bool) -> Tensor | None: ...
def is_unknown(*, main: object, shortcut: object, relu: bool) -> bool: ...
def remember(
    *,
    main: object,
    shortcut: object,
    relu: bool,
    call: Forward,
    given: Sequence[Tensor | None],
    saved: Sequence[Tensor | None],
    settings: object,
) -> bool: ...
def remember_library(*, main: object, shortcut: object, relu: bool, of_main: bool, of_shortcut: bool) -> None: ...
def set_choices(choices: int) -> None: ...
def connect(
    *,
    direct: type,
    projection: type,
    zero_pad: type,
    norm: type,
    describe_backward: object,
    call_backward: object,
) -> None: ...

tile: tuple[int, int, int]

def launch_needs() -> dict[str, tuple[int, int, int]]: ...
