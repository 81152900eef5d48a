"""What a machine with a GPU is asked while it can be had: ``python -m benchmarks.gpu``, within 8 minutes on 16 cores.

==========  =======================================================================================================
build       compiles the kernels for this GPU
checks      the doctor, and forward and backward against float64, on side streams and in CUDA graphs
tests       tests/kernels/test_cuda.py
phases      `python -m benchmarks phases`: every phase of every tail of ResNet-50 and -18
training    steps of ResNet-50, eager and fused: live, replayed as a CUDA graph, and the longest kernels of a trace
evaluation  whole networks, of one image and of many, eager and fused
compiled    torch.compile as a peer, of training and of tails
sanitize    small cases of every kernel under compute-sanitizer
counters    Nsight Compute's metrics of the phases of layer1.1 and layer3.1
==========  =======================================================================================================

Each part has a limit of its own and writes what it finds as it comes, into ``gpu.json`` and ``gpu.log`` and into files
of the benchmarks that it runs: whoever is cut off loses the rest alone. Nothing needs a network or installs anything.
What runs a kernel runs in a process of its own, which may crash or hang.
"""
