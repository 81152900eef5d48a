"""Runs a command under a time limit, with its output line by line as it comes.

A process of ours hands over what it finds as lines of JSON (`report`, `item_of`), between whatever else it prints.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[1]
# Between asking a command to end, so that it can write what it has, and ending it.
GRACE_S = 5.0
_POLL_S = 0.1
# Begins the lines by which a process reports an item.
_ITEM = "@item "

Lines = Callable[[str], object]


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
    on_line: Lines,
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
    )
    try:
        timed_out = not _deliver(process, _lines_of(process), on_line, started + limit_s, grace_s)
    finally:
        _kill(process)
    return Ended(process.returncode, time.monotonic() - started, timed_out)


def _lines_of(process: subprocess.Popen[str]) -> queue.SimpleQueue[str | None]:
    """Filled by a thread, as reading cannot be given a time limit; None comes last."""
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    assert process.stdout is not None
    threading.Thread(target=_read, args=(process.stdout, lines), daemon=True).start()
    return lines


def _read(stream: IO[str], lines: queue.SimpleQueue[str | None]) -> None:
    with stream:
        for line in stream:
            lines.put(line.rstrip("\n"))
    lines.put(None)


def _deliver(
    process: subprocess.Popen[str],
    lines: queue.SimpleQueue[str | None],
    on_line: Lines,
    deadline: float,
    grace_s: float,
) -> bool:
    """Whether the command ended in time."""
    if _deliver_until(process, lines, on_line, deadline):
        return True
    process.send_signal(signal.SIGINT)
    _deliver_until(process, lines, on_line, time.monotonic() + grace_s)
    return False


def _deliver_until(
    process: subprocess.Popen[str], lines: queue.SimpleQueue[str | None], on_line: Lines, deadline: float
) -> bool:
    open_output = True
    while time.monotonic() < deadline:
        # The output can stay open: a process that was left behind has it, too.
        ended = process.poll() is not None
        try:
            line = lines.get(timeout=_POLL_S) if open_output else None
        except queue.Empty:
            if ended:
                return True
            continue
        if line is not None:
            on_line(line)
        elif ended:
            return True
        else:
            open_output = False
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_POLL_S)
    return False


def _kill(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
