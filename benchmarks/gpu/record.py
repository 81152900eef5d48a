"""What a stage finds out, written down as it comes: JSON, and a log to read."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

# Begins the lines by which a process of a stage's own reports an item to the stage.
_ITEM = "@item "


def report(**item: Any) -> None:
    """In a stage's own process: hands an item to the stage. An item with a "problem" makes the stage fail."""
    print(f"{_ITEM}{json.dumps(item)}", flush=True)


def _item_of(line: str) -> dict[str, Any] | None:
    try:
        return dict(json.loads(line.removeprefix(_ITEM))) if line.startswith(_ITEM) else None
    except ValueError:  # another thread of the process has written into it
        return None


class Record:
    """``gpu-STAGE.json`` and ``gpu-STAGE.log`` of one stage."""

    def __init__(self, folder: Path, stage: str, machine: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.stage = stage
        self.machine = machine
        self.items: list[dict[str, Any]] = []
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.headline = ""
        self._json, self._log = folder / f"gpu-{stage}.json", folder / f"gpu-{stage}.log"
        self._started, self._state = time.monotonic(), "running"
        self._ended: float | None = None
        self._log.write_text("", encoding="utf-8")
        self.log(f"== {stage}")
        for name, value in machine.items():
            self._append(f"{name}: {value}")
        self._write()

    @property
    def seconds(self) -> float:
        """Since the start; of a stage that has ended, until then."""
        return (self._ended or time.monotonic()) - self._started

    @property
    def passed(self) -> bool:
        return not self.problems

    def log(self, text: str) -> None:
        """To the log and to standard output."""
        print(text, flush=True)
        self._append(text)

    def add(self, **item: Any) -> None:
        self.items.append(item)
        self._append(json.dumps(item))
        if "problem" in item:
            # What it belongs to stands in the item's other short texts.
            where = ", ".join(v for k, v in item.items() if k != "problem" and isinstance(v, str) and len(v) < 60)
            self.problem(f"{where}: {item['problem']}" if where else str(item["problem"]))
        self._write()

    def problem(self, text: str) -> None:
        """Makes the stage fail."""
        self.log(f"PROBLEM: {text}")
        self.problems.append(text)
        self._write()

    def note(self, text: str) -> None:
        """What a reader has to know, without a failure."""
        self.log(f"note: {text}")
        self.notes.append(text)
        self._write()

    def take(self, line: str) -> None:
        """A line of a process: an item of `report`'s, or text for the log."""
        item = _item_of(line)
        if item is None:
            self.log(line)
        else:
            self.add(**item)

    def close(self) -> None:
        self._state = "passed" if self.passed else "failed"
        self._ended = time.monotonic()
        self.log(f"== {self.stage}: {self._state} in {self.seconds:.0f} s")
        self._write()

    def _append(self, text: str) -> None:
        with self._log.open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")

    def _write(self) -> None:
        """Whole or not at all: the stage can be ended at any time."""
        content = {
            "stage": self.stage,
            "state": self._state,
            "seconds": round(self.seconds, 1),
            "headline": self.headline,
            "problems": self.problems,
            "notes": self.notes,
            "machine": self.machine,
            "items": self.items,
        }
        temporary = self._json.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        temporary.replace(self._json)
