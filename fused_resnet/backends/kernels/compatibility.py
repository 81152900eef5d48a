"""Which GPUs code runs on that was compiled for others, by CUDA's rules of compatibility."""

from __future__ import annotations

import re


def runs_on(architectures: str, capability: tuple[int, int]) -> bool:
    """Whether a module built for these architectures, such as "8.0 9.0+PTX", has code for a GPU of this capability.

    Machine code runs on GPUs of its major version, from its minor version on; with an "a" (9.0a) on no other than its
    own. "+PTX" is compiled for whatever GPU came later.

    Raises:
        ValueError: an architecture is not of this form.
    """
    return any(_runs_on(name, capability) for name in architectures.split())


def _runs_on(architecture: str, capability: tuple[int, int]) -> bool:
    form = re.fullmatch(r"(\d+)\.(\d+)([af]?)(\+PTX)?", architecture)
    if form is None:
        raise ValueError(f"architecture is {architecture!r}, expected one such as '8.0', '9.0a' or '9.0+PTX'")
    built = int(form[1]), int(form[2])
    if form[3] == "a":
        return built == capability
    newer_at_all = form[4] is not None and form[3] == ""
    return built <= capability and (newer_at_all or built[0] == capability[0])
