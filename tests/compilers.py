"""Which PyTorch compiles and exports a fused network as one graph."""

import pytest
import torch

needs_whole_graphs = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 11), reason="compilers before torch 2.11 break the graph"
)
