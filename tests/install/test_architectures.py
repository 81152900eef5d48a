"""Which GPUs the kernels are compiled for."""

import pytest
from stand_in_compilers import nvcc

from fused_resnet.kernel_build.architectures import Architectures, architectures, code_flags, for_gpus
from fused_resnet.kernel_build.toolchain import CannotBuildError


@pytest.mark.parametrize("wanted", ["8.0 9.0+PTX", "8.0;9.0+PTX", " 8.0 ; 9.0+PTX ", "8.0;9.0+PTX;8.0"])
def test_architectures_in_each_form(wanted):
    assert architectures(wanted, nvcc()) == Architectures(["8.0", "9.0+PTX"], [])


def test_generations_have_the_names_that_pytorch_gives_them():
    assert architectures("Ampere;Hopper", nvcc()).names == ["8.0", "8.6+PTX", "9.0+PTX"]


def test_architectures_that_are_too_old_are_left_out_while_one_is_left():
    """NVIDIA's images of PyTorch set such lists."""
    found = architectures("Volta 7.5 8.0 8.6 8.6+PTX", nvcc())
    assert found == Architectures(["8.0", "8.6+PTX"], ["7.0+PTX", "7.5"])
    assert str(found) == "architectures 8.0 8.6+PTX (without 7.0+PTX 7.5, which are too old)"


def test_architectures_that_are_all_too_old_are_refused():
    with pytest.raises(CannotBuildError, match=r"names '7\.5 Volta': the kernels need 8\.0 or later"):
        architectures(" 7.5 Volta", nvcc())


def test_all_usual_architectures_are_the_default():
    assert architectures("", nvcc()).names == ["8.0", "8.6", "8.9", "9.0", "10.0", "12.0+PTX"]


def test_older_nvcc_has_fewer_and_leaves_later_gpus_to_the_newest():
    older = nvcc("12.0", ("8.0", "8.6", "8.7", "8.9", "9.0"))
    assert architectures(" ", older).names == ["8.0", "8.6", "8.9", "9.0+PTX"]


@pytest.mark.parametrize(
    ("wanted", "words"),
    [("9.9", "does not know"), ("Fermi", "expected numbers"), ("90", "expected numbers")],
)
def test_architecture_that_cannot_be_is_named(wanted, words):
    with pytest.raises(CannotBuildError) as caught:
        architectures(f"8.0 {wanted}", nvcc())
    assert repr(wanted) in str(caught.value)
    assert words in str(caught.value)


def test_code_is_for_each_architecture_and_for_later_ones_where_it_says_so():
    assert code_flags(["8.0", "12.0+PTX"]) == [
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_120,code=sm_120",
        "-gencode=arch=compute_120,code=compute_120",
    ]


@pytest.mark.parametrize(
    ("capabilities", "names"),
    [
        ([(9, 0)], ["9.0"]),
        ([(9, 0), (8, 0), (9, 0)], ["8.0", "9.0"]),
        ([(8, 7)], ["8.6"]),  # code of the same generation
        ([(12, 1), (12, 0)], ["12.0"]),
        ([(13, 0)], ["12.0+PTX"]),  # a generation that nvcc does not know
        ([(7, 5), (8, 0)], ["8.0"]),
    ],
)
def test_architectures_of_the_gpus_that_are_there(capabilities, names):
    assert for_gpus(capabilities, nvcc()) == names


def test_gpus_that_are_all_too_old_are_named():
    with pytest.raises(CannotBuildError, match=r"architecture 8\.0 or later; found: 7\.0, 7\.5"):
        for_gpus([(7, 5), (7, 0)], nvcc())
