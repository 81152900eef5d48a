"""The process's generators of random numbers: PyTorch's on the CPU, Python's and numpy's."""

from __future__ import annotations

import random
import sys
from typing import Any, NamedTuple

import torch
from torch import Tensor


class States(NamedTuple):
    """All but PyTorch's can be compared; numpy's is None where numpy is not in use."""

    torch: Tensor
    python: tuple[Any, ...]
    numpy: dict[str, Any] | None


def generator_states() -> States:
    """Their states now."""
    return States(torch.get_rng_state(), random.getstate(), _numpy_state())


def restore_generators(states: States) -> None:
    """Puts them back to what `generator_states` returned."""
    torch.set_rng_state(states.torch)
    random.setstate(states.python)
    if states.numpy is not None:
        sys.modules["numpy"].random.set_state(states.numpy)


def _numpy_state() -> dict[str, Any] | None:
    """The state of numpy's generator as plain data."""
    if "numpy" not in sys.modules:
        return None
    state: dict[str, Any] = sys.modules["numpy"].random.get_state(legacy=False)
    return {**state, "state": {**state["state"], "key": state["state"]["key"].tolist()}}
