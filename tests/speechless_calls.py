"""Runs calls by a build of the emulator whose checks end the process where they would describe something.

python speechless_calls.py FOLDER valid      every sample, forward and backward; prints how many
python speechless_calls.py FOLDER invalid    one call that is refused
"""

import pathlib
import sys

import torch
from kernel_samples import SEVERAL_RANGES, SMALL
from samples import SAMPLES, build

import fused_resnet
from fused_resnet.backends.kernels import loading


def run_samples():
    number = 0
    for sample in (*SAMPLES.values(), *SMALL.values(), *SEVERAL_RANGES.values()):
        for dtype in (torch.float32, torch.bfloat16):
            tail, inputs, dy = build(sample.with_dtype(dtype))
            with fused_resnet.use_backend("emulated"):
                tail.fused(inputs).backward(dy)
            number += 1
    print(number)


def refuse(module):
    x = torch.ones(1, 2, 3, 3)
    options = {"channels_before": 0, "weight": None, "bias": None, "norm": None}
    branch = module.Branch(source="direct", x=x, stride=0, **options)
    module.Forward(main=branch, shortcut=None, y=torch.empty_like(x), mask=None, relu=True, tf32=False)


if __name__ == "__main__":
    loading._PACKAGE = pathlib.Path(sys.argv[1])
    loaded, reason = loading.load("_emulated")
    assert loaded is not None, reason
    assert pathlib.Path(loaded.__file__).parent == loading._PACKAGE
    run_samples() if sys.argv[2] == "valid" else refuse(loaded)
