"""Does it run on arm64, as a Jetson's processor is? `make arm64`; `make arm64 SUITE=jammy` for JetPack 6's Python.

A Debian or Ubuntu for arm64 is made under build/arm64, its processor emulated. There the package is installed by pip
with numpy 1 and OpenCV 4, as JetPack has them; a recording of the built-in town, made on this machine, must be decided
the same (`replay --check`: equal labels, numbers within the tolerance for another kind of machine); and the tests run
that need neither real time nor torch. Exit code 1 if anything fails. Needs root, debootstrap and qemu-user-static.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.arm64.root import RELEASES, System, make, why_not

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / "arm64"
SECONDS = 8
MODULES = (
    "align", "archive", "boxes", "bundle", "clock", "decide", "endpoints", "machine_kind",
    "mailbox", "model_signature", "objects", "pauses", "pictures", "pixels", "preprocess", "signing",
    "signing_keys", "tensor_source", "tokenizer", "tracking", "troubles", "wire", "zones",
)  # fmt: skip
"""Of tests/, those that need no real time; beside them, all of tests/heads."""
NEEDED = (
    "pytest",
    "pytest-timeout",
    "hypothesis",
    "jsonschema",
    "packaging",
    "pillow",
    "psutil",
    "tokenizers",
    "wordfreq",
)
JETPACK = ("-c", "/src/constraints-jetpack.txt")
"""What fits JetPack's numpy 1 and OpenCV 4."""
TOWN = """\
name = "arm64"
bundle = "shipped:vehicle"
allow_unsigned = true
stop_at_end = true

[[sink]]
kind = "zmq"
bind = "ipc://{folder}/decisions"

[[source]]
kind = "world"
bind = "ipc://{folder}/inputs"
duration_s = {seconds}
score = "{folder}/score.json"

[stream.text]
stamp = "required"
"""
REPLAY = ("replay", "/town.mcap", "--allow-unsigned", "--check")
VERSIONS = (
    "import cv2, numpy, onnxruntime, platform; print('Python', platform.python_version(), platform.machine(), "
    "'numpy', numpy.__version__, 'OpenCV', cv2.__version__, 'ONNX Runtime', onnxruntime.__version__)"
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.arm64", description=__doc__.splitlines()[0])
    parser.add_argument("--suite", choices=RELEASES, default="bookworm")
    suite = parser.parse_args().suite
    if reason := why_not():
        print(f"no arm64 here: {reason}")
        return 2
    root = FOLDER / suite
    told = [f"{suite} for arm64 ({RELEASES[suite].like}), emulated on {platform.machine()}:"]
    done = _tell(told, "system made", lambda: make(root, suite))
    if done:
        system = System(root)
        steps: dict[str, Callable[[], object]] = {
            "package installed": lambda: _install(system),
            "town recorded here": lambda: _record(root / "town.mcap"),
            "replay --check there": lambda: system.run("/venv/bin/edge-runtime", *REPLAY),
            "tests there": lambda: _test(system),
            "versions": lambda: system.run("/venv/bin/python", "-c", VERSIONS),
        }
        outcomes = [_tell(told, name, step) for name, step in steps.items()]
        done = all(outcomes)
    print("\n  ".join(told))
    return 0 if done else 1


def _tell(told: list[str], name: str, step: Callable[[], object]) -> bool:
    """Take a step, add what became of it to `told`; whether it went well."""
    print(f"== {name}", flush=True)
    start = time.monotonic()
    try:
        step()
    except subprocess.CalledProcessError as error:
        told.append(f"{name}: FAILED with exit code {error.returncode}")
        return False
    told.append(f"{name}: {time.monotonic() - start:.0f} s")
    return True


def _install(system: System) -> None:
    """What git knows of this tree, and what the tests need."""
    source = system.root / "src"
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir()
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
    pack = ["tar", "--create", "--null", "--files-from=-", "--file=-"]
    packed = subprocess.run(pack, cwd=ROOT, input=names, check=True, stdout=subprocess.PIPE).stdout
    subprocess.run(["tar", "--extract", "--no-same-owner"], cwd=source, input=packed, check=True)
    if not (system.root / "venv").exists():
        system.run("/usr/bin/python3", "-m", "venv", "/venv")
    system.run("/venv/bin/python", "-m", "pip", "install", "--quiet", "/src", *JETPACK, *NEEDED)


def _record(target: Path) -> None:
    """The built-in town, recorded on this machine."""
    target.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as name:
        config = Path(name) / "town.toml"
        config.write_text(TOWN.format(folder=name, seconds=SECONDS))
        line = [sys.executable, "-m", "edge_runtime", "record", str(config), "--out", str(target)]
        subprocess.run(line, cwd=ROOT, check=True)


def _test(system: System) -> None:
    chosen = [f"tests/test_{name}.py" for name in MODULES]
    line = ["/venv/bin/python", "-m", "pytest", "-p", "no:cacheprovider", "tests/heads", *chosen]
    # Emulated, everything takes about fifteen times as long.
    system.run(*line, "--timeout", "3600", TESTS_EXAMPLES="10", TESTS_WAIT_S="900")


if __name__ == "__main__":
    sys.exit(main())
