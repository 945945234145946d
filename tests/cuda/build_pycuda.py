"""Build and install PyCUDA into the running environment: `python -m tests.cuda.build_pycuda [--wheel FOLDER]`.

With --wheel it is put into that folder as a wheel instead.

For the tests of its back end. PyCUDA comes as source only, and on a machine without a GPU it needs two things said that
its own set-up doesn't know: leave cuRAND out, and depend on `libcuda.so.1` although no such library is here to link
against (a linker that drops what it sees no use for makes an extension that cannot be imported anywhere). Takes about
two minutes the first time, then none. Where there is no compiler or no CUDA header it says so and ends well:
the tests skip then.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from pathlib import Path

REQUIREMENT = "pycuda>=2024.1"


def main(wheels: Path | None = None) -> int:
    try:
        if wheels is None:
            print(f"pycuda {importlib.metadata.version('pycuda')} is here")
            return 0
    except importlib.metadata.PackageNotFoundError:
        pass
    root = cuda_root()
    if root is None:
        print("pycuda not built: no cuda.h found (CUDA_HOME, nvcc on the PATH, /usr/local/cuda); its tests will skip")
        return 0
    missing = [tool for tool in ("gcc", "g++") if shutil.which(tool) is None]
    if missing:
        print(f"pycuda not built: no {' or '.join(missing)} here; its tests will skip")
        return 0
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        print("pycuda not built: no Python.h here (the python3-dev package); its tests will skip")
        return 0
    print(f"building pycuda with the CUDA headers of {root}: about two minutes, this once", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        build(root, Path(folder), wheels)
    return 0


def cuda_root() -> Path | None:
    """The folder whose `include` has cuda.h, if there is one."""
    nvcc = shutil.which("nvcc")
    candidates = [os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH", "CUDA_ROOT")]
    candidates += [str(Path(nvcc).resolve().parent.parent) if nvcc else None, "/usr/local/cuda", "/usr"]
    return next((Path(root) for root in candidates if root and Path(root, "include", "cuda.h").exists()), None)


def build(root: Path, folder: Path, wheels: Path | None = None) -> None:
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "download", "--no-deps", "--no-binary=pycuda", "-d", folder, REQUIREMENT], check=True)
    archive = next(folder.glob("pycuda-*.tar.gz"))
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    source = folder / archive.name.removesuffix(".tar.gz")
    # Only its name counts: the extension asks for libcuda.so.1 and gets the machine's own when it is imported.
    subprocess.run(
        ["gcc", "-shared", "-Wl,-soname,libcuda.so.1", "-o", folder / "libcuda.so", "-x", "c", os.devnull], check=True
    )
    options = [f"--cuda-root={root}", "--no-cuda-enable-curand", f"--cudadrv-lib-dir={folder}"]
    subprocess.run([sys.executable, "configure.py", *options], cwd=source, check=True, stdout=subprocess.DEVNULL)
    flags = f"-Wl,--no-as-needed {os.environ.get('LDFLAGS', '')}".strip()
    what = ["install"] if wheels is None else ["wheel", "--no-deps", "--no-build-isolation", "-w", wheels]
    subprocess.run([*pip, *what, source], env={**os.environ, "LDFLAGS": flags}, check=True)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[2]) if sys.argv[1:2] == ["--wheel"] else None))
