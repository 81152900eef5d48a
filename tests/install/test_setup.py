"""What an installation decides to build, with stand-ins for compilers: nothing is compiled here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import setuptools
from stand_in_compilers import KNOWN, fake_nvcc, nvcc, script

from fused_resnet.kernel_build import decision, jobs, recipes, toolchain
from fused_resnet.kernel_build.architectures import Architectures
from fused_resnet.kernel_build.toolchain import CannotBuildError, Torch

ROOT = Path(__file__).parents[2]


def torch(version="2.13.0", cuda="13.0"):
    return Torch(Path("/site-packages/torch"), version, cuda)


def fake_torch(folder, version="2.13.0", **facts):
    (folder / "torch").mkdir()
    (folder / "torch" / "__init__.py").write_text("raise AssertionError('imported')")
    lines = [f"{name} = {value!r}" for name, value in {"__version__": version, "cuda": None, **facts}.items()]
    (folder / "torch" / "version.py").write_text("\n".join(lines))
    return [str(folder)]


# Which nvcc


def test_nvcc_is_taken_from_the_first_place_that_has_one(tmp_path):
    places = {name: tmp_path / name for name in ("home", "path", "on_path", "usual")}
    environ = {"CUDA_HOME": str(places["home"]), "CUDA_PATH": str(places["path"]), "PATH": f"{places['on_path']}/bin"}
    for place in reversed(places.values()):
        expected = fake_nvcc(place)
        assert toolchain.find_nvcc(environ, places["usual"]).path == expected


def test_missing_nvcc_names_every_place_that_was_looked_in(tmp_path):
    environ = {"CUDA_HOME": "/no/cuda", "PATH": str(tmp_path)}
    with pytest.raises(CannotBuildError, match=r"no nvcc was found in CUDA_HOME=/no/cuda, PATH, /usual: .*CUDA_HOME"):
        toolchain.find_nvcc(environ, Path("/usual"))


def test_nvcc_says_its_version_and_architectures(tmp_path):
    fake_nvcc(tmp_path, "12.8")
    found = toolchain.find_nvcc({"CUDA_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"})
    assert (found.version, found.architectures) == ("12.8", frozenset(KNOWN))


def test_old_nvcc_is_refused(tmp_path):
    path = fake_nvcc(tmp_path, "11.8")
    with pytest.raises(CannotBuildError, match=rf"nvcc 11\.8 \({path}\) is older than 12\.0"):
        toolchain.find_nvcc({"CUDA_HOME": str(tmp_path)})


def test_nvcc_that_does_not_go_with_the_host_compiler_is_explained(tmp_path):
    compiling = 'echo "host_config.h: error: unsupported GNU version" >&2; exit 1'
    fake_nvcc(tmp_path / "cuda", compiling=compiling)
    compiler = script(tmp_path / "g++", "echo 99.0.0")
    found = toolchain.find_nvcc({"CUDA_HOME": str(tmp_path / "cuda")})
    with pytest.raises(CannotBuildError) as caught:
        toolchain.check_host_compiler(found, compiler)
    message = str(caught.value)
    for part in ("nvcc 13.0", str(found.path), str(compiler), "99.0.0", "unsupported GNU version", "CXX"):
        assert part in message


def test_runtime_is_where_nvcc_would_look_for_it(tmp_path):
    fake_nvcc(tmp_path)
    found = toolchain.find_nvcc({"CUDA_HOME": str(tmp_path)})
    assert toolchain.static_runtime(found) == tmp_path / "lib" / "libcudart_static.a"
    (tmp_path / "lib" / "libcudart_static.a").unlink()
    with pytest.raises(CannotBuildError, match=rf"no libcudart_static\.a \({tmp_path}/lib\)"):
        toolchain.static_runtime(found)


def test_missing_host_compiler_is_named():
    with pytest.raises(CannotBuildError, match=r"no-such-compiler is not in PATH"):
        toolchain.host_compiler({"CXX": "no-such-compiler", "PATH": "/bin"})


# Which torch


def test_torch_is_read_without_importing_it(tmp_path):
    assert toolchain.find_torch(fake_torch(tmp_path, "2.12.0a0+cu130", cuda="13.0")) == Torch(
        tmp_path / "torch", "2.12.0a0+cu130", "13.0"
    )


def test_missing_torch_asks_for_no_isolation(tmp_path):
    with pytest.raises(CannotBuildError, match="--no-build-isolation"):
        toolchain.find_torch([str(tmp_path)])


@pytest.mark.parametrize("version", ["2.6.0", "2.10.1+cu128"])
def test_old_torch_has_no_kernels(tmp_path, version):
    with pytest.raises(CannotBuildError) as caught:
        toolchain.find_torch(fake_torch(tmp_path, version))
    assert version in str(caught.value)
    assert "2.11" in str(caught.value)


def test_torch_for_rocm_has_no_kernels(tmp_path):
    with pytest.raises(CannotBuildError, match="ROCm"):
        toolchain.find_torch(fake_torch(tmp_path, hip="6.4"))


@pytest.mark.parametrize("cuda", [None, "13.0", "13.2"])
def test_torch_of_the_same_major_version_of_cuda_goes_with_nvcc(cuda):
    toolchain.check_pair(nvcc("13.0"), torch(cuda=cuda))


def test_torch_of_another_major_version_of_cuda_does_not():
    with pytest.raises(CannotBuildError) as caught:
        toolchain.check_pair(nvcc("13.0"), torch(cuda="12.8"))
    for part in ("13.0", "12.8", "/cuda/bin/nvcc", "/site-packages/torch", "CUDA_HOME"):
        assert part in str(caught.value)


def test_old_setuptools_is_named_before_it_fails():
    toolchain.check_setuptools("77.0.1")
    with pytest.raises(SystemExit, match=r"setuptools 65\.5\.0 is too old .*setuptools>=77"):
        toolchain.check_setuptools("65.5.0")


# The decision


def tools(sanitize=None):
    common = (torch(), Path("ninja"), Path("include"), Path("g++"))
    if sanitize is None:
        return decision.CudaTools(
            *common, nvcc(), Path("/cuda/lib/libcudart_static.a"), Architectures(["8.0", "9.0+PTX"], [])
        )
    return decision.EmulatorTools(*common, sanitize)


def finds(_environ):
    return tools()


def misses(_environ):
    raise CannotBuildError("no nvcc was found in PATH")


def fails(_environ):
    raise AssertionError("looked for tools")


@pytest.mark.parametrize(
    ("setting", "find", "builds", "required", "words"),
    [
        ("", finds, True, False, ["nvcc 13.0 (/cuda/bin/nvcc)", "torch 2.13.0", "8.0 9.0+PTX"]),
        ("", misses, False, False, ["installed without CUDA kernels", "no nvcc was found in PATH"]),
        ("0", fails, False, False, ["installed without CUDA kernels", "FUSED_RESNET_CUDA=0"]),
        ("1", finds, True, True, ["nvcc 13.0"]),
        ("1", misses, False, True, ["FUSED_RESNET_CUDA=1", "no nvcc was found in PATH"]),
    ],
)
def test_decision_on_the_kernels(setting, find, builds, required, words):
    decided = decision.decide_cuda({"FUSED_RESNET_CUDA": setting}, find)
    assert (decided.tools is not None, decided.required) == (builds, required)
    assert "\n" not in decided.line
    assert all(word in decided.line for word in words)


@pytest.mark.parametrize(
    ("setting", "find", "builds", "required"),
    [
        ("", fails, False, False),
        ("0", fails, False, False),
        ("1", lambda _: tools(sanitize=False), True, True),
        ("1", misses, False, True),
    ],
)
def test_emulator_is_built_where_it_is_asked_for(setting, find, builds, required):
    decided = decision.decide_emulated({"FUSED_RESNET_EMULATOR": setting}, find)
    assert (decided.tools is not None, decided.required) == (builds, required)
    assert "FUSED_RESNET_EMULATOR" in decided.line or builds


@pytest.mark.parametrize("name", ["FUSED_RESNET_CUDA", "FUSED_RESNET_EMULATOR"])
def test_setting_that_is_neither_0_nor_1_is_refused(name):
    with pytest.raises(SystemExit, match=rf"{name} is 'yes', expected 0 or 1"):
        (decision.decide_cuda if name == "FUSED_RESNET_CUDA" else decision.decide_emulated)({name: "yes"}, fails)


# Recipes


def test_modules_are_compiled_by_one_standard_and_linked_by_the_host_compiler():
    cuda, emulator = recipes.recipe(ROOT, tools()), recipes.recipe(ROOT, tools(sanitize=False))
    for made in (cuda, emulator):
        assert [word for word in made.compile if word.startswith("-std=")] == [f"-std={toolchain.STANDARD}"]
        assert made.link[0] == "g++"
    assert "/cuda/lib/libcudart_static.a" in cuda.libraries


@pytest.mark.parametrize(("asked", "expected"), [("1", True), ("0", False)])
def test_emulator_is_sanitized_where_that_is_asked_for(asked, expected):
    try:
        tools = decision.emulator_tools({**os.environ, "FUSED_RESNET_SANITIZE": asked})
    except CannotBuildError as error:
        pytest.skip(str(error))
    assert tools.sanitize is expected


@pytest.mark.slow
@pytest.mark.emulated
def test_bindings_compile_by_that_standard_beside_this_torch():
    """With the host compiler, which nvcc leaves torch's headers to."""
    try:
        made = recipes.recipe(ROOT, decision.emulator_tools(os.environ))
    except CannotBuildError as error:
        pytest.skip(str(error))
    command = [word for word in made.compile if word != "-c"]
    done = subprocess.run([*command, "-fsyntax-only", "csrc/bindings.cpp"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# Jobs


@pytest.mark.parametrize(
    ("wanted", "cpus", "gib", "expected", "warns"),
    [
        ("", 4, 64, 4, False),
        ("", 16, 9, 4, False),
        ("", 16, 1, 1, False),
        ("", 8, None, 8, False),
        ("3", 8, 64, 3, False),
        ("32", 8, 64, 32, False),
        ("8", 16, 9, 8, True),
        ("8", 16, None, 8, False),
    ],
)
def test_number_of_jobs(wanted, cpus, gib, expected, warns):
    number, warning = jobs.jobs({"MAX_JOBS": wanted}, cpus, None if gib is None else gib * jobs.GIB)
    assert number == expected
    assert (warning is not None) == warns


def test_warning_of_too_many_jobs_names_both_numbers():
    _, warning = jobs.jobs({"MAX_JOBS": "8"}, 16, 9 * jobs.GIB)
    assert "MAX_JOBS=8" in warning
    assert "enough for 4" in warning


@pytest.mark.parametrize("wanted", ["0", "-1", "many"])
def test_number_of_jobs_must_be_one(wanted):
    with pytest.raises(SystemExit, match="MAX_JOBS"):
        jobs.jobs({"MAX_JOBS": wanted}, 1, None)


def test_memory_of_a_container_counts(tmp_path):
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (tmp_path / "proc").mkdir()
    assert jobs.available_memory(tmp_path) is None
    (tmp_path / "proc/meminfo").write_text(f"MemTotal: 99 kB\nMemAvailable: {8 * 2**20} kB\n")
    assert jobs.available_memory(tmp_path) == 8 * jobs.GIB
    (group / "memory.max").write_text("max\n")
    assert jobs.available_memory(tmp_path) == 8 * jobs.GIB
    (group / "memory.max").write_text(f"{5 * jobs.GIB}\n")
    (group / "memory.current").write_text(f"{jobs.GIB}\n")
    assert jobs.available_memory(tmp_path) == 4 * jobs.GIB


# The command, as pip runs it


def build(folder, **environ):
    if int(setuptools.__version__.split(".")[0]) < 77:
        pytest.skip(f"setuptools {setuptools.__version__} is too old to build the package, and says so")
    (folder / "fused_resnet").mkdir()
    for name in ("setup.py", "fused_resnet/kernel_build"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "csrc").mkdir()
    (folder / "csrc" / "kernel.cu").touch()
    environment = {"PATH": "/usr/bin:/bin", "FUSED_RESNET_CACHE": str(folder / "cache"), **environ}
    command = [sys.executable, "setup.py", "build_ext"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_installation_without_kernels_says_so_and_remembers_the_reason(tmp_path):
    done = build(tmp_path, FUSED_RESNET_CUDA="0")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("fused_resnet: no _C: installed without CUDA kernels: FUSED_RESNET_CUDA=0\n") == 1
    (record,) = tmp_path.rglob("_C.json")
    assert json.loads(record.read_text()) == {"reason": "installed without CUDA kernels: FUSED_RESNET_CUDA=0"}


def test_kernels_that_are_required_and_cannot_be_built_end_the_installation_in_one_line(tmp_path):
    environ = {"FUSED_RESNET_CUDA": "1", "TORCH_CUDA_ARCH_LIST": "1.0", "CUDA_HOME": str(tmp_path)}
    fake_nvcc(tmp_path)
    done = build(tmp_path, **environ)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "fused_resnet: no _C" in line]
    assert "FUSED_RESNET_CUDA=1, but" in line
    assert not list(tmp_path.rglob("_C.json"))


def test_folder_that_cannot_be_written_is_one_line(tmp_path):
    pytest.importorskip("ninja")
    fake_nvcc(tmp_path / "cuda")
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "kernels").touch()  # where the objects would lie
    done = build(tmp_path, CUDA_HOME=str(tmp_path / "cuda"))
    assert done.returncode == 0, done.stderr
    assert "installed without CUDA kernels: _C did not compile" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("required", [False, True])
def test_compiler_that_fails_leaves_one_line_and_its_text_in_a_file(tmp_path, required):
    """And the package without kernels, unless they are required."""
    pytest.importorskip("ninja")
    page = "\\n".join(["In file included from c10.h:", "c10.h:3: error: 'requires' is no name", *["   | note"] * 90])
    fake_nvcc(tmp_path / "cuda", compiling=f'case "$*" in *probe.cu*) exit 0;; esac; printf "{page}\\n"; exit 1')
    done = build(tmp_path, CUDA_HOME=str(tmp_path / "cuda"), FUSED_RESNET_CUDA="1" if required else "")
    said = done.stdout + done.stderr
    (line,) = [line for line in said.splitlines() if "did not compile" in line]
    assert "_C did not compile: c10.h:3: error: 'requires' is no name (full output: " in line
    assert "note" not in said
    assert "Traceback" not in said
    (log,) = (tmp_path / "cache").glob("*.log")
    assert str(log) in line
    assert log.read_text().count("note") == 90
    if required:
        assert done.returncode == 1
        assert not list(tmp_path.rglob("_C.json"))
    else:
        assert done.returncode == 0, said
        (record,) = tmp_path.rglob("_C.json")
        assert json.loads(record.read_text())["reason"] in line
