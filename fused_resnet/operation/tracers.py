"""Tracers and compilers that cannot take a fused tail, and what to give them in its place."""

from __future__ import annotations

from typing import NoReturn

import torch

_ADVICE = "fused_resnet.unfuse(copy.deepcopy(model)), which computes the same by PyTorch's own operations"


def refuse_tracers() -> None:
    """Raises RuntimeError within ``torch.jit.trace`` and ``torch.onnx.export``."""
    if _exports_to_onnx():
        # Once this has raised, torch.onnx tries again by way of Dynamo, which takes the answer for False unless told.
        torch.compiler.assume_constant_result(_exports_to_onnx)
        raise RuntimeError(f"a fused residual tail cannot be exported to ONNX: export {_ADVICE}")
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        raise RuntimeError(f"a fused residual tail cannot be traced by torch.jit: trace {_ADVICE}")


def refuse_scripting(instead: str) -> NoReturn:
    """Raises RuntimeError in the place of ``torch.jit.script``; `instead` is what to do with the unfused model."""
    raise RuntimeError(f"a residual block of fused_resnet cannot be compiled by torch.jit.script: {instead} {_ADVICE}")


def _exports_to_onnx() -> bool:
    return torch.onnx.is_in_onnx_export()
