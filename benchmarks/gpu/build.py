"""The part ``build``: the kernels for the GPU that is there, by the command that users have."""

from __future__ import annotations

import sys
import tempfile

from .process import run
from .record import Record

COMMAND = [sys.executable, "-m", "fused_resnet", "build"]
# The rehearsal compiles for what a GPU of the data centres is.
REHEARSED_CAPABILITY = "9.0"


def run_part(record: Record, rehearse: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        rehearsed = {"TORCH_CUDA_ARCH_LIST": REHEARSED_CAPABILITY, "FUSED_RESNET_CACHE": folder}
        environment = rehearsed if rehearse else {}
        ended = run(COMMAND, limit_s=record.left_s, on_line=record.log, environment=environment)
    capability = REHEARSED_CAPABILITY if rehearse else record.machine["gpu"]["capability"]
    record.add(
        architecture=capability,
        seconds=round(ended.seconds, 1),
        **({} if ended.problem is None else {"problem": ended.problem}),
    )
    record.headline = f"compiled for {capability} in {ended.seconds:.0f} s"
