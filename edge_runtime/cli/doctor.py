"""`edge-runtime doctor`: what is wrong with this box, and how to mend it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import click

EXIT_TROUBLE = 2
PACKAGES = (
    "numpy",
    "opencv-python-headless",
    "onnx",
    "onnxruntime",
    "sentencepiece",
    "pyzmq",
    "msgspec",
    "cryptography",
)
OPENCV_NAMES = ("opencv-python-headless", "opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless")
MIN_FREE_BYTES = 1 << 30
HOT_C = 85.0


@dataclass(frozen=True)
class Finding:
    """One check's answer; `advice` says how to mend it."""

    check: str
    verdict: Literal["ok", "warn", "bad"]
    detail: str
    advice: str = ""


@click.command()
@click.argument("config_file", metavar="[CONFIG]", required=False, type=click.Path(path_type=Path))
def doctor(config_file: Path | None) -> int:
    """Check this machine, and CONFIG if given. Exit code 2 if something must be mended."""
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None)
    bad = False
    for finding in findings(config_file):
        colour = {"ok": "green", "warn": "yellow", "bad": "red"}[finding.verdict]
        text = finding.detail + (f"; {finding.advice}" if finding.advice else "")
        table.add_row(f"[{colour}]{finding.verdict}[/]", finding.check, text)
        bad |= finding.verdict == "bad"
    Console().print(table)
    return EXIT_TROUBLE if bad else 0


def findings(config_file: Path | None) -> Iterator[Finding]:
    """All checks, in the order in which a person would mend things."""
    checks: list[Callable[[], Iterator[Finding]]] = [
        _python,
        _packages,
        _accelerators,
        _cpu,
        _memory_and_disk,
        _temperature,
        _cameras,
        _shipped_bundles,
    ]
    for check in checks:
        yield from check()
    if config_file is not None:
        yield from _config(config_file)


def _python() -> Iterator[Finding]:
    version = platform.python_version()
    if (3, 10) <= sys.version_info[:2] <= (3, 12):
        yield Finding("python", "ok", f"{version} on {platform.machine()}")
    else:
        yield Finding("python", "bad", version, "3.10 to 3.12 are supported: make a new environment with one of these")


def _packages() -> Iterator[Finding]:
    for package in PACKAGES:
        names = OPENCV_NAMES if package.startswith("opencv") else (package,)
        found = [name for name in names if _version(name) is not None]
        if not found and package.startswith("opencv"):
            yield _system_opencv()
        elif not found:
            yield Finding(package, "bad", "not installed", f"pip install {package}")
        else:
            yield Finding(package, "ok", f"{_version(found[0])}")
        if len(found) > 1:
            advice = "they overwrite each other: keep one"
            yield Finding(package, "warn", f"several OpenCV wheels are installed ({', '.join(found)})", advice)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _system_opencv() -> Finding:
    """JetPack's own OpenCV has no Python package metadata, but GStreamer."""
    try:
        import cv2
    except ImportError:
        return Finding("opencv", "bad", "not installed", "pip install opencv-python-headless")
    return Finding("opencv", "ok", f"{cv2.__version__} of the system")


def _accelerators() -> Iterator[Finding]:
    import onnxruntime

    providers = ", ".join(name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers())
    yield Finding("onnx runtime", "ok", f"providers {providers}; the runtime uses CPU")
    jetson = Path("/etc/nv_tegra_release")
    if jetson.is_file():
        yield Finding("jetson", "ok", jetson.read_text(errors="replace").splitlines()[0])
        mode = shutil.which("nvpmodel")
        if mode:
            yield Finding(
                "power", "ok", "nvpmodel is there", "`sudo nvpmodel -m 0 && sudo jetson_clocks` for full speed"
            )


def _cpu() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0))
    advice = "" if cores >= 2 else "capture and inference will wait for each other: give the service two cores"
    yield Finding("cores", "ok" if cores >= 2 else "warn", str(cores), advice)
    governors = {
        file.read_text().strip() for file in Path("/sys/devices/system/cpu").glob("cpu*/cpufreq/scaling_governor")
    }
    if governors and governors != {"performance"}:
        advice = "clocks ramp up late after each frame: `cpupower frequency-set -g performance`"
        yield Finding("cpu governor", "warn", ", ".join(sorted(governors)), advice)


def _memory_and_disk() -> Iterator[Finding]:
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    verdict: Literal["ok", "warn"] = "ok" if available > 512 << 20 else "warn"
    yield Finding("free memory", verdict, f"{available >> 20} MiB", "" if verdict == "ok" else "stop other programs")
    free = shutil.disk_usage(Path.home() if Path.home().exists() else "/").free
    verdict = "ok" if free > MIN_FREE_BYTES else "warn"
    yield Finding(
        "free disk", verdict, f"{free >> 20} MiB", "" if verdict == "ok" else "make room before installing bundles"
    )


def _temperature() -> Iterator[Finding]:
    from edge_runtime.health import Thermometer

    hottest = Thermometer().read()
    if hottest is not None:
        hot = hottest > HOT_C
        advice = "the board is about to throttle: check fan and housing" if hot else ""
        yield Finding("temperature", "warn" if hot else "ok", f"{hottest:.0f} C", advice)


def _cameras() -> Iterator[Finding]:
    devices = sorted(Path("/dev").glob("video*"))
    if not devices:
        yield Finding("cameras", "ok", "no /dev/video*", "frames may also come from a URL, a file or ZeroMQ")
    for device in devices:
        readable = os.access(device, os.R_OK | os.W_OK)
        advice = "" if readable else f"add the service's user to the group of {device} (usually `video`)"
        yield Finding(str(device), "ok" if readable else "bad", "readable" if readable else "no permission", advice)


def _shipped_bundles() -> Iterator[Finding]:
    from edge_runtime.bundle import open_bundle
    from edge_runtime.bundles import PREFIX, bundle_path, shipped
    from edge_runtime.errors import UserError
    from edge_runtime.pipeline import Pipeline

    for name in shipped():
        try:
            start = time.perf_counter()
            Pipeline(open_bundle(bundle_path(PREFIX + name), allow_unsigned=True)).close()
        except UserError as error:
            yield Finding(PREFIX + name, "bad", str(error), "install the package again")
        else:
            yield Finding(PREFIX + name, "ok", f"whole; opens and warms up in {time.perf_counter() - start:.2f} s")


def _config(config_file: Path) -> Iterator[Finding]:
    from edge_runtime.assembly import Assembly
    from edge_runtime.capture import open_sources
    from edge_runtime.clock import RealClock
    from edge_runtime.config import load_config
    from edge_runtime.errors import UserError
    from edge_runtime.publish.zmq_publisher import ZmqPublisher

    try:
        config = load_config(config_file)
        assembly = Assembly(config, RealClock(), lambda: None)
        publisher = ZmqPublisher(config.publish.bind, 1)
        try:
            for source in open_sources(config.source, assembly.pipeline.streams, assembly.intake, publisher.endpoint):
                source.stop()
        finally:
            publisher.close()
            assembly.pipeline.close()
    except UserError as error:
        yield Finding("config", "bad", str(error))
        return
    bundle = assembly.bundle
    signed = f"signed by {bundle.signed_by}" if bundle.signed_by else "not signed"
    yield Finding("config", "ok", f"{config_file}: bundle {bundle.manifest.name} {bundle.manifest.version}, {signed}")
    fed = {item.stream for item in config.source if hasattr(item, "stream")}
    if any(not hasattr(item, "stream") for item in config.source):
        return  # a socket or the world may feed any stream
    for name, spec in bundle.manifest.streams.items():
        if spec.required and name not in fed:
            yield Finding("config", "bad", f"required stream {name!r} has no source", "add a [[source]] for it")
