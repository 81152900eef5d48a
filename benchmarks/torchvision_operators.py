"""Importing this makes torchvision importable beside a torch that its compiled half was not built for.

``import torchvision`` fails on operators that do not exist when its library cannot be loaded, as that of a CUDA build
beside a CPU-only torch. Its ResNets use none of them, so declaring their names is enough. Where the library loads,
nothing is declared. Import this before torchvision; raises ImportError where torchvision is not installed.
"""

from __future__ import annotations

import importlib.util
import pathlib
import re

import torch


def _declare_missing_operators() -> torch.library.Library | None:
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("torchvision is not installed")
    folder = pathlib.Path(spec.submodule_search_locations[0])
    for library in folder.glob("_C*"):
        try:
            torch.ops.load_library(library)
        except OSError:
            continue
        return None
    names = set(re.findall(r"torchvision::(\w+)", (folder / "_meta_registrations.py").read_text()))
    fragment = torch.library.Library("torchvision", "FRAGMENT")
    for name in sorted(names):
        fragment.define(f"{name}(Tensor x) -> Tensor")
    return fragment


_fragment = _declare_missing_operators()  # the declarations last as long as this object
