"""The configuration: one strict TOML file. An unknown key is an error that lists the valid ones."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta, Struct

from edge_runtime import endpoints, plugins
from edge_runtime.config.rules import SHIPPED
from edge_runtime.config.sinks import DashboardSink, MetricsSink, RecordingSink, SinkConfig, ZmqSink
from edge_runtime.config.sources import DetectionsSource, SourceConfig, WorldSource
from edge_runtime.config.strict import convert_strict
from edge_runtime.errors import ConfigError
from edge_runtime.plain_file import read_plain
from edge_runtime.specs import Name, Positive
from edge_runtime.zones import PICTURE, Zone, ZoneName

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

log = logging.getLogger("edge_runtime")

MAX_CONFIG_BYTES = 1 << 20
PATHS = ("path", "score", "keys", "ca", "certificate", "key", "password_file", "token_file", "pack", "grammar")
"""Settings of rows that name files; relative ones start at the configuration."""


class PublishConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The earlier way to write a sink of kind `zmq`; read for one more release."""

    bind: str = "tcp://127.0.0.1:5560"
    high_water_mark: Annotated[int, Meta(ge=1, le=100_000)] = 256
    """Messages kept for a slow subscriber before its own are dropped."""


class RecordConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The earlier way to write a sink of kind `recording`; read for one more release."""

    path: str
    """MCAP file. An earlier recording is never overwritten: `drive.mcap` becomes `drive-2.mcap`."""
    max_gb: Positive | None = None
    """Stop recording at this size."""
    jpeg_quality: Annotated[int, Meta(ge=50, le=100)] | None = None
    """Keep a camera's decoded pictures as JPEG of this quality: large ones at a high rate are too much for lossless
    PNG. A replay then need not decide the same. Pictures that come as JPEG are kept as they are, always.
    """


class EngineConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """How the stages run."""

    backend: Literal["auto", "onnxruntime", "tensorrt"] = "auto"
    """`auto`: TensorRT where its library and a GPU are, else ONNX Runtime on the CPU."""
    fallback: bool | None = None
    """Whether ONNX Runtime steps in where TensorRT is missing or fails; unless given, with `auto` only."""
    cuda: Literal["auto", "cuda-python", "pycuda"] = "auto"
    """How CUDA is reached."""
    cache: str | None = None
    """Where built engines are kept; unless given, the service's or the user's cache directory."""
    threads: Annotated[int, Meta(ge=1, le=64)] = 1
    """Of ONNX Runtime, for each engine."""

    @property
    def falls_back(self) -> bool:
        return self.backend == "auto" if self.fallback is None else self.fallback


class RealtimeConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """What is asked of the kernel, for the whole process; checked at the start."""

    policy: Literal["other", "rr", "fifo"] = "other"
    """`rr` and `fifo` run before all ordinary work on their cores, other services included."""
    priority: Annotated[int, Meta(ge=1, le=50)] = 5
    """Of `rr` and `fifo`. The kernel's own threads are at 50."""
    cores: tuple[Annotated[int, Meta(ge=0)], ...] = ()
    """Where to run; unless given, anywhere."""
    lock_memory: bool = False
    """Keep memory from being paged out."""
    busy_poll_ms: Annotated[float, Meta(ge=0, le=10)] = 0.0
    """How long before the next message is due the loop stays awake for it, at the cost of that share of a core."""


class StreamConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """What this installation demands of a stream."""

    stamp: Literal["required", "arrival"] = "arrival"
    """Of messages over ZeroMQ that do not say when they were captured: `arrival` counts them from their arrival here,
    and what waited at the sender is not known; `required` refuses them as `no_stamp`."""


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    name: Name
    """Topics are `decision.<name>` and `status.<name>`."""
    bundle: str
    """Directory or `.tar` (relative paths start at the configuration file), `shipped:NAME`, or `slot:FOLDER` with
    what `edge-runtime bundle install` put there."""
    source: tuple[SourceConfig, ...]
    sink: tuple[SinkConfig, ...] = ()
    publish: PublishConfig | None = None
    engine: EngineConfig = EngineConfig()
    record: RecordConfig | None = None
    realtime: RealtimeConfig | None = None
    metrics: MetricsSink | None = None
    """Short for the sink of this kind."""
    dashboard: DashboardSink | None = None
    """Short for the sink of this kind."""
    zones: dict[ZoneName, Zone] = {}
    """Parts of the cameras' pictures, by name: what a detection head sees is told with the zones that it stands in."""
    stream: dict[str, StreamConfig] = {}
    """By the bundle's name of the stream."""
    trusted_keys: tuple[str, ...] = ()
    """Public keys whose bundles may run: PEM files, or folders of `*.pub` and `*.pem` with perhaps a file `revoked` (a
    key id a line). Unless given, `/etc/edge-runtime/trust.d` where it exists."""
    allow_unsigned: bool = False
    stop_at_end: bool = False
    """End when every source has ended (files do, and processes that are not restarted; cameras do not). A socket gives
    only what others send: beside other sources, those count.
    """
    insecure_public_bind: str = ""
    """Binding beyond loopback and ipc is refused unless this holds the phrase in the error message."""

    @classmethod
    def load(cls, path: str | Path) -> Config:
        """Read and check the file at `path`; paths inside become absolute. Raises ConfigError."""
        return load_config(Path(path))

    @property
    def sources(self) -> tuple[SourceConfig, ...]:
        """All rows, with those in place of `world` that it is short for, and zones where rows draw none."""
        rows: list[SourceConfig] = []
        for row in self.source:
            if isinstance(row, WorldSource):
                rows += row.rows
            elif isinstance(row, DetectionsSource) and not row.zones:
                rows.append(msgspec.structs.replace(row, zones=self.zones))
            else:
                rows.append(row)
        return tuple(rows)

    @property
    def sinks(self) -> tuple[SinkConfig, ...]:
        """All rows, those included that were written the earlier way; the first of kind `zmq` is the publisher."""
        rows = list(self.sink)
        if self.publish is not None:
            rows.append(ZmqSink(self.publish.bind, self.publish.high_water_mark))
        if self.record is not None:
            rows.append(RecordingSink(self.record.path, self.record.max_gb, self.record.jpeg_quality))
        rows += [row for row in (self.metrics, self.dashboard) if row is not None]
        return tuple(rows) if any(isinstance(row, ZmqSink) for row in rows) else (ZmqSink(), *rows)


def load_config(path: Path, lies_at: Path | None = None) -> Config:
    """Read and check the file at `path`; paths inside become absolute, as if it lay at `lies_at` where that is given.
    Raises ConfigError."""
    try:
        data = tomllib.loads(read_plain(path, MAX_CONFIG_BYTES).decode("utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"config {path}: cannot be read ({error.strerror}); check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"config {path}: is not TOML ({error})") from None
    except RecursionError:
        raise ConfigError(f"config {path}: is nested too deeply; a configuration has three levels") from None
    where = f"config {path}"
    sources = _rows(data, "source", SourceConfig, plugins.SOURCES, where)
    sinks = _rows(data, "sink", SinkConfig, plugins.SINKS, where)
    config = msgspec.structs.replace(convert_strict(data, Config, where), source=sources, sink=sinks)
    for earlier, row in (("publish", 'kind = "zmq"'), ("record", 'kind = "recording"')):
        if earlier in data:
            log.warning("%s: [%s] is deprecated; write [[sink]] with %s", where, earlier, row)
    if PICTURE in config.zones:
        raise ConfigError(f"{where}: zones: {PICTURE!r} is the whole picture already; choose another name")
    for row in (*config.source, *config.sinks):
        _check_row(row, config.insecure_public_bind == endpoints.INSECURE_PHRASE, where)
    return _absolute(config, (lies_at or path).resolve().parent)


def _check_row(row: Any, insecure: bool, where: str) -> None:
    """What its settings ask for beyond their types: its own `check`, or else its `bind`. Raises ConfigError."""
    if callable(getattr(type(row), "check", None)):
        row.check(insecure, f"{where}: {_kind(row)}")
    elif hasattr(row, "bind"):
        endpoints.check(row.bind, insecure)


def _kind(row: Any) -> str:
    """As it is written; a package's settings do not say."""
    return str(row.__struct_config__.tag or plugins.kind_of(row))


def _rows(data: dict[str, Any], key: str, kinds: Any, group: str, where: str) -> tuple[Any, ...]:
    """The rows of the table `key`, each by its kind, the project's own or an installed package's; taken out of `data`.

    What is no list of tables stays, and is refused where the rest is. Raises ConfigError.
    """
    rows = data.get(key)
    if not isinstance(rows, list):
        return ()
    data[key] = []
    own = {choice.__struct_config__.tag: choice for choice in get_args(kinds)}
    converted = []
    for number, row in enumerate(rows, 1):
        place = f"{where}: {key}: item {number}"
        kind = row.get("kind") if isinstance(row, dict) else None
        others = [] if kind in own else plugins.kinds(group)
        if kind in own:
            converted.append(convert_strict(row, own[kind], place))
        elif kind in others:
            settings = {name: value for name, value in row.items() if name != "kind"}
            converted.append(convert_strict(settings, plugins.find(group, kind).Settings, place))
        else:
            raise ConfigError(f"{place}: kind is {kind!r}; there are {', '.join((*own, *others))}")
    return tuple(converted)


def _absolute(config: Config, base: Path) -> Config:
    def resolve(item: Any) -> Any:
        if item is None:
            return None
        named = {field: value for field in PATHS if (value := getattr(item, field, None))}
        changes = {field: str(base / value) for field, value in named.items() if not value.startswith(SHIPPED)}
        return msgspec.structs.replace(item, **changes) if changes else item

    engine = config.engine
    if engine.cache is not None:
        engine = msgspec.structs.replace(engine, cache=str(base / engine.cache))
    return msgspec.structs.replace(
        config,
        engine=engine,
        record=resolve(config.record),
        dashboard=resolve(config.dashboard),
        bundle=_named(config.bundle, base),
        trusted_keys=tuple(str(base / key) for key in config.trusted_keys),
        source=tuple(resolve(item) for item in config.source),
        sink=tuple(resolve(item) for item in config.sink),
    )


def _named(bundle: str, base: Path) -> str:
    if bundle.startswith(SHIPPED):
        return bundle
    slots = "slot:" if bundle.startswith("slot:") else ""
    return slots + str(base / bundle.removeprefix(slots))
