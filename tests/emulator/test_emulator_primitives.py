"""The emulator's matrix primitives against tables from the PTX ISA, its arithmetic against numpy and torch.

What is asked of the emulator is asked of a GPU where there is one.
"""

import numpy as np
import pytest
import torch

pytest_plugins = ["emulator.fixtures"]
pytestmark = pytest.mark.emulated

# Fragments as the PTX ISA gives them in "Matrix fragments for mma.m16n8k16 with floating point type" and "... for
# mma.m16n8k8": (row, column) of element i of a lane, where groupID = lane >> 2 and threadID_in_group = lane % 4. Of
# 16-bit elements, a register holds two: the lower half the one with even i.
A_16_BIT = [  # rows and columns (k) of a0 to a7
    lambda group, thread: (group, 2 * thread),
    lambda group, thread: (group, 2 * thread + 1),
    lambda group, thread: (group + 8, 2 * thread),
    lambda group, thread: (group + 8, 2 * thread + 1),
    lambda group, thread: (group, 2 * thread + 8),
    lambda group, thread: (group, 2 * thread + 9),
    lambda group, thread: (group + 8, 2 * thread + 8),
    lambda group, thread: (group + 8, 2 * thread + 9),
]
B_16_BIT = [  # rows (k) and columns of b0 to b3
    lambda group, thread: (2 * thread, group),
    lambda group, thread: (2 * thread + 1, group),
    lambda group, thread: (2 * thread + 8, group),
    lambda group, thread: (2 * thread + 9, group),
]
A_TF32 = [
    lambda group, thread: (group, thread),
    lambda group, thread: (group + 8, thread),
    lambda group, thread: (group, thread + 4),
    lambda group, thread: (group + 8, thread + 4),
]
B_TF32 = [
    lambda group, thread: (thread, group),
    lambda group, thread: (thread + 4, group),
]
ACCUMULATOR = [
    lambda group, thread: (group, 2 * thread),
    lambda group, thread: (group, 2 * thread + 1),
    lambda group, thread: (group + 8, 2 * thread),
    lambda group, thread: (group + 8, 2 * thread + 1),
]

# Function, depth of the product, fragments, and the bits of an element.
PRODUCTS = {
    "multiply_bfloat16": (16, A_16_BIT, B_16_BIT, lambda x: bfloat16_bits(x)),
    "multiply_float16": (16, A_16_BIT, B_16_BIT, lambda x: x.astype(np.float16).view(np.uint16)),
    "multiply_tf32": (8, A_TF32, B_TF32, lambda x: x.astype(np.float32).view(np.uint32)),
}


def bfloat16_bits(x):
    return torch.from_numpy(x.astype(np.float32)).bfloat16().view(torch.int16).numpy().view(np.uint16)


def lay_out(matrix, fragment):
    """By lane, the elements that `fragment` assigns to it."""
    return np.array([[matrix[element(lane >> 2, lane % 4)] for element in fragment] for lane in range(32)])


def collect(registers, fragment, shape):
    matrix = np.full(shape, np.nan, registers.dtype)
    for lane in range(32):
        for element, value in zip(fragment, registers[lane], strict=True):
            matrix[element(lane >> 2, lane % 4)] = value
    return matrix


def multiply(machine, function, a, b, d):
    """d + a b by way of the registers of a warp."""
    _, fragment_a, fragment_b, bits = PRODUCTS[function]
    registers = lay_out(d, ACCUMULATOR).astype(np.float32)
    packed_a, packed_b = lay_out(bits(a), fragment_a).view(np.uint32), lay_out(bits(b), fragment_b).view(np.uint32)
    machine.run(function, packed_a, packed_b, registers)
    return collect(registers, ACCUMULATOR, d.shape)


@pytest.mark.parametrize("function", PRODUCTS)
def test_product_of_distinct_integers_is_exact(machine, function):
    depth = PRODUCTS[function][0]
    a = 1.0 + np.arange(16 * depth).reshape(16, depth)  # up to 256: exact in all formats, and so are the sums
    b = 1.0 + np.arange(depth * 8).reshape(depth, 8)
    d = 1000.0 * np.arange(16 * 8).reshape(16, 8)
    np.testing.assert_array_equal(multiply(machine, function, a, b, d), d + a @ b)


@pytest.mark.parametrize("function", PRODUCTS)
def test_single_elements_meet_where_they_should(machine, function):
    depth = PRODUCTS[function][0]
    for k in range(depth):
        a, b, d = np.zeros((16, depth)), np.zeros((depth, 8)), np.zeros((16, 8))
        a[:, k], b[k, :] = 1 + np.arange(16), 1 + np.arange(8)
        np.testing.assert_array_equal(multiply(machine, function, a, b, d), np.outer(a[:, k], b[k]))


@pytest.mark.parametrize("function", PRODUCTS)
def test_product_of_random_numbers_is_accurate(machine, function):
    depth = PRODUCTS[function][0]
    random = np.random.default_rng(0)

    def representable(shape):  # in every format: 8 bits
        return random.integers(-128, 128, shape) * 2.0 ** random.integers(-4, 5, shape)

    a, b, d = representable((16, depth)), representable((depth, 8)), representable((16, 8))
    bound = 2**-22 * depth * (np.abs(d) + np.abs(a) @ np.abs(b))
    assert (np.abs(multiply(machine, function, a, b, d) - (d + a @ b)) <= bound).all()


def test_tf32_product_ignores_the_low_bits_of_its_operands(emulator):
    a, b, d = np.ones((16, 8)), np.ones((8, 8)), np.zeros((16, 8))
    a[0, 0] += 2.0**-10 + 2.0**-11  # tf32 has the first bit, not the second
    product = multiply(emulator, "multiply_tf32", a, b, d)
    assert product[0, 0] == 8 + 2.0**-10
    assert product[1, 0] == 8


# "ldmatrix": threads 8 i to 8 i + 7 pass the addresses of rows 0 to 7 of matrix i; register i of each thread receives
# two neighbours of matrix i, with .trans those of the transposed matrix.
@pytest.mark.parametrize(("function", "transposed"), [("fetch_rows", False), ("fetch_columns", True)])
def test_fetched_matrices(machine, function, transposed):
    matrices = np.arange(4 * 8 * 8, dtype=np.uint16).reshape(4, 8, 8)
    places = np.random.default_rng(0).permutation(32)  # of rows in shared memory
    rows = np.empty((32, 8), np.uint16)
    rows[places] = matrices.reshape(32, 8)
    registers = np.zeros((32, 4), np.uint32)
    machine.run(function, rows, (16 * places).astype(np.uint32), registers)
    for lane in range(32):
        for i in range(4):
            matrix = matrices[i].T if transposed else matrices[i]
            neighbours = registers[lane].view(np.uint16)[2 * i : 2 * i + 2]
            assert neighbours.tolist() == matrix[lane >> 2, 2 * (lane % 4) : 2 * (lane % 4) + 2].tolist()


def test_identities(machine):
    blocks, threads = 5, 96
    fields = np.zeros((blocks, threads, 5), np.int32)
    machine.run("run_identify", fields, blocks)
    for block in range(blocks):
        for thread in range(threads):
            assert fields[block, thread].tolist() == [thread, thread % 32, thread // 32, block, blocks]


@pytest.mark.parametrize(("name", "dtype"), [("floats", np.float32), ("doubles", np.float64)])
@pytest.mark.parametrize("mask", [0, 1, 2, 4, 8, 16, 21, 31])
def test_exchange(machine, mask, name, dtype):
    given = np.arange(32, dtype=dtype) / 3  # needs all of its bits
    received = np.zeros_like(given)
    machine.run(f"run_exchange_of_{name}", given, received, mask)
    assert received.tolist() == [given[lane ^ mask] for lane in range(32)]


def apply(machine, function, x, dtype):
    result = np.zeros(len(x), dtype)
    machine.run(function, x, result, len(x))
    return result


def floats():
    """Random bits, which are of all magnitudes, and every halfway case of the 16-bit formats with its neighbours."""
    random = np.random.default_rng(0).integers(0, 2**32, 200_000, np.uint64).astype(np.uint32)
    every = np.arange(2**16, dtype=np.uint32)
    halfway_bfloat16 = every << 16 | 0x8000
    # Sums of neighbouring numbers of float16, halved. The largest has infinity as its neighbour: 65520 is halfway.
    low = every[:0x7C00].astype(np.uint16).view(np.float16).astype(np.float32)
    high = np.append(low[1:], np.float32(65536))
    halfway_float16 = ((low + high) / 2).view(np.uint32)
    tf32 = (every << 16 | 0x1000, every << 16 | 0x3000)
    special = np.array([0, 1, 2**31, 2**31 + 1, 0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001, 0x7F7FFFFF], np.uint32)
    exact = np.concatenate([special, halfway_bfloat16, halfway_float16, halfway_float16 | 2**31, *tf32])
    return np.concatenate([random, exact, exact + np.uint32(1), exact - np.uint32(1)]).view(np.float32)


def assert_same_bits(actual, expected, is_nan):
    """Equal to the last bit, signs of zeros among them; NaNs are all alike."""
    assert actual.dtype == expected.dtype
    np.testing.assert_array_equal(is_nan(actual), is_nan(expected))
    integer = f"u{actual.itemsize}"
    kept = ~is_nan(expected)
    np.testing.assert_array_equal(actual[kept].view(integer), expected[kept].view(integer))


def is_nan_bfloat16(bits):
    return (bits & 0x7FFF) > 0x7F80


def is_nan_float16(bits):
    return (bits & 0x7FFF) > 0x7C00


EVERY_16_BITS = np.arange(2**16, dtype=np.uint16)


def test_every_bfloat16_and_back(machine):
    widened = apply(machine, "widen_bfloat16", EVERY_16_BITS, np.float32)
    expected = torch.from_numpy(EVERY_16_BITS.view(np.int16)).view(torch.bfloat16).float().numpy()
    assert_same_bits(widened, expected, np.isnan)
    assert_same_bits(apply(machine, "narrow_bfloat16", widened, np.uint16), EVERY_16_BITS, is_nan_bfloat16)


def test_every_float16_and_back(machine):
    widened = apply(machine, "widen_float16", EVERY_16_BITS, np.float32)
    assert_same_bits(widened, EVERY_16_BITS.view(np.float16).astype(np.float32), np.isnan)
    assert_same_bits(apply(machine, "narrow_float16", widened, np.uint16), EVERY_16_BITS, is_nan_float16)


def test_rounding_to_bfloat16(machine):
    x = floats()
    assert_same_bits(apply(machine, "narrow_bfloat16", x, np.uint16), bfloat16_bits(x), is_nan_bfloat16)


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_rounding_to_float16(machine):
    x = floats()
    expected = x.astype(np.float16).view(np.uint16)
    assert_same_bits(apply(machine, "narrow_float16", x, np.uint16), expected, is_nan_float16)


def test_rounding_to_tf32(machine):
    x = floats()
    # Sign and magnitude: adding half of the last kept bit rounds ties away from zero; a carry goes to the exponent.
    rounded = (x.view(np.uint32) + np.uint32(1 << 12) >> 13 << 13).view(np.float32)
    assert_same_bits(apply(machine, "round_tf32", x, np.float32), np.where(np.isfinite(x), rounded, x), np.isnan)


def test_bits_of_floats(machine):
    x = floats()
    assert_same_bits(apply(machine, "bits_and_back", x, np.float32), x, np.isnan)


@pytest.mark.parametrize(
    ("function", "dtype", "is_nan"),
    [
        ("subtract_bfloat16", torch.bfloat16, is_nan_bfloat16),
        ("subtract_float16", torch.float16, is_nan_float16),
    ],
)
def test_packed_difference(machine, function, dtype, is_nan):
    pairs = np.random.default_rng(0).integers(0, 2**16, (100_000, 4)).astype(np.uint16)  # a, a, b, b
    pairs[: len(pairs) // 2, 2:] = pairs[: len(pairs) // 2, :2] ^ 0x0011  # close numbers: cancellation
    difference = apply(machine, function, pairs.view(np.uint64).reshape(-1), np.uint32).view(np.uint16)
    a, b = (torch.from_numpy(half.copy().view(np.int16)).view(dtype) for half in (pairs[:, :2], pairs[:, 2:]))
    assert_same_bits(difference, (a - b).view(torch.int16).numpy().view(np.uint16).reshape(-1), is_nan)


@pytest.mark.parametrize(
    ("function", "dtype", "is_nan"),
    [("pack_bfloat16", torch.bfloat16, is_nan_bfloat16), ("pack_float16", torch.float16, is_nan_float16)],
)
def test_packing_rounds_both_and_keeps_their_order(machine, function, dtype, is_nan):
    x = floats()
    x = x[: len(x) // 2 * 2]
    packed = apply(machine, function, x.view(np.uint64), np.uint32).view(np.uint16)
    expected = torch.from_numpy(x.copy()).to(dtype).view(torch.int16).numpy().view(np.uint16)
    assert_same_bits(packed, expected, is_nan)


@pytest.mark.parametrize(
    ("function", "is_nan"), [("rectify_bfloat16", is_nan_bfloat16), ("rectify_float16", is_nan_float16)]
)
def test_rectified_halves_have_no_sign(machine, function, is_nan):
    """Not even zero and NaN: the relu's mask is made of these bits."""
    x = np.arange(2**16).astype(np.uint16)
    rectified = apply(machine, function, x.view(np.uint32), np.uint32).view(np.uint16)
    np.testing.assert_array_equal(rectified, np.where(is_nan(x), 0x7FFF, np.where(x < 0x8000, x, 0)))


def test_four_bits_are_spread_over_halves(machine):
    bits = np.arange(256).astype(np.uint32)
    spread = apply(machine, "spread", bits, np.uint64).view(np.uint16).reshape(-1, 4)
    np.testing.assert_array_equal(spread, (bits[:, None] >> np.arange(4) & 1) * 0xFFFF)


def test_fused_multiply_add_rounds_once(machine):
    random = np.random.default_rng(0)
    a, b = random.standard_normal((2, 10_000)).astype(np.float32)
    c = -(a * b)  # what is left is the error of the product, which a float holds
    factors = np.stack([a, b, c, np.zeros_like(a)], axis=1)
    expected = (a.astype(np.float64) * b - -c.astype(np.float64)).astype(np.float32)
    result = np.zeros_like(a)
    machine.run("fused_multiply_add", factors, result, len(a))
    np.testing.assert_array_equal(result, expected)


def test_inverse_square_root(machine):
    x = np.abs(np.random.default_rng(0).standard_normal(10_000)).astype(np.float32)
    np.testing.assert_array_equal(apply(machine, "inverse_root", x, np.float32), np.float32(1) / np.sqrt(x))
