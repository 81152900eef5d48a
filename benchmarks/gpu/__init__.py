"""What a machine with a GPU is asked while it can be had: ``python -m benchmarks.gpu``, within 8 minutes on 16 cores.

==========  =======================================================================================================
build       compiles the kernels for this GPU
checks      the doctor, and small cases of every kernel against float64
tests       tests/kernels/test_cuda.py: tails and training steps on side streams and in CUDA graphs
phases      `benchmarks phases`: every phase of every tail of ResNet-50 and -18
training    `benchmarks training`: steps of ResNet-50, live and as a CUDA graph, host and device apart
evaluation  the same of forward passes of whole networks, with one image and with many
compiled    torch.compile as a peer, of training and of tails
sanitize    small cases of every kernel under compute-sanitizer
counters    Nsight Compute's metrics of the phases of layer1.1 and layer3.1
==========  =======================================================================================================

Each part has a limit of its own and writes what it finds as it comes, into ``gpu.json`` and ``gpu.log`` and into files
of the benchmarks that it runs: whoever is cut off loses the rest alone. Nothing needs a network or installs anything.
What runs a kernel runs in a process of its own, which may crash or hang.
"""
