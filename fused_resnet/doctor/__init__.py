"""Examines an installation: versions, GPUs, backends, and whether every kernel computes what it should.

``python -m fused_resnet doctor`` prints what it finds; ``--json`` prints the same as one JSON object.
"""
