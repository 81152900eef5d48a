"""Runs a command under a time limit, with its output line by line as it comes.

A process of ours hands over what it finds as lines of JSON (`report`, `item_of`), between whatever else it prints.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# Between asking a command to end, so that it can write what it has, and ending it.
GRACE_S = 5.0
# Begins the lines by which a process reports an item.
_ITEM = "@item "


def report(**item: Any) -> None:
    """In a process of ours: hands an item to whoever runs it."""
    print(f"{_ITEM}{json.dumps(item)}", flush=True)


def item_of(line: str) -> dict[str, Any] | None:
    """What `report` has printed, None where the line is something else."""
    try:
        return dict(json.loads(line.removeprefix(_ITEM))) if line.startswith(_ITEM) else None
    except ValueError:  # another thread of the process has written into it
        return None


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit status, or the time limit."""

    status: int
    seconds: float
    timed_out: bool

    @property
    def problem(self) -> str | None:
        """None where it ended well."""
        if self.timed_out:
            return f"stopped at its time limit, after {self.seconds:.0f} s"
        if self.status < 0:
            return f"ended by signal {-self.status}"
        return f"exit status {self.status}" if self.status else None


def run(
    command: Sequence[str | Path],
    *,
    limit_s: float,
    on_line: Callable[[str], object],
    environment: Mapping[str, str] | None = None,
    grace_s: float = GRACE_S,
) -> Ended:
    """Runs the command in the repository's root and waits for it. What it started ends with it.

    Raises:
        OSError: there is no such command.
    """
    started = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        preexec_fn=_heed_interrupts,
    )
    timed_out = threading.Event()
    watch = threading.Thread(target=_watch, args=(process, limit_s, grace_s, timed_out), daemon=True)
    watch.start()
    assert process.stdout is not None
    try:
        with process.stdout as lines:
            for line in lines:
                on_line(line.rstrip("\n"))
        watch.join()
    finally:
        _kill(process)
    return Ended(process.wait(), time.monotonic() - started, timed_out.is_set())


def _heed_interrupts() -> None:
    """What a shell runs in the background ignores them, and so would all that it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _watch(process: subprocess.Popen[str], limit_s: float, grace_s: float, timed_out: threading.Event) -> None:
    """Ends the command at its limit, and then whatever it has left behind, which could hold its output open."""
    try:
        process.wait(limit_s)
    except subprocess.TimeoutExpired:
        timed_out.set()
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace_s)
    _kill(process)


def _kill(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
