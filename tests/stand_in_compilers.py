"""Stand-ins for nvcc: shell scripts that answer as it does."""

import sysconfig
from pathlib import Path

from fused_resnet.kernel_build.toolchain import Nvcc

KNOWN = ("7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0")
# Compiles the source as C++, whatever else it is told, and notes that it did.
COMPILES = """\
echo compiled >> {folder}/compiled
while [ $# -gt 0 ]; do
  case "$1" in -o) out=$2; shift;; *.cpp | *.cu) source=$1;; esac
  shift
done
exec g++ -std=c++20 -fPIC -I{headers} -D__global__= -x c++ -c $source -o $out -MD -MF $out.d"""


def script(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)
    return path


def fake_nvcc(folder, version="13.0", compiling="exit 0"):
    """With a CUDA runtime in which there is nothing."""
    listed = "\\n".join(f"compute_{name.replace('.', '')}" for name in KNOWN)
    (folder / "lib").mkdir(parents=True)
    (folder / "lib" / "libcudart_static.a").write_text("!<arch>\n")
    return script(
        folder / "bin" / "nvcc",
        f'[ "$1" = --version ] && echo "Cuda compilation tools, release {version}, V{version}.88" && exit 0',
        f'[ "$1" = --list-gpu-arch ] && printf "{listed}\\n" && exit 0',
        f"""[ "$1" = --dryrun ] && echo '#$ LIBRARIES=  "-L{folder}/lib"' >&2 && exit 0""",
        compiling,
    )


def nvcc_that_compiles(folder):
    return fake_nvcc(folder, compiling=COMPILES.format(folder=folder, headers=sysconfig.get_path("include")))


def nvcc(version="13.0", known=KNOWN):
    return Nvcc(Path("/cuda/bin/nvcc"), version, frozenset(known))
