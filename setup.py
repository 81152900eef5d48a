"""Builds the package, whose metadata is in ``pyproject.toml``, with the CUDA kernels where that is possible.

Environment variables:

    FUSED_RESNET_CUDA=1       fail if the kernels cannot be built; =0: do not build them
    FUSED_RESNET_CACHE        where the compilers' text is kept if they fail; by default in the user's cache
    FUSED_RESNET_EMULATOR=1   build the kernels for the CPU, too, to test them without a GPU
    FUSED_RESNET_SANITIZE=1   with the address and undefined behaviour sanitizers, the emulated ones only
    TORCH_CUDA_ARCH_LIST      architectures, such as "8.0 9.0+PTX"
    CUDA_HOME, CUDA_PATH      where nvcc is looked for ahead of PATH
    CXX                       the host compiler
    MAX_JOBS                  how many compilers run side by side
"""

import os
import sys
from importlib import import_module
from pathlib import Path

import setuptools

ROOT = Path(__file__).parent.resolve()
# Not as `fused_resnet.kernel_build`: importing the package takes torch, which an isolated build does not have.
sys.path.append(str(ROOT / "fused_resnet"))
decision = import_module("kernel_build.decision")
setuptools_commands = import_module("kernel_build.setuptools_commands")
import_module("kernel_build.toolchain").check_setuptools(setuptools.__version__)

decisions = [decision.decide_cuda(os.environ), decision.decide_emulated(os.environ)]
setuptools.setup(
    ext_modules=setuptools_commands.extensions(ROOT, decisions), cmdclass=setuptools_commands.commands(ROOT, decisions)
)
