"""Builds the package, whose metadata is in ``pyproject.toml``, with the CUDA kernels where that is possible.

Environment variables:

    FUSED_RESNET_CUDA=1       fail if the kernels cannot be built; =0: do not build them
    FUSED_RESNET_EMULATOR=1   build the kernels for the CPU, too, to test them without a GPU
    FUSED_RESNET_SANITIZE=1   with the address and undefined behaviour sanitizers, the emulated ones only
    TORCH_CUDA_ARCH_LIST      architectures, such as "8.0 9.0+PTX"
    CUDA_HOME, CUDA_PATH      where nvcc is looked for ahead of PATH
    CXX                       the host compiler
    MAX_JOBS                  how many compilers run side by side
"""

import os
import sys
from pathlib import Path

import setuptools

ROOT = Path(__file__).parent.resolve()
sys.path.insert(0, str(ROOT))  # builders of wheels do not

from kernel_build.command import commands, extensions  # noqa: E402
from kernel_build.decision import decide_cuda, decide_emulated  # noqa: E402
from kernel_build.toolchain import check_setuptools  # noqa: E402

check_setuptools(setuptools.__version__)
decisions = [decide_cuda(os.environ), decide_emulated(os.environ)]
setuptools.setup(ext_modules=extensions(ROOT, decisions), cmdclass=commands(ROOT, decisions))
