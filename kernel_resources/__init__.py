"""What the compiler made of the kernels: registers, shared memory, occupancy, instructions."""
