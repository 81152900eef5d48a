"""What the tests of the benchmark ``tail`` share: one small tail, and every mode."""

import pytest

from benchmarks.modes import MODES
from benchmarks.tail_shapes import RESNET50

SMALL = RESNET50[1].shrunk(2, 5, 16)
each_mode = pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
