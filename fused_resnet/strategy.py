"""Two ways to a batch norm behind a projection, and which of them is asked for.

``moments`` derives the norm's statistics from the mean and covariance of the projection's *input* (``docs/design.md``,
section 3), so that the projection's output is never written. ``library`` leaves the projection to PyTorch's own
convolution, whose output the tail then starts from, and autograd keeps.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

from .operation.setting import RestoredOnExit, Setting

StrategyChoice: TypeAlias = Literal["moments", "library", "auto"]

choice: Setting[StrategyChoice] = Setting("auto")


def use_strategy(strategy: StrategyChoice) -> RestoredOnExit[StrategyChoice]:
    """Forces a strategy for every later call, or, as a context manager, for those within.

    "auto" (the default) decides call by call (`fused_resnet.cost.choice`). On a GPU it decides by time, and may also
    leave a tail to PyTorch's own operations. Results agree up to rounding.

    Raises:
        ValueError: the strategy is none of "moments", "library", "auto".
    """
    if strategy not in get_args(StrategyChoice):
        raise ValueError(f"strategy is {strategy!r}, expected one of {', '.join(map(repr, get_args(StrategyChoice)))}")
    return choice.set(strategy)


def current_strategy() -> StrategyChoice:
    """What `use_strategy` last chose."""
    return choice.value
