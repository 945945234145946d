"""`edge-runtime doctor`: what is wrong with this box, and how to mend it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from edge_runtime.cli.host import Finding, Host
from edge_runtime.cli.jetson import is_jetson, jetpack_cuda, jetson_findings

if TYPE_CHECKING:
    from edge_runtime.config import Config, EngineConfig
    from edge_runtime.cuda import CudaChoice
    from edge_runtime.streams import CameraStream

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
STATUS_S = 3.0
"""A runtime tells how it does once a second, and at once to who comes."""


@click.command()
@click.argument("config_file", metavar="[CONFIG]", required=False, type=click.Path(path_type=Path))
def doctor(config_file: Path | None) -> int:
    """Check this machine, and CONFIG if given. Exit code 2 if something must be mended."""
    return report(config_file)


def report(config_file: Path | None) -> int:
    """Print what was found; the exit code."""
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None)
    bad, pastes = False, []
    for finding in findings(config_file):
        colour = {"ok": "green", "warn": "yellow", "bad": "red"}[finding.verdict]
        text = finding.detail + (f"; {finding.advice}" if finding.advice else "")
        table.add_row(f"[{colour}]{finding.verdict}[/]", finding.check, text)
        bad |= finding.verdict == "bad"
        pastes += [finding.paste] if finding.paste else []
    console = Console()
    console.print(table)
    for paste in pastes:
        # Not wrapped, so that it can be copied from a narrow terminal too.
        console.print(f"\n{paste}", markup=False, highlight=False, soft_wrap=True)
    return EXIT_TROUBLE if bad else 0


def findings(config_file: Path | None, host: Host | None = None) -> Iterator[Finding]:
    """All checks, in the order in which a person would mend things."""
    host = host or Host()
    checks: list[Callable[[], Iterator[Finding]]] = [
        _python,
        partial(_packages, host),
        _cpu,
        _memory_and_disk,
        _temperature,
        partial(_cameras, host),
        partial(_jetson, host, config_file),
        partial(_accelerators, host, config_file),
        _shipped_bundles,
    ]
    if config_file is not None:
        checks.append(partial(_config, config_file))
    for check in checks:
        try:
            yield from check()
        except ModuleNotFoundError as error:  # the machines that need a doctor most lack a package
            yield Finding(str(error.name), "bad", "not installed: what needs it could not be checked")


def _python() -> Iterator[Finding]:
    version = platform.python_version()
    if (3, 10) <= sys.version_info[:2] <= (3, 12):
        yield Finding("python", "ok", f"{version} on {platform.machine()}")
    else:
        yield Finding("python", "bad", version, "3.10 to 3.12 are supported: make a new environment with one of these")


def _packages(host: Host) -> Iterator[Finding]:
    for package in PACKAGES:
        names = OPENCV_NAMES if package.startswith("opencv") else (package,)
        installed = [name for name in names if host.package_version(name) is not None]
        if not installed and package.startswith("opencv"):
            yield _system_opencv(host)
        elif not installed:
            yield Finding(package, "bad", "not installed", f"pip install {package}")
        else:
            yield Finding(package, "ok", f"{host.package_version(installed[0])}")
        if len(installed) > 1:
            advice = "they overwrite each other: keep one"
            yield Finding(package, "warn", f"several OpenCV wheels are installed ({', '.join(installed)})", advice)


def _system_opencv(host: Host) -> Finding:
    """JetPack's own OpenCV has no Python package metadata, but GStreamer."""
    try:
        import cv2
    except ImportError:
        jetson = is_jetson(host)
        advice = "sudo apt install python3-opencv" if jetson else "pip install opencv-python-headless"
        return Finding("opencv", "bad", "not installed", advice)
    return Finding("opencv", "ok", f"{cv2.__version__} of the system")


def _jetson(host: Host, config_file: Path | None) -> Iterator[Finding]:
    yield from jetson_findings(host, _camera_streams(config_file))


def _camera_streams(config_file: Path | None) -> Mapping[str, CameraStream]:
    """The cameras of the configuration's bundle, or of one that is shipped."""
    from edge_runtime.bundle import open_bundle
    from edge_runtime.bundles import PREFIX, bundle_path, shipped
    from edge_runtime.config import load_config
    from edge_runtime.errors import UserError
    from edge_runtime.streams import CameraStream, streams_of

    try:
        name = PREFIX + shipped()[0] if config_file is None else load_config(config_file).bundle
        streams = open_bundle(bundle_path(name), allow_unsigned=True).manifest.streams
    except UserError:
        return {}  # told by the check of the configuration
    return streams_of(streams, CameraStream)


def _accelerators(host: Host, config_file: Path | None) -> Iterator[Finding]:
    """What engines may run on, and why not on the rest."""
    import onnxruntime

    from edge_runtime.config import EngineConfig, load_config
    from edge_runtime.errors import UserError

    yield Finding("onnx runtime", "ok", f"{onnxruntime.__version__}, on the CPU")
    try:
        settings = EngineConfig() if config_file is None else load_config(config_file).engine
    except UserError:
        settings = EngineConfig()
    yield from _tensorrt(settings)
    yield from _bindings(host)
    yield from _cuda(host)
    yield from _engine_cache(settings)


def _tensorrt(settings: EngineConfig) -> Iterator[Finding]:
    from edge_runtime.errors import UserError
    from edge_runtime.infer.tensorrt.library import load_library

    try:
        yield Finding("tensorrt", "ok", str(load_library()))
    except UserError as error:
        required = settings.backend == "tensorrt"
        advice = "JetPack brings it on a Jetson; on a PC with an NVIDIA GPU: pip install tensorrt-rtx-cu13"
        yield Finding("tensorrt", "bad" if required else "ok", str(error), advice if required else "")


def _bindings(host: Host) -> Iterator[Finding]:
    """NVIDIA's bindings, and whether they are those for this driver; on a machine that has one."""
    from edge_runtime.cuda.driver import how_to_install, readable

    served = host.served_cuda() or jetpack_cuda(host)
    if served is None:
        return
    installed, advice = host.package_version("cuda-bindings"), how_to_install(served)
    if installed is None:
        other = host.package_version("pycuda")
        missing = f"not installed; the driver serves CUDA {readable(served)}"
        detail = f"{missing}; PyCUDA {other} is there, which has no CUDA graphs" if other else missing
        yield Finding("cuda-bindings", "ok" if other else "warn", detail, advice)
    elif int(installed.split(".")[0]) > served // 1000:
        detail = f"{installed} is made for a newer driver than this one, which serves CUDA {readable(served)}"
        yield Finding("cuda-bindings", "bad", detail, advice)
    else:
        yield Finding("cuda-bindings", "ok", f"{installed}, the driver serves CUDA {readable(served)}")


def _cuda(host: Host) -> Iterator[Finding]:
    from edge_runtime.cuda import open_cuda
    from edge_runtime.cuda.driver import readable
    from edge_runtime.errors import EngineError, UserError

    if host.served_cuda() is None:
        yield Finding("cuda", "ok", "no NVIDIA driver (libcuda.so.1): engines run on the CPU")
        return
    backends: tuple[CudaChoice, ...] = ("cuda-python", "pycuda")
    reasons = []
    for backend in backends:
        try:
            with open_cuda(backend) as device:
                info, free = device.info(), device.free_bytes()
        except (UserError, EngineError) as error:
            reasons.append(str(error))
            continue
        memory = (
            f"{free >> 20} of {info.total_bytes >> 20} MiB free{', shared with the CPU' if info.integrated else ''}"
        )
        driver = f"driver for CUDA {readable(info.driver)}"
        yield Finding("cuda", "ok", f"{backend}: {info.name}, compute {info.compute}, {memory}, {driver}")
    for reason in reasons:
        yield Finding("cuda", "ok" if len(reasons) < len(backends) else "warn", reason)


def _engine_cache(settings: EngineConfig) -> Iterator[Finding]:
    from edge_runtime.errors import UserError
    from edge_runtime.infer.tensorrt.cache import EngineCache, default_folder

    try:
        folder = Path(settings.cache) if settings.cache else default_folder()
        if not folder.is_dir():
            yield Finding("engine cache", "ok", f"{folder} is made when the first engine is built")
            return
        engines = list(EngineCache(folder).folder.glob("*.engine"))
    except UserError as error:
        yield Finding("engine cache", "bad", str(error))
        return
    size = sum(engine.stat().st_size for engine in engines)
    yield Finding("engine cache", "ok", f"{folder}: {len(engines)} engines, {size / 1e6:.0f} MB")


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


def _home() -> Path:
    """The user's folder, where there is one: containers run users that have none."""
    try:
        home = Path.home()
    except RuntimeError:
        return Path("/")
    return home if home.exists() else Path("/")


def _memory_and_disk() -> Iterator[Finding]:
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    verdict: Literal["ok", "warn"] = "ok" if available > 512 << 20 else "warn"
    yield Finding("free memory", verdict, f"{available >> 20} MiB", "" if verdict == "ok" else "stop other programs")
    free = shutil.disk_usage(_home()).free
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


def _cameras(host: Host) -> Iterator[Finding]:
    devices = host.files("dev/video*")
    if not devices:
        yield Finding("cameras", "ok", "no /dev/video*", "frames may also come from a URL, a file or ZeroMQ")
    for device in devices:
        usable = host.may_use(device)
        name = f"/{device.relative_to(host.root)}"
        advice = "" if usable else f"add the service's user to the group of {name} (usually `video`)"
        yield Finding(name, "ok" if usable else "bad", "readable" if usable else "no permission", advice)


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
    """The configuration, opened whole; beside a service that runs it, without what that holds."""
    from edge_runtime import sockets
    from edge_runtime.clock import RealClock
    from edge_runtime.config import ZmqSink, load_config
    from edge_runtime.errors import EngineError, UserError
    from edge_runtime.publish import SINKS
    from edge_runtime.session import Books, Session

    try:
        config = load_config(config_file)
        row = next(item for item in config.sinks if isinstance(item, ZmqSink))
        running = sockets.answers(row.bind)
        if running:
            yield _running(row.bind, config.name)
            # Sockets and devices are that one's: they are left alone.
            session = Session(config, RealClock(), lambda: None, Books(), open_sources=lambda *_: [])
            session.abandon()
        else:
            publisher = SINKS[ZmqSink].make(row, RealClock())
            try:
                session = Session(config, RealClock(), lambda: None, Books(), decisions=row.bind)
                session.abandon()
            finally:
                publisher.close()
    except (UserError, EngineError) as error:
        yield Finding("config", "bad", str(error))
        return
    bundle = session.bundle
    signed = f"signed by {bundle.signed_by}" if bundle.signed_by else "not signed"
    backends = ", ".join(sorted(set(session.pipeline.backends.values())))
    detail = f"{config_file}: bundle {bundle.manifest.name} {bundle.manifest.version}, {signed}, on {backends}"
    if running:
        detail += "; its sources were not tried: they are the running service's"
    yield Finding("config", "ok", detail)
    yield from _brokers(config)
    fed = {item.stream for item in config.source if hasattr(item, "stream")}
    if any(not hasattr(item, "stream") for item in config.source):
        return  # a socket may feed any stream
    for name, spec in bundle.manifest.streams.items():
        if spec.required and name not in fed:
            yield Finding("config", "bad", f"required stream {name!r} has no source", "add a [[source]] for it")


def _brokers(config: Config) -> Iterator[Finding]:
    """Whether MQTT brokers let us in, each asked once."""
    from edge_runtime.broker import Broker, probe
    from edge_runtime.errors import UserError

    tried = set()
    for row in (*config.sinks, *config.sources):
        if not isinstance(row, Broker):
            continue
        connection = Broker(**{name: getattr(row, name) for name in Broker.__struct_fields__})
        if connection in tried:
            continue
        tried.add(connection)
        try:
            reason = probe(connection)
        except UserError as error:
            reason = str(error)
        yield Finding("mqtt", "ok" if reason is None else "bad", reason or f"{connection} lets us in")


def _running(endpoint: str, name: str) -> Finding:
    """What the service says that listens at `endpoint`."""
    from edge_runtime import Subscriber

    with Subscriber(endpoint, name) as subscriber:
        deadline = time.monotonic() + STATUS_S
        while subscriber.status is None and time.monotonic() < deadline:
            subscriber.receive(STATUS_S)
        status = subscriber.status
    if status is None or status.name != name:
        advice = "stop it, or choose another address"
        return Finding("service", "bad", f"{endpoint} is held by something that is no runtime called {name!r}", advice)
    bundle = f"bundle {status.bundle.name} {status.bundle.version}"
    detail = f"{name} runs at {endpoint}: {status.state}, {bundle}, {status.decisions} decisions"
    if status.state == "ready":
        return Finding("service", "ok", detail)
    return Finding("service", "warn", f"{detail}; {status.reason}")
