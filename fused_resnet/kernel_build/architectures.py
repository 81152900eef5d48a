"""Which GPUs `_C` is compiled for: TORCH_CUDA_ARCH_LIST, in the forms that PyTorch knows, or all usual ones."""

from __future__ import annotations

import re
from collections.abc import Iterable

from .toolchain import CannotBuildError, Nvcc, release, shown

USUAL = ("8.0", "8.6", "8.9", "9.0", "10.0", "12.0")
# The kernels copy to shared memory asynchronously and multiply bfloat16 matrices.
OLDEST = (8, 0)


def architectures(wanted: str, nvcc: Nvcc) -> list[str]:
    """Such as ["8.0", "9.0+PTX"]: those wanted, or the usual ones that nvcc knows, with code for later GPUs."""
    names = re.split(r"[\s;,]+", wanted.strip()) if wanted.strip() else []
    if not names:
        known = [name for name in USUAL if name in nvcc.architectures]
        if not known:
            raise CannotBuildError(
                f"{nvcc} knows none of the architectures {', '.join(USUAL)}: set CUDA_HOME to another"
            )
        return [*known[:-1], f"{known[-1]}+PTX"]
    return [_checked(name, nvcc) for name in dict.fromkeys(filter(None, names))]


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
        raise CannotBuildError(f"the kernels need a GPU of architecture {shown(OLDEST)} or later; here are: {given}")
    return list(dict.fromkeys(names))


def _checked(name: str, nvcc: Nvcc) -> str:
    form = re.fullmatch(r"(\d+\.\d)[af]?(\+PTX)?", name)
    if form is None:
        raise CannotBuildError(f"TORCH_CUDA_ARCH_LIST names {name!r}: expected numbers, such as '8.0 9.0+PTX'")
    if release(form.group(1)) < OLDEST:
        raise CannotBuildError(f"TORCH_CUDA_ARCH_LIST names {name!r}: the kernels need 8.0 or later")
    if form.group(1) not in nvcc.architectures:
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
