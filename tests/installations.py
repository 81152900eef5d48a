"""Installations as they may be elsewhere: what was recorded of their build, and which GPUs there are."""

import torch

from fused_resnet.backends.kernels import availability, loading

OTHER_TORCH = {"torch": "1.2.3", "architectures": "8.0 9.0"}
THIS_TORCH = {"torch": torch.__version__, "architectures": "8.0 9.0"}
CAPABILITIES = [(9, 0), (12, 0)]
BUILD = "run `python -m fused_resnet build`"


class Installation:
    """Stands in for what was built and which GPUs there are."""

    def __init__(self, monkeypatch):
        self.record, self.reason = {"reason": "no nvcc was found"}, "not built (no nvcc was found)"
        monkeypatch.setattr(loading, "built_with", lambda name: self.record if name == "_C" else {})
        monkeypatch.setattr(loading, "load", lambda name: (None if self.reason else object(), self.reason))
        monkeypatch.setattr(availability, "_warned", False)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(CAPABILITIES))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: CAPABILITIES[index])
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU number {index}")

    def built(self, record):
        """As it is after an installation that built this."""
        self.record, self.reason = record, loading._mismatch("_C", record)
