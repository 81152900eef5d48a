"""Fused residual tails for ResNets: shortcut, batch norms, addition and relu as one operation."""

from . import functional, models, nn
from .backend import available_backends, use_backend
from .explanation import explain
from .functional import residual_tail
from .fusion import fuse, unfuse

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "available_backends",
    "explain",
    "functional",
    "fuse",
    "models",
    "nn",
    "residual_tail",
    "unfuse",
    "use_backend",
]
