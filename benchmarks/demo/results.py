"""All that the demo finds out."""

from __future__ import annotations

from dataclasses import dataclass

from ..provenance import Provenance
from .blocks import Block
from .learning import Learning
from .networks import Network
from .settings import Settings


@dataclass(frozen=True)
class Results:
    """Attributes are named as in the file; ``blocks`` are those of ``blocks_of``, by name."""

    provenance: Provenance
    settings: Settings
    learning: Learning
    networks: dict[str, Network]
    blocks_of: str
    blocks: dict[str, Block]
