"""FUSED_RESNET_REQUIRE: whether a tail that the kernels do not compute is an error, in place of a fallback."""

from __future__ import annotations

import os

_VARIABLE = "FUSED_RESNET_REQUIRE"


def kernels_required() -> bool:
    """Whether FUSED_RESNET_REQUIRE=cuda is in the environment, which is read at each call.

    Raises:
        ValueError: the variable is neither "cuda" nor empty.
    """
    value = os.environ.get(_VARIABLE, "")
    if value not in ("", "cuda"):
        raise ValueError(f"{_VARIABLE} is {value!r}, expected 'cuda' or nothing")
    return value == "cuda"


def require_kernels(reason: str) -> None:
    """Called ahead of a fallback from the kernels to plain PyTorch, with the reason for it.

    Raises:
        RuntimeError: FUSED_RESNET_REQUIRE=cuda forbids it.
        ValueError: FUSED_RESNET_REQUIRE is neither "cuda" nor empty.
    """
    if kernels_required():
        raise RuntimeError(f"{_VARIABLE}=cuda, but the CUDA kernels do not compute this residual tail: {reason}")
