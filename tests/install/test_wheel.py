"""What is handed out: the sdist, the wheel that is built from it, and what they say of themselves."""

import email
import importlib.metadata
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile

import pytest
import setuptools

import fused_resnet
from fused_resnet.kernel_build.cache import sources_digest

ROOT = pathlib.Path(__file__).parents[2]
OF_THE_PACKAGE = (".py", ".pyi", "py.typed", "calibration.json")
IN_SDIST = ("LICENSE", "CHANGELOG.md", "MANIFEST.in", "README.md", "pyproject.toml", "setup.py")


def run(*command, cwd, **environ):
    """What it prints. Nothing of this environment gets through but what the tools need."""
    environment = {"PATH": os.environ["PATH"], "FUSED_RESNET_CUDA": "0", **environ}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pip(*arguments, cwd):
    return run(sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments, cwd=cwd)


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """Built in a copy of the sources, built modules and their records included."""
    pytest.importorskip("pip")
    if int(setuptools.__version__.split(".")[0]) < 77:
        pytest.skip(f"setuptools {setuptools.__version__} is too old to build the package, and says so")
    source = tmp_path_factory.mktemp("sources") / "fused_resnet"
    unwanted = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, ignore=unwanted)
    (source / "fused_resnet" / "_C.json").write_text("{}")
    run(sys.executable, "setup.py", "--quiet", "sdist", cwd=source)
    (archive,) = (source / "dist").iterdir()
    return archive


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory):
    """Built from the sdist, without kernels."""
    folder = tmp_path_factory.mktemp("wheel")
    flags = ("--no-build-isolation", "--no-deps", "--no-index", "--no-cache-dir", "--quiet", "--wheel-dir", str(folder))
    pip("wheel", *flags, str(sdist), cwd=folder)
    (archive,) = folder.iterdir()
    return archive


@pytest.fixture(scope="module")
def metadata(wheel):
    """The wheel's, as an email message."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return email.message_from_string(archive.read(name).decode())


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The Python of an environment that has the wheel, and torch from this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    (site_packages,) = folder.glob("lib/python*/site-packages")
    (site_packages / "torch_of_another_environment.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip("--python", str(python), "install", "--no-deps", "--no-index", "--quiet", str(wheel), cwd=folder)
    return python


def package_files(*endings):
    """The package's own files in the sources, as an archive names them."""
    files = (path for path in (ROOT / "fused_resnet").rglob("*") if path.name.endswith(endings))
    return {str(path.relative_to(ROOT)) for path in files}


def files_below(*folders):
    """Sources, as an archive names them."""
    files = (path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file())
    return {str(path.relative_to(ROOT)) for path in files if path.suffix != ".pyc"}


def test_sdist_has_what_a_build_needs_and_nothing_that_was_built(sdist):
    with tarfile.open(sdist) as archive:
        members = {member.name.partition("/")[2] for member in archive if member.isfile()}
    emulator = {name for name in files_below("tests/emulator") if "/test_" not in name}
    assert members >= {*IN_SDIST, *files_below("csrc"), *emulator}
    assert members >= package_files(*OF_THE_PACKAGE)
    assert not [name for name in members - package_files(*OF_THE_PACKAGE) if name.endswith((".so", ".json", ".pyc"))]
    assert not [name for name in members if "/test_" in name or name.startswith("benchmarks")]


def test_wheel_has_the_package_and_the_sources_of_its_kernels(wheel):
    with zipfile.ZipFile(wheel) as archive:
        members = set(archive.namelist())
        record = json.loads(archive.read("fused_resnet/_C.json"))
    own = {name for name in members if ".dist-info/" not in name}
    records = {"fused_resnet/_C.json", "fused_resnet/_emulated.json"}
    kernels = {f"fused_resnet/{name}" for name in files_below("csrc")}
    assert own == package_files(*OF_THE_PACKAGE) | records | kernels
    assert record == {"reason": "installed without CUDA kernels: FUSED_RESNET_CUDA=0"}
    assert [name for name in members if name.endswith("/LICENSE")]
    assert wheel.name.endswith("-py3-none-any.whl")


def test_metadata_is_complete(metadata):
    assert metadata["Name"] == "fused_resnet"
    assert metadata["Version"] == fused_resnet.__version__
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload().startswith("# fused_resnet")
    assert "resnet" in metadata["Keywords"].split(",")
    assert metadata.get_all("Provides-Extra") == ["benchmarks", "dev"]
    requirements = metadata.get_all("Requires-Dist")
    assert [name for name in requirements if "extra ==" not in name] == ["ninja", "torch>=2.6"]
    classifiers = metadata.get_all("Classifier")
    for minor in (10, 11, 12, 13):
        assert f"Programming Language :: Python :: 3.{minor}" in classifiers
    for classifier in ("Environment :: GPU :: NVIDIA CUDA", "Operating System :: POSIX :: Linux", "Typing :: Typed"):
        assert classifier in classifiers


def test_version_is_that_of_the_topmost_release_in_the_changelog():
    releases = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert releases[0] == fused_resnet.__version__


def test_version_is_that_of_the_installed_package():
    try:
        installed = importlib.metadata.version("fused_resnet")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package is used from its folder and was never installed")
    assert installed == fused_resnet.__version__


def test_installed_wheel_has_the_kernels_of_this_checkout(installed, tmp_path):
    """So that what `python -m fused_resnet build` compiles from either serves both."""
    code = "from fused_resnet.kernel_build.cache import sources_digest; print(sources_digest())"
    assert run(installed, "-c", code, cwd=tmp_path).strip() == sources_digest()


def test_installed_wheel_is_well(installed, tmp_path):
    where = run(installed, "-c", "import fused_resnet; print(fused_resnet.__file__)", cwd=tmp_path)
    assert pathlib.Path(where).is_relative_to(installed.parents[1])
    found = json.loads(run(installed, "-m", "fused_resnet", "doctor", "--json", cwd=tmp_path))
    assert found["problems"] == []
    assert found["versions"]["fused_resnet"] == fused_resnet.__version__
    assert found["backends"]["cuda"] == "not built (installed without CUDA kernels: FUSED_RESNET_CUDA=0)"
    assert {check["backend"] for check in found["checks"]} == {"reference"}
