"""What one process of the benchmark has to do, as it is handed to it on its command line."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, replace


@dataclass(frozen=True)
class Job:
    """A network to train on batches of one size.

    Attributes:
        model, ways: as `networks.names` and `network_ways.WAYS` have them.
        batch, size: images, and their height and width.
        device, dtype: "cuda" or "cpu"; other dtypes than "float32" by autocast.
        backend: of `fused_resnet.use_backend`.
        steps: timed, of each way.
        in_a_row: steps of a way before the next way's turn.
        seconds: no turn begins later.
        index: of the GPU.
        evaluation: forward passes in evaluation in place of training steps.
        search_from: the largest batch that fits is searched from here; 0 where it is not.
    """

    model: str
    ways: list[str]
    batch: int
    size: int
    device: str
    dtype: str
    backend: str
    steps: int
    in_a_row: int
    seconds: float
    index: int = 0
    evaluation: bool = False
    search_from: int = 0

    def without(self, way: str) -> Job:
        return replace(self, ways=[other for other in self.ways if other != way])

    def text(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def of_command_line(cls) -> Job:
        parser = argparse.ArgumentParser()
        parser.add_argument("job", type=json.loads)
        return cls(**parser.parse_args().job)
