"""Builds the kernels of ``kernels/`` into a shared library, for the emulator or for a GPU, and calls its functions."""

import ctypes
import hashlib
import json
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"
KERNELS = sorted((HERE / "kernels").glob("*.cu"))
ENGINE = sorted((HERE / "engine").glob("*.cpp"))

SOURCES = {".cpp", ".cu", ".cuh", ".h"}
# Sanitizers, for example; Python then needs their library in LD_PRELOAD.
EXTRA_FLAGS = os.environ.get("CXXFLAGS", "").split()


class KernelError(RuntimeError):
    """What a launch threw."""


def _vector_flags():
    """With these instructions ``std::fma`` is one of them, not a call."""
    cpu = Path("/proc/cpuinfo")
    features = cpu.read_text().split() if cpu.exists() else []
    return ["-march=x86-64-v3"] if {"avx2", "bmi2", "fma", "movbe"} <= set(features) else []


def _emulator_commands(folder, library):
    flags = ["-std=c++17", "-O2", *_vector_flags(), "-ffp-contract=off", "-fPIC", "-I", str(HERE), "-I", str(CSRC)]
    flags += ["-Wall", "-Wextra", "-Wno-unknown-pragmas", *EXTRA_FLAGS]
    objects = []
    for source in [*ENGINE, *KERNELS]:
        objects.append(str(folder / f"{source.name}.o"))
        yield ["g++", *flags, "-x", "c++", "-c", str(source), "-o", objects[-1]]
    yield ["g++", "-shared", *EXTRA_FLAGS, *objects, "-o", str(library)]


def _gpu_commands(folder, library):
    major, minor = torch.cuda.get_device_capability()
    flags = ["-std=c++17", f"-arch=sm_{major}{minor}", "-fmad=false", "-Xcompiler", "-fPIC", "-I", str(CSRC)]
    yield ["nvcc", *flags, "-shared", *map(str, KERNELS), "-o", str(library)]


def build(commands, cache):
    """Loads the library that ``commands(folder, library)`` build; ``cache`` keeps it until something changes."""
    described = repr(list(commands(Path("folder"), Path("library")))).encode()
    sources = (path for root in (HERE, CSRC / "device") for path in root.rglob("*") if path.suffix in SOURCES)
    for source in sorted([*sources, CSRC / "scalar.h"]):
        described += bytes(source) + source.read_bytes()
    library = cache / f"kernels-{hashlib.sha256(described).hexdigest()[:16]}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=cache) as folder:  # of this process's own: another one may build the same
            built = Path(folder) / library.name
            for command in commands(Path(folder), built):
                subprocess.run(command, check=True)
            os.replace(built, library)
    return ctypes.CDLL(str(library))


class _Machine:
    """Runs the library's functions on numpy arrays; an array given as an argument receives what the kernel writes."""

    def __init__(self, library):
        self.library = library

    def run(self, function, *arguments):
        entry = getattr(self.library, function)
        entry.restype = ctypes.c_char_p
        error = self._call(entry, arguments)
        if error is not None:
            raise KernelError(error.decode())


def _plain(argument):
    if isinstance(argument, str):
        return argument.encode()
    return ctypes.c_int64(argument) if isinstance(argument, np.int64) else ctypes.c_int(argument)


class Emulator(_Machine):
    name = "emulator"

    def __init__(self, cache):
        super().__init__(build(_emulator_commands, cache))
        self.library.emulator_counters_json.restype = ctypes.c_char_p

    def _call(self, entry, arguments):
        return entry(*(ctypes.c_void_p(a.ctypes.data) if isinstance(a, np.ndarray) else _plain(a) for a in arguments))

    def set_seed(self, seed):
        self.library.emulator_set_seed(seed)

    def count(self, function, *arguments):
        """The launches that ``run`` makes, as the emulator has counted them."""
        self.library.emulator_reset_counters()
        self.library.emulator_set_counting(1)
        try:
            self.run(function, *arguments)
        finally:
            self.library.emulator_set_counting(0)
        return json.loads(self.library.emulator_counters_json())


class Gpu(_Machine):
    name = "gpu"

    def __init__(self, cache):
        super().__init__(build(_gpu_commands, cache))

    def _call(self, entry, arguments):
        on_gpu = {
            i: torch.from_numpy(a.reshape(-1).view(np.uint8)).cuda()
            for i, a in enumerate(arguments)
            if isinstance(a, np.ndarray)
        }
        torch.cuda.synchronize()
        error = entry(
            *(ctypes.c_void_p(on_gpu[i].data_ptr()) if i in on_gpu else _plain(a) for i, a in enumerate(arguments))
        )
        for i, tensor in on_gpu.items():
            arguments[i].reshape(-1).view(np.uint8)[:] = tensor.cpu().numpy()
        return error

    def set_seed(self, seed):
        """A GPU has its own order."""
