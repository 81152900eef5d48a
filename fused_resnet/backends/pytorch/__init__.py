"""Tails by PyTorch's own operators: the backend ``reference``."""
