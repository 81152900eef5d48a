"""A valid call makes no text and touches no stream: checks describe what they found where it is wrong.

Where a module carries a C++ library of its own beside the one that torch has loaded, two copies of the locales meet in
the first number that is written to a stream, and the process ends.
"""

import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from fused_resnet.backends.kernels import loading
from fused_resnet.kernel_build import decision, recipes
from fused_resnet.kernel_build.cache import file_name, store_module
from fused_resnet.kernel_build.compilation import compile_module, incremental_folder
from fused_resnet.kernel_build.toolchain import CannotBuildError

ROOT = pathlib.Path(__file__).parents[2]
SPEECHLESS = ROOT / "tests" / "emulator" / "speechless"
# By the Itanium C++ ABI: members, tables and names of types of the classes that streams are made of, and the functions
# and objects beside them.
_CLASSES = (
    r"\d+(locale|ctype|codecvt|num_put|num_get|numpunct|ios_base|basic_ios|basic_[io]*stream|basic_streambuf|"
    r"basic_filebuf|basic_[io]?fstream|basic_[io]?stringstream|basic_stringbuf)"
)
_FUNCTIONS = r"\d+(cout|cerr|clog|cin|endl|flush|__ostream_insert|use_facet|has_facet)|ls.*basic_ostream"
STREAMS = re.compile(rf"_Z(T[VTIS]|GV)?N?[VK]*(S[oid]|St(7__cxx11)?{_CLASSES}|St({_FUNCTIONS}))")


@pytest.fixture(scope="module")
def speechless():
    """The folder of a build of the emulator in which the making of text is replaced by an abort."""
    try:
        tools = decision.emulator_tools(os.environ)
    except CannotBuildError as error:
        pytest.skip(str(error))
    made, name = recipes.recipe(ROOT, tools), file_name("_emulated")
    compiler, *rest = made.compile
    made = dataclasses.replace(made, compile=(compiler, "-I", str(SPEECHLESS), *rest))
    folder = incremental_folder(ROOT, name, made)
    folder.mkdir(parents=True, exist_ok=True)
    module = compile_module(
        ROOT,
        name,
        made,
        tools.ninja,
        folder=folder,
        jobs=2,
        log=folder / "log",
        on_step=lambda *_: None,
    )
    store_module(module, folder / "package", "_emulated", made.facts)
    return folder / "package"


def run(folder, calls):
    command = [sys.executable, ROOT / "tests" / "speechless_calls.py", folder, calls]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.emulated
def test_valid_calls_make_no_text(speechless):
    done = run(speechless, "valid")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 50


@pytest.mark.slow
@pytest.mark.emulated
def test_refused_call_would_have_made_some(speechless):
    done = run(speechless, "invalid")
    assert done.returncode == -6, done.stderr


@pytest.mark.parametrize(
    ("symbol", "is_one"),
    [
        ("_ZNSo9_M_insertIlEERSoT_", True),  # std::ostream& std::ostream::_M_insert<long>(long)
        ("_ZNKSt7codecvtIcc11__mbstate_tE10do_unshiftERS0_PcS3_RS3_", True),
        ("_ZNSt6localeC1Ev", True),
        ("_ZTVNSt7__cxx1119basic_ostringstreamIcSt11char_traitsIcESaIcEEE", True),
        ("_ZNSt7__cxx1115basic_stringbufIcSt11char_traitsIcESaIcEE8overflowEi", True),
        ("_ZNSt7__cxx118numpunctIcE2idE", True),
        ("_ZSt4cout", True),
        ("_ZSt4endlIcSt11char_traitsIcEERSt13basic_ostreamIT_T0_ES6_", True),
        ("_ZSt9use_facetISt5ctypeIcEERKT_RKSt6locale", True),
        ("_ZSt16__ostream_insertIcSt11char_traitsIcEERSt13basic_ostreamIT_T0_ES6_PKS3_l", True),
        ("_ZStlsISt11char_traitsIcEERSt13basic_ostreamIcT_ES5_PKc", True),  # ostream << const char*
        ("_ZSt9terminatev", False),
        ("_ZNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEE9_M_appendEPKcm", False),
        ("_ZN12fused_resnet14launch_forwardENS_4MathENS_5PhaseERKNS_4TailEP11CUstream_st", False),
    ],
)
def test_symbols_of_streams_are_known_by_name(symbol, is_one):
    assert (STREAMS.match(symbol) is not None) == is_one


def symbols(name, *options):
    """The symbols of a built module."""
    module, reason = loading.load(name)
    if module is None:
        pytest.skip(f"{name}: {reason}")
    if shutil.which("nm") is None:
        pytest.skip("there is no nm")
    listed = subprocess.run(["nm", *options, module.__file__], capture_output=True, text=True, check=True)
    found = [line.split()[-1] for line in listed.stdout.splitlines()]
    assert any("fused_resnet" in symbol for symbol in found)
    return found


@pytest.mark.parametrize("name", ["_C", pytest.param("_emulated", marks=pytest.mark.emulated)])
def test_module_has_no_streams_and_locales_of_its_own(name):
    assert [symbol for symbol in symbols(name, "--defined-only") if STREAMS.match(symbol)] == []


def test_kernels_module_uses_none_of_others_either():
    """But for what each file that includes <iostream>, as torch's headers do, says to it once."""
    used = {symbol.split("@")[0] for symbol in symbols("_C") if STREAMS.match(symbol)}
    assert used <= {"_ZNSt8ios_base4InitC1Ev", "_ZNSt8ios_base4InitD1Ev"}
