"""The samples that tests of the kernels run, forward and backward, and what they are run with."""

import pytest
import torch
from samples import SAMPLES, Branch, Sample

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
TRAINING = {
    name: sample
    for name, sample in SAMPLES.items()
    if any(branch is not None and branch.norm == "training" for branch in (sample.main, sample.shortcut))
}
EVALUATED = {name: sample for name, sample in SAMPLES.items() if sample.main.tracked}
PROJECTING = {
    name: sample
    for name, sample in EVALUATED.items()
    if "projection" in (sample.main.source, sample.shortcut and sample.shortcut.source)
}
WITHOUT_PROJECTIONS = {name: sample for name, sample in EVALUATED.items() if name not in PROJECTING}
# A tail of each kind, for the sanitizers.
SMALL = {
    "no product": Sample(Branch("direct", "training"), Branch("zero_pad", in_channels=7), shape=(2, 19, 4, 3)),
    "one product": Sample(Branch("projection", "training", 21), Branch("direct"), shape=(2, 19, 4, 3)),
    "two products": Sample(
        Branch("projection", "training", 16, layout="channels_last"),
        Branch("projection", "training", 24, stride=2, layout="channels_last"),
        shape=(2, 32, 4, 3),
        gradient_layout="channels_last",
    ),
}
# Two tiles of channels and three pairs of them, six ranges of rows, all with a rest; and a hundred ranges.
SEVERAL_RANGES = {
    "no product": Sample(Branch("direct", "training"), Branch("zero_pad", in_channels=140), shape=(2, 150, 18, 18)),
    "one product": Sample(Branch("direct", "training"), Branch("projection", "training", 140), shape=(2, 150, 18, 18)),
    "two products": Sample(
        Branch("projection", "training", 130), Branch("projection", "training", 140, stride=2), shape=(2, 150, 18, 18)
    ),
    "many ranges": Sample(
        Branch("projection", "training", 9), Branch("direct", "training", layout="channels_last"), shape=(2, 8, 80, 80)
    ),
}

# Numbers of channels around those of vectors, warps and tiles.
CHANNELS = (1, 3, 35, 65, 127, 128, 129, 200)

each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
each_mode = pytest.mark.parametrize("mode", ["training", "evaluation"])
each_number_of_products = pytest.mark.parametrize("products", [0, 1, 2])


def each(samples):
    """Runs a test on each of these."""
    return pytest.mark.parametrize("sample", samples.values(), ids=samples)


def sample_of(products, channels, inputs, dtype):
    """A tail with so many products, of inputs with so many channels."""
    projection = Branch("projection", "training", inputs)
    main, shortcut = {
        0: (Branch("direct", "training"), Branch("zero_pad", in_channels=min(channels, inputs), stride=2)),
        1: (projection, Branch("direct", "training")),
        2: (projection, Branch("projection", "training", channels, stride=2)),
    }[products]
    return Sample(main, shortcut, shape=(2, channels, 9, 8)).with_dtype(dtype)
