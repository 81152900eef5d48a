"""What a tail costs: bytes and operations, time on a GPU, and the choice of a strategy by it."""
