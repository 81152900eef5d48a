"""What has to be found out on a machine with a GPU, in stages: ``python -m benchmarks.gpu``.

=========  ======================================================================================================
build      builds the kernels for this GPU, compares forward and backward with float64, on streams and in graphs
suite      runs the test suite
sanitize   runs small cases of every kernel under compute-sanitizer's tools
time       times the forward of the tails of ResNet-50 and ResNet-18 (`python -m benchmarks tail`)
backward   times forward and backward of the same as one, with the peak memory of each way
train      times training steps of ResNet-50, with the peak memory of each side
=========  ======================================================================================================

No stage takes longer than 8 minutes, needs a network or installs anything; results are written as they come, into
``gpu-STAGE.json`` and ``gpu-STAGE.log``. What runs a kernel runs in a process of its own, which may crash or hang.
"""
