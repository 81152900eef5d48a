"""Results as JSON files."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any


def write(results: Any, path: Path) -> None:
    """Writes a dataclass, lists of numbers on one line each."""
    text = json.dumps(asdict(results), indent=2)
    text = re.sub(r"\[[\s\d.,e+-]+\]", lambda numbers: " ".join(numbers[0].split()), text)
    path.write_text(text + "\n", encoding="utf-8")
