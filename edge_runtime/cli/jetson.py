"""`doctor` on a Jetson: what JetPack brings, whether this interpreter sees it, and how the board is set.

Everything is read from files; nothing is set, no daemon is asked, and no board is known by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from edge_runtime.cli.host import Finding, Host
from edge_runtime.specs import CameraStream

RELEASE = "etc/nv_tegra_release"
JETPACKS = {36: ("JetPack 6", (3, 10), 12060), 38: ("JetPack 7", (3, 12), 13000), 39: ("JetPack 7", (3, 12), 13000)}
"""By the major number of Jetson Linux: name, the Python its `tensorrt` is built for, the CUDA its driver serves."""
_LINUX = re.compile(r"R(\d+) \(release\), REVISION: ([\d.]+)")
DIST_PACKAGES = ("usr/lib/python3*/dist-packages/", "usr/local/lib/python3*/dist-packages/")
GPU_DEVICES = ("dev/nvmap", "dev/nvhost-*", "dev/nvgpu/*/*", "dev/nvidia[0-9]*", "dev/nvidiactl", "dev/dri/renderD*")
SENSOR_MODE = (1280, 720)
"""Of a CSI camera; every sensor that NVIDIA supports has it. The image processor scales it to the model's size."""


def jetson_findings(host: Host, cameras: Mapping[str, CameraStream]) -> Iterator[Finding]:
    """All checks; one line on a machine that is no Jetson. `cameras`: the bundle's, by stream."""
    release = host.text(RELEASE)
    if not release:
        yield Finding("jetson", "ok", "not a Jetson")
        return
    yield from _release(host, release)
    yield from _tensorrt(host)
    yield from _opencv(host)
    yield from _power(host)
    yield from _throttling(host)
    yield from _permissions(host)
    yield from _csi(host, cameras)


def is_jetson(host: Host) -> bool:
    return bool(host.text(RELEASE))


def jetpack_cuda(host: Host) -> int | None:
    """The CUDA version of the board's JetPack (12060: 12.6), which is that of its driver; None on anything else."""
    match = _LINUX.search(host.text(RELEASE))
    jetpack = JETPACKS.get(int(match[1])) if match else None
    return jetpack[2] if jetpack else None


def _release(host: Host, release: str) -> Iterator[Finding]:
    board = host.text("proc/device-tree/model") or "board unknown"
    match = _LINUX.search(release)
    if match is None:
        yield Finding("jetson", "warn", f"{board}, /{RELEASE} is not understood", "expected JetPack 6 or 7")
        return
    major, linux = int(match[1]), f"Jetson Linux {match[1]}.{match[2]}"
    if major not in JETPACKS:
        older = major < min(JETPACKS)
        advice = "install JetPack 6 or 7" if older else "newer than this runtime knows; report what does not work"
        yield Finding("jetson", "bad" if older else "warn", f"{board}, {linux}", advice)
        return
    name, python, _cuda = JETPACKS[major]
    yield Finding("jetson", "ok", f"{board}, {name} ({linux})")
    if host.python != python:
        own, expected = (".".join(map(str, version)) for version in (host.python, python))
        advice = "make the environment anew: /usr/bin/python3 -m venv --system-site-packages DIR"
        yield Finding("python", "bad", f"this is {own}, {name}'s TensorRT is built for {expected}", advice)


def _tensorrt(host: Host) -> Iterator[Finding]:
    if (file := host.module_file("tensorrt")) is not None:
        yield Finding("tensorrt", "ok", f"visible to this Python ({file.parent})")
    elif host.files(*(folder + "tensorrt" for folder in DIST_PACKAGES)):
        advice = "make the environment anew: /usr/bin/python3 -m venv --system-site-packages DIR"
        yield Finding("tensorrt", "bad", "JetPack's TensorRT is installed, but this Python does not see it", advice)
    else:
        yield Finding("tensorrt", "bad", "not installed", "sudo apt install python3-libnvinfer")


def _opencv(host: Host) -> Iterator[Finding]:
    try:
        build = host.opencv_build()
    except ImportError:
        yield Finding("gstreamer", "bad", "no OpenCV", "sudo apt install python3-opencv")
        return
    if re.search(r"GStreamer:\s+YES", build):
        yield Finding("gstreamer", "ok", "OpenCV has it: CSI cameras work")
    elif host.files(*(folder + "cv2*" for folder in DIST_PACKAGES)):
        advice = "pip uninstall opencv-python-headless opencv-python (pip's has no GStreamer)"
        yield Finding("gstreamer", "warn", "an OpenCV from pip hides the system's: CSI cameras do not work", advice)
    else:
        advice = "sudo apt install python3-opencv, and pip uninstall the other; USB cameras and URLs work without"
        yield Finding("gstreamer", "warn", "this OpenCV has none: CSI cameras do not work", advice)


def _power(host: Host) -> Iterator[Finding]:
    current = re.search(r"pmode:0*(\d+)", host.text("var/lib/nvpmodel/status"))
    models = dict(re.findall(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", host.text("etc/nvpmodel.conf")))
    if current is None:
        yield Finding("power mode", "warn", "unknown", "see `sudo nvpmodel -q`")
        return
    mode = current[1]
    fastest = [number for number, name in models.items() if name.startswith("MAXN")]
    advice = ""
    if fastest and mode not in fastest:
        advice = f"`sudo nvpmodel -m {fastest[-1]}` is the fastest, if power supply and cooling allow it"
    yield Finding("power mode", "ok", f"{models.get(mode, 'mode')} ({mode})", advice)


def _throttling(host: Host) -> Iterator[Finding]:
    active = []
    for device in host.files("sys/class/thermal/cooling_device*"):
        folder = str(device.relative_to(host.root))
        kind, state = host.text(f"{folder}/type"), host.text(f"{folder}/cur_state")
        if ("throttle" in kind or "alert" in kind) and state.isdigit() and int(state) > 0:
            active.append(kind)
    events = [
        host.text(str(file.relative_to(host.root))) for file in host.files("sys/class/hwmon/hwmon*/oc*_event_cnt")
    ]
    overcurrent = sum(int(count) for count in events if count.isdigit())
    if active:
        advice = "clocks are held down now: improve cooling, or choose a lower power mode"
        yield Finding("throttling", "warn", f"by heat ({', '.join(sorted(set(active)))})", advice)
    if overcurrent:
        advice = "use a stronger power supply, or choose a lower power mode"
        yield Finding("throttling", "warn", f"by current, {overcurrent} times since the board started", advice)
    if not active and not overcurrent:
        yield Finding("throttling", "ok", "none")


def _permissions(host: Host) -> Iterator[Finding]:
    devices = host.files(*GPU_DEVICES)
    if not devices:
        advice = "the GPU's driver is not loaded, or this is a container without --runtime nvidia"
        yield Finding("gpu devices", "bad", "none in /dev", advice)
        return
    closed = [path for path in devices if not host.may_use(path)]
    if closed:
        names = ", ".join(f"/{path.relative_to(host.root)}" for path in closed[:4])
        advice = "sudo usermod -aG video,render USER, and log in again (a service: SupplementaryGroups=video render)"
        yield Finding("gpu devices", "bad", f"no permission for {names}", advice)
    else:
        yield Finding("gpu devices", "ok", f"{len(devices)} in /dev, all permitted")


def _csi(host: Host, cameras: Mapping[str, CameraStream]) -> Iterator[Finding]:
    if not cameras:
        return
    for number, (stream, camera) in enumerate(cameras.items()):
        source = f'[[source]]\nkind = "camera"\nstream = "{stream}"\ngstreamer = true\n'
        paste = f'{source}device = "{pipeline(camera, number)}"'
        yield Finding("csi camera", "ok", f"{stream}: the lines below bring sensor {number} to it", paste=paste)
    if not host.files("tmp/argus_socket"):
        advice = "only CSI cameras need it: sudo systemctl start nvargus-daemon"
        yield Finding("csi camera", "ok", "the camera service is not running", advice)


def pipeline(camera: CameraStream, sensor: int = 0) -> str:
    """A GStreamer pipeline that brings CSI camera number `sensor` in the model's size, newest frame only."""
    width, height = SENSOR_MODE
    rate = 30 if camera.rate_hz <= 30 else 60
    return (
        f"nvarguscamerasrc sensor-id={sensor} ! "
        f"video/x-raw(memory:NVMM),width={width},height={height},framerate={rate}/1 ! nvvidconv ! "
        f"video/x-raw,format=BGRx,width={camera.width},height={camera.height} ! videoconvert ! "
        "video/x-raw,format=BGR ! appsink drop=true max-buffers=1 sync=false"
    )
