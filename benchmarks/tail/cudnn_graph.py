"""A tail as one graph of cuDNN's, through PyPI's ``nvidia-cudnn-frontend``: convolution, scale, bias, addition, relu.

Written after that project's documentation and its own tests, and not yet run: no machine with a GPU was at hand.
Whatever it raises is a note beside the other ways' times.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor, nn

from .folded import affine


def load() -> Any:
    """The module ``cudnn``.

    Raises:
        ImportError: it is not installed.
    """
    return importlib.import_module("cudnn")


class Graph:
    """``relu(norm(conv(x)) + addend)`` in evaluation, all three tensors channels_last of the first call's sizes."""

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
        self._cudnn = load()
        self._handle = self._cudnn.create_handle()
        self._weight = conv.weight.detach().contiguous(memory_format=torch.channels_last)
        self._scale, self._shift = (v.float()[None, :, None, None] for v in affine(norm))
        self._built: tuple[Any, dict[str, Any], Tensor] | None = None

    def __call__(self, x: Tensor, addend: Tensor) -> Tensor:
        if self._built is None:
            self._built = self._build(x, addend)
        graph, names, workspace = self._built
        y = torch.empty_like(addend)
        stream = torch.cuda.current_stream(x.device).cuda_stream
        self._cudnn.set_stream(handle=self._handle, stream=stream)
        given = {"x": x, "weight": self._weight, "scale": self._scale, "shift": self._shift, "addend": addend, "y": y}
        graph.execute({names[name]: tensor for name, tensor in given.items()}, workspace, handle=self._handle)
        return y

    def _build(self, x: Tensor, addend: Tensor) -> tuple[Any, dict[str, Any], Tensor]:
        cudnn = self._cudnn
        types = {
            torch.float32: cudnn.data_type.FLOAT,
            torch.float16: cudnn.data_type.HALF,
            torch.bfloat16: cudnn.data_type.BFLOAT16,
        }
        graph = cudnn.pygraph(
            io_data_type=types[x.dtype],
            intermediate_data_type=cudnn.data_type.FLOAT,
            compute_data_type=cudnn.data_type.FLOAT,
            handle=self._handle,
        )
        inputs = {"x": x, "weight": self._weight, "scale": self._scale, "shift": self._shift, "addend": addend}
        names = {name: graph.tensor_like(tensor.detach()) for name, tensor in inputs.items()}
        product = graph.conv_fprop(
            image=names["x"], weight=names["weight"], padding=[0, 0], stride=[1, 1], dilation=[1, 1]
        )
        scaled = graph.mul(a=product, b=names["scale"])
        shifted = graph.add(a=scaled, b=names["shift"])
        names["y"] = graph.relu(input=graph.add(a=shifted, b=names["addend"]))
        names["y"].set_output(True).set_data_type(types[x.dtype])
        graph.build([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
        workspace = torch.empty(graph.get_workspace_size(), device=x.device, dtype=torch.uint8)
        return graph, names, workspace
