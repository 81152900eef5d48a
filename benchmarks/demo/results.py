"""All that the demo finds out, as one JSON file."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

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

    def write(self, path: Path) -> None:
        """Writes JSON, lists of numbers on one line each."""
        text = json.dumps(asdict(self), indent=2)
        text = re.sub(r"\[[\s\d.,e+-]+\]", lambda numbers: " ".join(numbers[0].split()), text)
        path.write_text(text + "\n", encoding="utf-8")
