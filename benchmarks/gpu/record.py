"""What a part finds out, written down as it comes: JSON, and a log to read."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from ..process import item_of

JSON, LOG = "gpu.json", "gpu.log"


class Record:
    """One part of ``gpu.json`` and of ``gpu.log``; what other parts have left there stays, if the same code has run.

    Attributes:
        limit_s: seconds that the part has.
        headline: its result on one line.
        logged: the part's lines of the log.
    """

    def __init__(self, folder: Path, part: str, machine: dict[str, Any], limit_s: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.part = part
        self.machine = machine
        self.limit_s = limit_s
        self.items: list[dict[str, Any]] = []
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.headline = ""
        self.logged: list[str] = []
        self._json, self._log = folder / JSON, folder / LOG
        self._started, self._state = time.monotonic(), "running"
        self._ended: float | None = None
        self._others = self._earlier_parts()
        if not self._others:
            self._log.write_text("", encoding="utf-8")
            for name, value in machine.items():
                self._append(f"{name}: {value}")
        self.log(f"== {part}")
        self._write()

    @property
    def seconds(self) -> float:
        """Since the start; of a part that has ended, until then."""
        return (self._ended or time.monotonic()) - self._started

    @property
    def left_s(self) -> float:
        """Until the limit."""
        return self.limit_s - self.seconds

    @property
    def passed(self) -> bool:
        return not self.problems

    def log(self, text: str) -> None:
        """To the log and to standard output."""
        print(text, flush=True)
        self.logged.append(text)
        self._append(text)

    def add(self, **item: Any) -> None:
        self.items.append(item)
        self._append(json.dumps(item))
        if "problem" in item:
            # The item's other short texts say what the problem belongs to.
            where = ", ".join(v for k, v in item.items() if k != "problem" and isinstance(v, str) and len(v) < 60)
            self.problem(f"{where}: {item['problem']}" if where else str(item["problem"]))
        self._write()

    def problem(self, text: str) -> None:
        """Makes the part fail."""
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
        item = item_of(line)
        if item is None:
            self.log(line)
        else:
            self.add(**item)

    def close(self) -> None:
        self._state = "passed" if self.passed else "failed"
        self._ended = time.monotonic()
        self.log(f"== {self.part}: {self._state} in {self.seconds:.0f} s")
        self._write()

    def _earlier_parts(self) -> dict[str, Any]:
        try:
            found = json.loads(self._json.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        same = found.get("machine", {}).get("sources") == self.machine.get("sources")
        return {name: part for name, part in found["parts"].items() if name != self.part} if same else {}

    def _append(self, text: str) -> None:
        with self._log.open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")

    def _write(self) -> None:
        """Whole or not at all: the part can be ended at any time."""
        own = {
            "state": self._state,
            "seconds": round(self.seconds, 1),
            "headline": self.headline,
            "problems": self.problems,
            "notes": self.notes,
            "items": self.items,
        }
        content = {"machine": self.machine, "parts": {**self._others, self.part: own}}
        temporary = self._json.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        temporary.replace(self._json)
