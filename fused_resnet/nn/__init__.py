"""Drop-in modules: shortcuts, and residual blocks whose tails are fused."""

from .blocks import BasicBlock, Bottleneck, PreActBasicBlock, PreActBottleneck, ResidualBlock
from .shortcuts import (
    IdentityShortcut,
    NoShortcut,
    ProjectionShortcut,
    Shortcut,
    ShortcutModule,
    ZeroPadShortcut,
    make_shortcut,
)

__all__ = [
    "BasicBlock",
    "Bottleneck",
    "IdentityShortcut",
    "NoShortcut",
    "PreActBasicBlock",
    "PreActBottleneck",
    "ProjectionShortcut",
    "ResidualBlock",
    "Shortcut",
    "ShortcutModule",
    "ZeroPadShortcut",
    "make_shortcut",
]
