"""What `doctor` says of machines that are not here: a folder stands for each."""

from __future__ import annotations

import pwd
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.cli.doctor import _bindings, _config, doctor, findings
from edge_runtime.cli.host import Finding, Host
from edge_runtime.cli.jetson import jetson_findings, pipeline
from edge_runtime.config import CameraSource, convert_strict, load_config
from edge_runtime.publish.sink import published
from edge_runtime.publish.zmq_publisher import ZmqPublisher
from edge_runtime.streams import CameraStream
from tests.publish.test_sinks import status
from tests.test_runtime import driving

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CAMERAS = {"camera.front": CameraStream(96, 64, rate_hz=15, max_age_ms=300)}
WITH_GSTREAMER = "  Video I/O:\n    v4l/v4l2:                    YES\n    GStreamer:                   YES (1.20.3)\n"
WITHOUT_GSTREAMER = "  Video I/O:\n    FFMPEG:                      YES\n    GStreamer:                   NO\n"


@dataclass(frozen=True)
class Board:
    """A machine in a folder."""

    root: Path
    host: Host

    def write(self, path: str, text: str = "", mode: int = 0o660) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)
        return file

    def look(self, **changes: Any) -> list[Finding]:
        return list(jetson_findings(replace(self.host, **changes), CAMERAS))

    def find(self, check: str, **changes: Any) -> Finding:
        (found,) = [finding for finding in self.look(**changes) if finding.check == check]
        return found


def make_board(root: Path, python: tuple[int, int]) -> Board:
    host = Host(
        root=root,
        python=python,
        module_file=lambda name: root / f"usr/lib/python3/dist-packages/{name}/__init__.py",
        opencv_build=lambda: WITH_GSTREAMER,
        may_use=lambda path: bool(path.stat().st_mode & stat.S_IRGRP),  # as a member of the group
    )
    return Board(root, host)


def orin(root: Path) -> Board:
    """An Orin Nano on JetPack 6."""
    board = make_board(root, (3, 10))
    release = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 01:49:37"
    board.write("etc/nv_tegra_release", release)
    board.write("proc/device-tree/model", "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0")
    modes = "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=1 NAME=25W >\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n"
    board.write("etc/nvpmodel.conf", modes)
    board.write("var/lib/nvpmodel/status", "pmode:0001")
    for name in ("dev/nvmap", "dev/nvhost-gpu", "dev/nvhost-ctrl", "dev/nvgpu/igpu0/ctrl", "dev/dri/renderD128"):
        board.write(name)
    board.write("sys/class/thermal/cooling_device0/type", "cpu-throttle-alert")
    board.write("sys/class/thermal/cooling_device0/cur_state", "0")
    board.write("sys/class/thermal/cooling_device1/type", "pwm-fan")
    board.write("sys/class/thermal/cooling_device1/cur_state", "3")
    board.write("sys/class/hwmon/hwmon1/oc1_event_cnt", "0")
    board.write("tmp/argus_socket")
    return board


def thor(root: Path) -> Board:
    """A Thor on JetPack 7."""
    board = make_board(root, (3, 12))
    board.write("etc/nv_tegra_release", "# R38 (release), REVISION: 2.1, GCID: 42061081, BOARD: generic, EABI: aarch64")
    board.write("proc/device-tree/model", "NVIDIA Jetson AGX Thor Developer Kit\0")
    board.write("etc/nvpmodel.conf", "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=1 NAME=120W >\n")
    board.write("var/lib/nvpmodel/status", "pmode:0000")
    for name in ("dev/nvidia0", "dev/nvidiactl", "dev/nvmap"):
        board.write(name)
    board.write("tmp/argus_socket")
    return board


@pytest.fixture(params=[orin, thor])
def board(request: pytest.FixtureRequest, tmp_path: Path) -> Board:
    made: Board = request.param(tmp_path)
    return made


def test_a_machine_that_is_no_jetson_gets_one_line(tmp_path: Path) -> None:
    assert list(jetson_findings(Host(root=tmp_path), CAMERAS)) == [Finding("jetson", "ok", "not a Jetson")]


def test_a_board_in_order_has_nothing_to_mend(board: Board) -> None:
    assert {finding.verdict for finding in board.look()} == {"ok"}


def test_board_release_and_power_mode_are_named(tmp_path: Path) -> None:
    small, large = orin(tmp_path / "orin"), thor(tmp_path / "thor")
    assert small.find("jetson").detail == (
        "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super, JetPack 6 (Jetson Linux 36.4.3)"
    )
    assert large.find("jetson").detail == "NVIDIA Jetson AGX Thor Developer Kit, JetPack 7 (Jetson Linux 38.2.1)"
    assert small.find("power mode").detail == "25W (1)"
    assert "`sudo nvpmodel -m 2`" in small.find("power mode").advice
    assert large.find("power mode") == Finding("power mode", "ok", "MAXN (0)")


@pytest.mark.parametrize(
    ("release", "verdict"),
    [
        ("# R35 (release), REVISION: 4.1, GCID: 1", "bad"),
        ("# R99 (release), REVISION: 1.0, GCID: 1", "warn"),
        ("something else", "warn"),
    ],
)
def test_a_release_that_is_not_known_is_said(board: Board, release: str, verdict: str) -> None:
    board.write("etc/nv_tegra_release", release)
    found = board.find("jetson")
    assert found.verdict == verdict
    assert found.advice


def test_another_python_than_the_system_s_cannot_load_tensorrt(board: Board) -> None:
    found = board.find("python", python=(3, 11))
    assert found.verdict == "bad"
    assert "this is 3.11" in found.detail and "--system-site-packages" in found.advice


def test_tensorrt_that_this_environment_does_not_see(board: Board) -> None:
    (board.root / "usr/lib/python3.10/dist-packages/tensorrt").mkdir(parents=True)
    found = board.find("tensorrt", module_file=lambda _: None)
    assert (found.verdict, "--system-site-packages" in found.advice) == ("bad", True)


def test_tensorrt_that_is_not_installed(board: Board) -> None:
    found = board.find("tensorrt", module_file=lambda _: None)
    assert (found.verdict, found.advice) == ("bad", "sudo apt install python3-libnvinfer")


def test_pip_s_opencv_in_front_of_the_system_s(board: Board) -> None:
    board.write("usr/lib/python3/dist-packages/cv2.cpython-310-aarch64-linux-gnu.so")
    found = board.find("gstreamer", opencv_build=lambda: WITHOUT_GSTREAMER)
    assert (found.verdict, "pip uninstall" in found.advice) == ("warn", True)


def test_an_opencv_without_gstreamer_and_no_other(board: Board) -> None:
    found = board.find("gstreamer", opencv_build=lambda: WITHOUT_GSTREAMER)
    assert (found.verdict, "apt install python3-opencv" in found.advice) == ("warn", True)

    def missing() -> str:
        raise ImportError

    assert board.find("gstreamer", opencv_build=missing).verdict == "bad"


def test_devices_without_permission_are_named_with_the_groups(board: Board) -> None:
    board.write("dev/nvmap", mode=0o600)
    found = board.find("gpu devices")
    assert (found.verdict, found.detail) == ("bad", "no permission for /dev/nvmap")
    assert "video,render" in found.advice


def test_no_gpu_device_at_all(tmp_path: Path) -> None:
    board = thor(tmp_path)
    for path in board.root.glob("dev/*"):
        path.unlink()
    assert board.find("gpu devices").verdict == "bad"


@pytest.mark.parametrize(
    ("path", "text", "told"),
    [
        ("sys/class/thermal/cooling_device0/cur_state", "2", "by heat (cpu-throttle-alert)"),
        ("sys/class/hwmon/hwmon1/oc1_event_cnt", "7", "by current, 7 times since the board started"),
    ],
)
def test_throttling_is_told_with_its_cause(tmp_path: Path, path: str, text: str, told: str) -> None:
    board = orin(tmp_path)
    board.write(path, text)
    found = board.find("throttling")
    assert (found.verdict, found.detail) == ("warn", told)


def test_a_camera_service_that_is_down_is_said(board: Board) -> None:
    (board.root / "tmp/argus_socket").unlink()
    assert any("nvargus-daemon" in finding.advice for finding in board.look())


def test_the_camera_lines_are_a_legal_source_in_the_model_s_size(board: Board) -> None:
    (paste,) = [finding.paste for finding in board.look() if finding.paste]
    (source,) = tomllib.loads(paste)["source"]
    settings = convert_strict({key: value for key, value in source.items() if key != "kind"}, CameraSource, "test")
    assert settings.gstreamer and settings.stream == "camera.front"
    assert "format=BGRx,width=96,height=64 " in str(settings.device)
    assert "sensor-id=0" in str(settings.device) and "drop=true" in str(settings.device)


@given(width=st.integers(16, 4000), height=st.integers(16, 4000), rate=st.floats(1, 120))
def test_any_camera_gets_a_pipeline_of_its_size(width: int, height: int, rate: float) -> None:
    text = pipeline(CameraStream(width, height, rate_hz=rate, max_age_ms=300), 1)
    assert f"width={width},height={height} " in text
    assert text.count("!") == 6


def checks(root: Path, name: str, **changes: Any) -> list[Finding]:
    host = replace(make_board(root, (3, 10)).host, **changes)
    return [finding for finding in findings(None, host) if finding.check == name]


def test_cameras_are_looked_for_below_the_root(tmp_path: Path) -> None:
    assert checks(tmp_path, "cameras")[0].detail == "no /dev/video*"
    board = make_board(tmp_path, (3, 10))
    board.write("dev/video0")
    board.write("dev/video1", mode=0o600)
    assert checks(tmp_path, "/dev/video0")[0].verdict == "ok"
    assert checks(tmp_path, "/dev/video1")[0].verdict == "bad"


@pytest.fixture
def run_doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")

    def run(text: str | None = None) -> tuple[int, str]:
        arguments = []
        if text is not None:
            arguments = [str(tmp_path / "c.toml")]
            Path(arguments[0]).write_text(text)
        result = CliRunner().invoke(doctor, arguments, standalone_mode=False)
        assert result.exception is None, result.output
        return result.return_value or 0, result.output

    return run


def test_what_engines_may_run_on_is_told(run_doctor: Callable[..., tuple[int, str]]) -> None:
    _, output = run_doctor()
    assert "onnx runtime" in output
    for check in ("tensorrt", "cuda", "engine cache"):
        assert f"  {check} " in output


def test_a_user_without_home_or_passwd_entry_is_told_of_the_disk(
    run_doctor: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody(uid: int) -> pwd.struct_passwd:
        raise KeyError(uid)

    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    with pytest.raises(RuntimeError):
        Path.home()
    _, told = run_doctor()
    assert "free disk" in told


def test_an_engine_cache_that_others_may_write_is_bad(
    run_doctor: Callable[..., tuple[int, str]], tmp_path: Path, tiny_bundle_path: Path
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    config = (
        f'name = "x"\nbundle = "{tiny_bundle_path}"\nallow_unsigned = true\nsource = []\n'
        f'[[sink]]\nkind = "zmq"\nbind = "ipc://{tmp_path}/out"\n[engine]\ncache = "{shared}"\n'
    )
    code, output = run_doctor(config)
    assert code == 2
    assert "others may write there" in output


def test_tensorrt_asked_for_where_there_is_none_is_bad(
    run_doctor: Callable[..., tuple[int, str]], tmp_path: Path, tiny_bundle_path: Path
) -> None:
    import ctypes

    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        config = (
            f'name = "x"\nbundle = "{tiny_bundle_path}"\nallow_unsigned = true\nsource = []\n'
            f'[[sink]]\nkind = "zmq"\nbind = "ipc://{tmp_path}/out"\n[engine]\nbackend = "tensorrt"\n'
        )
        code, output = run_doctor(config)
        assert code == 2
        assert "the NVIDIA driver (libcuda.so.1) is not installed" in output
    else:
        pytest.skip("this machine has an NVIDIA driver")


def bindings(root: Path, installed: dict[str, str], served: int | None, release: str = "") -> Finding | None:
    """What is said of NVIDIA's bindings where these packages and this driver are, on a board of that release."""
    board = make_board(root, (3, 10))
    if release:
        board.write("etc/nv_tegra_release", release)
    host = replace(board.host, package_version=installed.get, served_cuda=lambda: served)
    found = list(_bindings(host))
    assert len(found) <= 1
    return found[0] if found else None


@pytest.mark.parametrize(
    ("served", "release", "extra"),
    [
        (12060, "", "cuda12"),
        (12090, "", "cuda12"),
        (13000, "", "cuda13"),
        (13020, "# R36 (release), REVISION: 4.3", "cuda13"),  # the driver knows best
        (None, "# R36 (release), REVISION: 4.3", "cuda12"),  # a container that does not see the driver
        (None, "# R38 (release), REVISION: 2.1", "cuda13"),
        (None, "# R39 (release), REVISION: 0.0", "cuda13"),
    ],
)
def test_the_extra_for_this_driver_is_named(tmp_path: Path, served: int | None, release: str, extra: str) -> None:
    found = bindings(tmp_path, {}, served, release)
    assert found is not None
    assert (found.verdict, found.advice) == ("warn", f"pip install 'edge-runtime[{extra}]'")
    assert found.detail.startswith("not installed; the driver serves CUDA 1")


def test_bindings_newer_than_the_driver_are_bad_and_older_ones_are_fine(tmp_path: Path) -> None:
    newer = bindings(tmp_path, {"cuda-bindings": "13.4.4"}, 12060)
    assert newer == Finding(
        "cuda-bindings",
        "bad",
        "13.4.4 is made for a newer driver than this one, which serves CUDA 12.6",
        "pip install 'edge-runtime[cuda12]'",
    )
    for version, served in (("12.9.10", 12060), ("12.9.10", 13000), ("13.4.4", 13000)):
        found = bindings(tmp_path, {"cuda-bindings": version}, served)
        assert found is not None and (found.verdict, found.advice) == ("ok", "")


def test_where_pycuda_is_the_bindings_are_a_choice(tmp_path: Path) -> None:
    found = bindings(tmp_path, {"pycuda": "2024.1"}, 12060)
    assert found is not None
    assert (found.verdict, "PyCUDA 2024.1 is there" in found.detail) == ("ok", True)


def test_without_a_driver_no_bindings_are_missed(tmp_path: Path) -> None:
    assert bindings(tmp_path, {}, None) is None
    assert bindings(tmp_path, {}, None, "# R99 (release), REVISION: 1.0") is None


def without(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`edge-runtime ARGUMENTS` in a Python that lacks `module`."""
    script = f"import sys; sys.modules[{module!r}] = None\nfrom edge_runtime.cli import main\nmain()"
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_a_machine_without_opencv_is_told_so_and_the_rest_is_checked() -> None:
    result = without("cv2", "doctor")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert "not installed: what needs it could not be checked" in " ".join(result.stdout.split())
    assert "onnx runtime" in result.stdout


def test_any_other_command_without_a_package_says_which_in_one_line(tmp_path: Path, tiny_bundle_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text(f'name = "x"\nbundle = "{tiny_bundle_path}"\nallow_unsigned = true\nsource = []\n')
    result = without("cv2", "run", str(config))
    assert result.returncode == 2
    assert result.stderr == "error: cv2 is not installed for this Python; `edge-runtime doctor` says how\n"


def test_lines_to_paste_are_not_wrapped(
    run_doctor: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = f'device = "{pipeline(CAMERAS["camera.front"])}"'
    module = sys.modules[doctor.callback.__module__]  # the package has the command under the module's name
    monkeypatch.setattr(module, "findings", lambda _: iter([Finding("a", "ok", "b", paste=line)]))
    monkeypatch.setenv("COLUMNS", "40")
    assert line in run_doctor()[1].splitlines()


SERVICE = """
name = "{name}"
bundle = "{bundle}"
allow_unsigned = true
[[sink]]
kind = "zmq"
bind = "ipc://{folder}/out"
[[source]]
kind = "zmq"
bind = "ipc://{folder}/in"
"""


def _findings(config: Path) -> dict[str, Finding]:
    return {finding.check: finding for finding in _config(config)}


def test_a_service_that_runs_is_told_and_left_alone(tmp_path: Path, tiny_bundle_path: Path) -> None:
    config = tmp_path / "svc.toml"
    config.write_text(SERVICE.format(name="svc", bundle=tiny_bundle_path, folder=tmp_path))
    with driving(load_config(config)) as (_, vehicle):
        vehicle.answer(240, "f1")
        found = _findings(config)
        assert found["service"].verdict in ("ok", "warn")
        assert found["service"].detail.startswith(f"svc runs at ipc://{tmp_path}/out: ")
        assert found["config"].verdict == "ok" and "not tried" in found["config"].detail
        other = tmp_path / "other.toml"
        other.write_text(SERVICE.format(name="other", bundle=tiny_bundle_path, folder=tmp_path))
        assert _findings(other)["service"].verdict == "bad"
        assert vehicle.answer(240, "f2").source == "model", "its sockets are still its own"
        assert vehicle.subscriber.restarts == 0
    alone = _findings(config)
    assert "service" not in alone and alone["config"].verdict == "ok"


def test_a_service_that_is_ready_is_ok(tmp_path: Path, tiny_bundle_path: Path) -> None:
    config = tmp_path / "svc.toml"
    config.write_text(SERVICE.format(name="svc", bundle=tiny_bundle_path, folder=tmp_path))
    publisher = ZmqPublisher(f"ipc://{tmp_path}/out", 1)
    publisher.publish(published(status(0, "svc")))
    assert _findings(config)["service"].verdict == "ok"
    publisher.publish(published(msgspec.structs.replace(status(1, "svc"), state="degraded", reason="camera is silent")))
    degraded = _findings(config)["service"]
    assert degraded.verdict == "warn" and degraded.detail.endswith("camera is silent")
    publisher.close()
