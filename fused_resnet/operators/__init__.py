"""A residual tail as operators of PyTorch's, with gradients, and the calls that are remembered."""
