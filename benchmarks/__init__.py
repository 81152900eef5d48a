"""Benchmarks of fused_resnet: ``python -m benchmarks NAME``; without a name, the demo."""
