"""What the tests of the benchmark ``training`` share: a small job, and what its process would report."""

import json
from typing import Any

from benchmarks.networks import EAGER, FUSED
from benchmarks.training.job import Job

JOB = Job("tiny", [EAGER, FUSED], 4, 64, "cpu", "float32", "reference", steps=3, in_a_row=1, seconds=60.0)
Items = list[dict[str, Any]]


def reports(*items: dict[str, Any]) -> str:
    return "; ".join(f"print('@item ' + {json.dumps(json.dumps(item))}, flush=True)" for item in items)


def times(ways: list[str]) -> Items:
    measured = {"losses": [2.0, 1.0], "held_bytes": 1_000_000, "peak_bytes": 4_000_000}
    return [{"way": way, **measured, "seconds": [0.1, 0.2]} for way in ways]
