"""Results that must agree to the last bit, whatever they are of."""

from torch import Tensor


def assert_same_bits(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Both hold the same names, and the same numbers under each; NaN agrees with nothing."""
    assert found.keys() == expected.keys()
    different = [name for name, tensor in found.items() if not tensor.equal(expected[name])]
    assert different == []
