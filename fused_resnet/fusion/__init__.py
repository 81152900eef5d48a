"""`fuse` and `unfuse`: exchange the standard residual tails of a model for fused ones, and back."""

from .fuse import fuse, unfuse
from .report import FusionReport

__all__ = ["FusionReport", "fuse", "unfuse"]
