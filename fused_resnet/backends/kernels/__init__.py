"""Tails by the compiled kernels: the backends ``cuda`` and ``emulated``."""
