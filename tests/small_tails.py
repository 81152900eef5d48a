"""What the tests of the benchmark ``tail`` share: one small tail, and every mode."""

import pytest

from benchmarks.tail_shapes import RESNET50
from benchmarks.tails import MODES

SMALL = RESNET50[1].shrunk(2, 5, 16)
each_mode = pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
