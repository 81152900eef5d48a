"""What a residual tail is: its description, its checks, its meaning in plain PyTorch, and who may compute it."""
