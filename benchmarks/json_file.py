"""Results as JSON files."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any


def write(results: Any, path: Path) -> None:
    """Writes a dataclass, lists of numbers on one line each.

    A file that is there is replaced at once, so that a reader never meets half of one.
    """
    text = json.dumps(asdict(results), indent=2)
    text = re.sub(r"\[[\s\d.,e+-]+\]", lambda numbers: " ".join(numbers[0].split()), text)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(text + "\n", encoding="utf-8")
    unfinished.replace(path)
