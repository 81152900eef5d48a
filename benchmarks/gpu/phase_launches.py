"""Launches every phase of a tail of ResNet-50 once in each way, for a profiler to watch.

python -m benchmarks.gpu.phase_launches layer1.1 [--rehearse]

A process of the part ``counters``. It prints the ways, whose phases are launched in the order of `PHASES`; what is
launched to make their inputs is kept from the profiler.
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext

import torch

import fused_resnet

from ..launches import PHASES
from ..phases.calls import Inputs, kernel_way
from ..phases.columns import EAGER
from ..phases.run import ways_of
from ..process import report
from ..tail_shapes import RESNET50
from ..tails import Tail, incoming_gradient


def launch(block: str, rehearse: bool) -> None:
    shape = next(shape for shape in RESNET50 if shape.block == block)
    if rehearse:
        shape = shape.shrunk(2, 7, 16)
    device, backend = ("cpu", "emulated") if rehearse else ("cuda", "cuda")
    torch.manual_seed(0)
    tail = Tail(shape, torch.bfloat16).to(device)
    x, before = tail.inputs(device, torch.bfloat16)
    with torch.no_grad():
        inputs = Inputs(x, before, incoming_gradient(tail.sum(x, before)))
    with fused_resnet.use_backend("emulated" if rehearse else "cuda"):
        for name in ways_of(shape):
            if name == EAGER:
                continue
            way = kernel_way(name, tail, inputs, backend)
            with nullcontext() if rehearse else torch.cuda.profiler.profile():
                for phase in PHASES:
                    way.calls[phase]()
            report(way=name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("block")
    parser.add_argument("--rehearse", action="store_true")
    arguments = parser.parse_args()
    launch(arguments.block, arguments.rehearse)
