"""What computes tails: PyTorch's own operators, and the compiled kernels."""
