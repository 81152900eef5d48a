"""Which GPUs `_C` is compiled for: TORCH_CUDA_ARCH_LIST, in the forms that PyTorch knows, or all usual ones."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from .toolchain import CannotBuildError, Nvcc, release, shown

USUAL = ("8.0", "8.6", "8.9", "9.0", "10.0", "12.0")
# The kernels copy to shared memory asynchronously and multiply bfloat16 matrices.
OLDEST = (8, 0)


# Generations by name, as PyTorch's own list has them (torch/utils/cpp_extension.py).
_NAMED = {
    "Kepler+Tesla": "3.7",
    "Kepler": "3.5+PTX",
    "Maxwell+Tegra": "5.3",
    "Maxwell": "5.0 5.2+PTX",
    "Pascal": "6.0 6.1+PTX",
    "Volta+Tegra": "7.2",
    "Volta": "7.0+PTX",
    "Turing": "7.5+PTX",
    "Ampere+Tegra": "8.7",
    "Ampere": "8.0 8.6+PTX",
    "Ada": "8.9+PTX",
    "Hopper": "9.0+PTX",
    "Blackwell+Tegra": "11.0",
    "Blackwell": "10.0 10.3 12.0 12.1+PTX",
}


@dataclass(frozen=True)
class Architectures:
    """`names` are compiled for, such as ["8.0", "9.0+PTX"]; `too_old` were wanted as well, and cannot be."""

    names: list[str]
    too_old: list[str]

    def __str__(self) -> str:
        without = f" (without {' '.join(self.too_old)}, which are too old)" if self.too_old else ""
        return f"architectures {' '.join(self.names)}{without}"


def architectures(wanted: str, nvcc: Nvcc) -> Architectures:
    """The wanted ones that are not too old, or the usual ones that nvcc knows, with code for later GPUs.

    Raises:
        CannotBuildError: none is left, or a name is none or unknown to nvcc.
    """
    names = [name for given in filter(None, re.split(r"[\s;,]+", wanted)) for name in _NAMED.get(given, given).split()]
    if not names:
        known = [name for name in USUAL if name in nvcc.architectures]
        if not known:
            raise CannotBuildError(
                f"{nvcc} knows none of the architectures {', '.join(USUAL)}: set CUDA_HOME to another"
            )
        return Architectures([*known[:-1], f"{known[-1]}+PTX"], [])
    names = [name for name in dict.fromkeys(names) if f"{name}+PTX" not in names]
    too_old = [name for name in names if _release(name) < OLDEST]
    if len(too_old) == len(names):
        raise CannotBuildError(f"TORCH_CUDA_ARCH_LIST names {wanted.strip()!r}: the kernels need 8.0 or later")
    return Architectures([_known(name, nvcc) for name in names if name not in too_old], too_old)


def for_gpus(capabilities: Iterable[tuple[int, int]], nvcc: Nvcc) -> list[str]:
    """What to compile for GPUs of these compute capabilities. GPUs that are too old for the kernels are left out.

    A GPU that nvcc does not know gets the code of the newest one ahead of it, as PTX if that is of another generation.
    """
    capabilities = sorted(set(capabilities))
    known = sorted(version for version in map(release, nvcc.architectures) if version >= OLDEST)
    names = []
    for capability in capabilities:
        earlier = [version for version in known if version <= capability]
        if earlier:
            ptx = "" if earlier[-1][0] == capability[0] else "+PTX"
            names.append(f"{shown(earlier[-1])}{ptx}")
    if not names:
        given = ", ".join(map(shown, capabilities))
        raise CannotBuildError(f"the kernels need a GPU of architecture {shown(OLDEST)} or later; found: {given}")
    return list(dict.fromkeys(names))


def _release(name: str) -> tuple[int, ...]:
    form = re.fullmatch(r"(\d+\.\d)[af]?(\+PTX)?", name)
    if form is None:
        raise CannotBuildError(
            f"TORCH_CUDA_ARCH_LIST names {name!r}: expected numbers, such as '8.0 9.0+PTX', or {', '.join(_NAMED)}"
        )
    return release(form.group(1))


def _known(name: str, nvcc: Nvcc) -> str:
    if shown(_release(name)) not in nvcc.architectures:
        raise CannotBuildError(f"TORCH_CUDA_ARCH_LIST names {name!r}, which {nvcc} does not know")
    return name


def code_flags(names: Iterable[str]) -> list[str]:
    flags = []
    for name in names:
        number = name.removesuffix("+PTX").replace(".", "")
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if name.endswith("+PTX"):
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags
