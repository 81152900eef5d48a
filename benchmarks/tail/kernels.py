"""How many kernels a call launches on a GPU, as PyTorch's profiler sees them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

# What the driver does by other means than a kernel, or in the place of a small one.
_NO_KERNELS = ("Memcpy", "Memset")


def launched_kernels(call: Callable[[], object]) -> int | None:
    """Of one call, copies and fills left out; None where the profiler sees none, as without the right to look."""
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        call()
        torch.cuda.synchronize()
    events = [event for event in seen.events() or [] if event.device_type == DeviceType.CUDA]
    return sum(not event.name.startswith(_NO_KERNELS) for event in events) or None
