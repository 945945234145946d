from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated, get_args

import msgspec
import pytest

from edge_runtime import endpoints
from edge_runtime.bundle import Bundle
from edge_runtime.config import (
    CameraSource,
    Config,
    EngineConfig,
    ImagesSource,
    MqttSink,
    ProcessSource,
    PublishConfig,
    RealtimeConfig,
    RecordConfig,
    RecordingSink,
    RecordingSource,
    SinkConfig,
    SourceConfig,
    StdinSource,
    StreamConfig,
    WorldSource,
    ZmqSink,
    ZmqSource,
    convert_strict,
    load_config,
)
from edge_runtime.endpoints import INSECURE_PHRASE
from edge_runtime.errors import ConfigError
from edge_runtime.pipeline import Pipeline

GOOD = """
name = "hub"
bundle = "shipped:home"
allow_unsigned = true
[[source]]
kind = "zmq"
[[source]]
kind = "camera"
stream = "camera.front"
device = 0
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "edge.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_good_file_is_read_with_its_defaults(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, GOOD))
    assert config.sinks == (ZmqSink("tcp://127.0.0.1:5560"),)
    assert config.source == (ZmqSource("tcp://127.0.0.1:5561"), CameraSource("camera.front", 0))


def test_relative_paths_start_at_the_file(tmp_path: Path) -> None:
    text = (
        'name = "a"\nbundle = "b"\ntrusted_keys = ["k.pem"]\n[[source]]\nkind = "video"\nstream = "c"\npath = "v.mp4"\n'
    )
    config = load_config(write(tmp_path, text))
    assert (config.bundle, config.trusted_keys) == (str(tmp_path / "b"), (str(tmp_path / "k.pem"),))
    assert config.source[0].path == str(tmp_path / "v.mp4")  # type: ignore[union-attr]


def test_where_to_record_is_relative_to_the_file_too(tmp_path: Path) -> None:
    text = GOOD + '[[source]]\nkind = "recording"\npath = "old.mcap"\n[record]\npath = "new.mcap"\n'
    config = load_config(write(tmp_path, text))
    assert config.source[2] == RecordingSource(str(tmp_path / "old.mcap"))
    assert config.record == RecordConfig(str(tmp_path / "new.mcap"))


BAD = {
    "unknown key": (GOOD.replace("name =", "nmae ="), "unknown key 'nmae'; valid keys are allow_unsigned, bundle"),
    "unknown key of a source": (GOOD + "fsp = 3\n", r"source: item 2: unknown key 'fsp'; valid keys are device, fps"),
    "unknown kind": (GOOD.replace('"zmq"', '"telepathy"'), "kind is 'telepathy'; there are"),
    "missing": ('bundle = "b"\nsource = []\n', "missing required field name"),
    "wrong type": (GOOD.replace("allow_unsigned = true", "allow_unsigned = 3"), "allow_unsigned"),
    "out of range": (GOOD + "[engine]\nthreads = 0\n", "threads"),
    "name": (GOOD.replace('"hub"', '"Hub!"'), "name"),
    "record": (
        GOOD + '[record]\nfile = "x"\n',
        r"record: unknown key 'file'; valid keys are jpeg_quality, max_gb, path",
    ),
    "record limit": (GOOD + '[record]\npath = "x"\nmax_gb = 0\n', "max_gb"),
    "not toml": ("name = ", "is not TOML"),
    "open to the network": (GOOD + '[publish]\nbind = "tcp://0.0.0.0:5560"\n', "open to the network"),
    "mqtt beyond this host": (
        GOOD + '[[sink]]\nkind = "mqtt"\nhost = "broker.lan"\n',
        "mqtt://broker.lan:1883 is beyond this host, and is reached without encryption; give tls = true with user and",
    ),
    "mqtt without a user": (
        GOOD + '[[sink]]\nkind = "mqtt"\nhost = "broker.lan"\ntls = true\n',
        "mqtts://broker.lan:8883 is beyond this host, and is reached without saying who comes; give user and password",
    ),
    "mqtt address": (GOOD + '[[sink]]\nkind = "mqtt"\nhost = "tcp://x"\n', "host is 'tcp://x'; expected a name"),
    "mqtt topic": (GOOD + '[[sink]]\nkind = "mqtt"\ntopic = "a/#"\n', "topic 'a/#' holds a wildcard"),
    "mqtt password": (GOOD + '[[sink]]\nkind = "mqtt"\npassword_file = "p"\n', "password_file is given without user"),
    "endpoint": (GOOD + '[publish]\nbind = "5560"\n', "expected tcp://ADDRESS:PORT"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_mistake_is_named_in_one_line(tmp_path: Path, what: str) -> None:
    text, message = BAD[what]
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(write(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_limits_hold_on_a_thread_that_ran_an_engine(tmp_path: Path, tiny_bundle: Bundle) -> None:
    """ONNX Runtime switches denormal numbers off there, and with them comparisons against the smallest one."""
    path = write(tmp_path, GOOD + '[record]\npath = "x"\nmax_gb = 0\n')
    pipeline = Pipeline(tiny_bundle)
    try:
        pipeline.decide(0, 0, blocking=False)
        with pytest.raises(ConfigError, match="max_gb"):
            load_config(path)
    finally:
        pipeline.close()


def test_a_broker_beyond_this_host_is_reached_encrypted_and_named_or_if_said_in_words(tmp_path: Path) -> None:
    secure = 'tls = true\nuser = "hub"\npassword_file = "secret"\n'
    row = '[[sink]]\nkind = "mqtt"\nhost = "broker.lan"\n'
    sink = load_config(write(tmp_path, GOOD + row + secure)).sinks[-1]
    assert isinstance(sink, MqttSink)
    assert (sink.at.port, sink.password_file) == (8883, str(tmp_path / "secret")), "read when it connects, not before"
    insecure = load_config(write(tmp_path, f'insecure_public_bind = "{INSECURE_PHRASE}"\n' + GOOD + row)).sinks[-1]
    assert isinstance(insecure, MqttSink) and insecure.at.port == 1883


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "none.toml")


def test_a_public_address_needs_the_words(tmp_path: Path) -> None:
    endpoints.check("tcp://0.0.0.0:1", insecure=True)
    endpoints.check("ipc:///run/x")
    endpoints.check("tcp://[::1]:5")
    with pytest.raises(ConfigError):
        endpoints.check("tcp://0.0.0.0:1")
    assert "is open to the network" in refused(
        tmp_path, 'insecure_public_bind="yes"', "[[source]]", 'kind="zmq"', 'bind="tcp://0.0.0.0:5560"'
    )
    with pytest.raises(ConfigError):
        endpoints.check("tcp://example.org:1")


def loaded(tmp_path: Path, *lines: str) -> Config:
    return load_config(write(tmp_path, "\n".join(('name = "hub"', 'bundle = "b"', *lines))))


def refused(tmp_path: Path, *lines: str) -> str:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, *lines)
    return str(caught.value)


DEFAULTS: dict[str, tuple[str, dict[str, object]]] = {
    "zmq": ("", {"bind": "tcp://127.0.0.1:5561", "rate_limit": 8.0}),
    "camera": (
        'stream="c"\ndevice=0',
        {"width": None, "height": None, "fps": None, "gstreamer": False, "mjpeg": False},
    ),
    "video": ('stream="c"\npath="/v"', {"speed": 1.0, "loop": False}),
    "images": ('stream="c"\npath="/v"', {"rate_hz": 10.0, "loop": False}),
    "file": ('stream="c"\npath="/v"', {"time": "t_s", "columns": {}, "text": "text", "speed": 1.0}),
    "stdin": ("", {"stream": "text"}),
    "wav": ('stream="c"\npath="/v"', {"speed": 1.0, "loop": False, "chunk_ms": 100}),
    "process": ('command=["a"]', {"name": "", "restart": True, "environment": {}}),
    "world": ("", {"seed": 1, "duration_s": 75.0, "unplug": (), "unplug_at_s": 20.0, "score": None}),
    "recording": ('path="/v"', {"speed": 1.0, "loop": False}),
    "rosbag": ('path="/v"\n[[source.topic]]\ntopic="t"\nstream="s"', {"speed": 1.0, "loop": False}),
    "mqtt": (
        '[[source.topic]]\ntopic="t"\nstream="s"',
        {"host": "127.0.0.1", "port": None, "tls": False, "ca": "", "user": "", "password_file": "", "rate_limit": 8.0},
    ),
    "can": ('stream="c"\npath="/v"\nsignals={a="A.B"}', {"bus": "can0", "interface": "socketcan"}),
    "gpsd": (
        'stream="c"\nchannels={a="lat"}',
        {"host": "127.0.0.1", "port": 2947, "device": "", "fix": 2, "origin": None},
    ),
    "sysfs": ('stream="c"\nfiles={a="thermal:x"}', {"rate_hz": 1.0, "scale": {}}),
    "voice": (
        'stream="c"\npack="/p"',
        {"grammar": "", "device": "", "path": "", "speed": 1.0, "loop": False, "recogniser": "moonshine"}
        | {"host": "127.0.0.1", "port": 10300, "language": "", "min_snr_db": 3.0, "max_score": 1.35, "min_margin": 1.0}
        | {"wake_word": "", "longest_s": 8.0},
    ),
    "wyoming": ('stream="c"', {"bind": "tcp://127.0.0.1:10500"}),
    "detections": ('stream="c"', {"decisions": "", "name": "", "head": "", "zones": {}}),
}


@pytest.mark.parametrize("kind", DEFAULTS)
def test_a_source_s_settings_are_as_documented_where_nobody_sets_them(tmp_path: Path, kind: str) -> None:
    text, expected = DEFAULTS[kind]
    (row,) = loaded(tmp_path, "[[source]]", f'kind="{kind}"', text).source
    assert {name: getattr(row, name) for name in expected} == expected


def test_every_kind_of_source_has_its_defaults_checked() -> None:
    assert set(DEFAULTS) == {kind.__struct_config__.tag for kind in get_args(SourceConfig)}


def test_what_a_broker_is_told_unless_said_is_as_documented() -> None:
    row = MqttSink()
    assert (row.topic, row.discovery, row.max_rate_hz, row.spool) == ("edge-runtime", "homeassistant", 1.0, 1)
    assert (row.expire_after_s, row.count, row.at.port) == (60, (), 1883)
    assert MqttSink(tls=True).at.port == MqttSink(ca="x").at.port == 8883
    assert MqttSink(tls=True, port=1).at.port == 1


def test_the_file_s_own_settings_are_as_documented_where_nobody_sets_them(tmp_path: Path) -> None:
    config = loaded(tmp_path, "source=[]")
    assert (config.source, config.sink, config.publish, config.record) == ((), (), None, None)
    assert (config.trusted_keys, config.allow_unsigned, config.stop_at_end) == ((), False, False)
    engine = config.engine
    assert (engine.backend, engine.fallback, engine.cuda, engine.cache, engine.threads) == (
        "auto",
        None,
        "auto",
        None,
        1,
    )
    assert config.sinks == (ZmqSink("tcp://127.0.0.1:5560", 256),)
    assert loaded(tmp_path, "source=[]", "[publish]").sinks == (ZmqSink("tcp://127.0.0.1:5560", 256),)
    recording = RecordingSink(str(tmp_path / "r.mcap"), None, None)
    assert loaded(tmp_path, "source=[]", "[record]", 'path="r.mcap"').sinks == (ZmqSink(), recording)


def test_sinks_are_those_written_and_a_publisher_in_any_case(tmp_path: Path) -> None:
    rows = ("[[sink]]", 'kind="recording"', 'path="a.mcap"', "[[sink]]", 'kind="zmq"', 'bind="ipc:///run/x"')
    recording, socket = RecordingSink(str(tmp_path / "a.mcap")), ZmqSink("ipc:///run/x")
    assert loaded(tmp_path, "source=[]", *rows[:3]).sinks == (ZmqSink(), recording)
    assert loaded(tmp_path, "source=[]", *rows).sinks == (recording, socket)
    earlier = ("[publish]", "high_water_mark=7", "[record]", 'path="b.mcap"', "max_gb=2.0", "jpeg_quality=90")
    both = loaded(tmp_path, "source=[]", *rows[:3], *earlier).sinks
    assert both == (recording, ZmqSink(high_water_mark=7), RecordingSink(str(tmp_path / "b.mcap"), 2.0, 90))


def test_whether_the_cpu_steps_in_follows_from_the_back_end_unless_it_is_said() -> None:
    assert [EngineConfig(backend).falls_back for backend in ("auto", "onnxruntime", "tensorrt")] == [True, False, False]
    assert EngineConfig("tensorrt", fallback=True).falls_back is True
    assert EngineConfig("auto", fallback=False).falls_back is False


def test_the_earlier_tables_are_named_as_such_and_nothing_else_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loaded(tmp_path, "source=[]", "[[sink]]", 'kind="zmq"')
    assert not caplog.records
    loaded(tmp_path, "source=[]", "[record]", 'path="r"')
    assert [record.getMessage() for record in caplog.records] == [
        f'config {tmp_path / "edge.toml"}: [record] is deprecated; write [[sink]] with kind = "recording"'
    ]


def test_the_world_is_short_for_a_socket_and_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    config = Config("hub", "b", (StdinSource(), WorldSource("ipc:///run/w")))
    first, socket, process = config.sources
    drive = (sys.executable, "-m", "edge_runtime.world", "drive", "--inputs", "{inputs}", "--decisions", "{decisions}")
    assert (first, socket) == (StdinSource(), ZmqSource("ipc:///run/w"))
    plain = ("--seed", "1", "--duration", "75.0", "--unplug-at", "20.0")
    assert process == ProcessSource((*drive, *plain), "world", restart=False, environment={})
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    told = WorldSource(seed=7, duration_s=9.0, unplug=("camera", "text"), unplug_at_s=3.0, score="/s.json").rows[1]
    assert told.environment == {"PYTHONPATH": "/somewhere"}
    unplug = ("--unplug", "camera", "--unplug", "text", "--unplug-at", "3.0")
    assert told.command == (*drive, "--seed", "7", "--duration", "9.0", *unplug, "--score", "/s.json")


def test_every_path_starts_at_the_file_but_for_what_is_absolute_or_shipped(tmp_path: Path) -> None:
    config = loaded(
        tmp_path,
        'trusted_keys=["a.pem", "/b.pem"]',
        "[[source]]",
        'kind="world"',
        'score="s.json"',
        "[[source]]",
        'kind="images"\nstream="c"\npath="/pictures"',
        "[[sink]]",
        'kind="recording"\npath="r.mcap"',
        "[engine]",
        'cache="engines"',
        "[record]",
        'path="q.mcap"',
    )
    assert config.trusted_keys == (str(tmp_path / "a.pem"), "/b.pem")
    assert config.source == (WorldSource(score=str(tmp_path / "s.json")), ImagesSource("c", "/pictures"))
    assert config.sink == (RecordingSink(str(tmp_path / "r.mcap")),)
    assert (config.engine.cache, config.bundle) == (str(tmp_path / "engines"), str(tmp_path / "b"))
    assert config.record == RecordConfig(str(tmp_path / "q.mcap"))
    assert load_config(write(tmp_path, 'name="a"\nbundle="shipped:home"\nsource=[]')).bundle == "shipped:home"


def test_every_socket_is_checked_wherever_it_is_written(tmp_path: Path) -> None:
    public = 'bind="tcp://0.0.0.0:5560"'
    for rows in (
        ("[[source]]", 'kind="zmq"', public),
        ("[[source]]", 'kind="world"', public),
        ("source=[]", "[[sink]]", 'kind="zmq"', public),
        ("source=[]", "[publish]", public),
    ):
        assert "is open to the network" in refused(tmp_path, *rows)
        loaded(tmp_path, f"insecure_public_bind={INSECURE_PHRASE!r}", *rows)


@pytest.mark.parametrize(
    ("endpoint", "allowed"),
    [
        ("tcp://127.0.0.1:5560", True),
        ("tcp://127.1.2.3:*", True),
        ("tcp://localhost:1", True),
        ("tcp://[::1]:1", True),
        ("ipc://x", True),
        ("ipc://", False),
        ("inproc://x", False),
        ("udp://127.0.0.1:5", False),
        ("tcp://127.0.0.1", False),
        ("tcp://[::]:1", False),
        ("tcp://*:1", False),
        ("tcp://12.7.0.1:1", False),
    ],
)
def test_an_endpoint_is_this_host_s_or_refused(endpoint: str, allowed: bool) -> None:
    if allowed:
        endpoints.check(endpoint)
        return
    with pytest.raises(ConfigError, match=f"endpoint '{re.escape(endpoint)}'"):
        endpoints.check(endpoint)


def test_a_file_is_read_up_to_one_mebibyte_and_with_a_byte_order_mark(tmp_path: Path) -> None:
    text = 'name="a"\nbundle="b"\nsource=[]\n#'
    path = write(tmp_path, "\ufeff" + text)
    assert load_config(path).name == "a"
    path.write_bytes((text + "x" * (1024 * 1024 - len(text))).encode())
    assert load_config(path).name == "a"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(ConfigError, match="cannot be read .more than 1048576 bytes"):
        load_config(path)
    path.write_bytes(b'name="\xff"')
    with pytest.raises(ConfigError, match="is not TOML"):
        load_config(path)
    path.write_text("a = " + "[" * 5000 + "]" * 5000)
    with pytest.raises(ConfigError, match="is nested too deeply"):
        load_config(path)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (("source=3",), "source"),
        (("source=[3]",), "source: item 1: kind is None; there are zmq, camera, video"),
        (("[[source]]", 'bind="x"'), "source: item 1: kind is None; there are"),
        (
            ("[[source]]", 'kind="stdin"', "[[source]]", 'kind="radio"'),
            "source: item 2: kind is 'radio'; there are zmq,",
        ),
        (("source=[]", "[[sink]]", 'kind="stdin"'), "sink: item 1: kind is 'stdin'; there are zmq, unix, recording"),
        (("source=[]", "[engine]", "thread=1"), "engine: unknown key 'thread'; valid keys are backend, cache, cuda,"),
        (("source=[]", "[engine]", "threads=65"), "threads"),
        (("source=[]", "[publish]", "high=1"), "publish: unknown key 'high'; valid keys are bind, high_water_mark"),
        (("[[source]]", 'kind="process"', "command=[]"), "command"),
        (("[[source]]", 'kind="wav"', 'stream="a"', 'path="b"', "chunk_ms=9"), "chunk_ms"),
    ],
)
def test_what_is_wrong_is_named_by_its_place(tmp_path: Path, lines: tuple[str, ...], expected: str) -> None:
    assert expected in refused(tmp_path, *lines)


def test_every_table_is_strict_by_itself() -> None:
    """Not only where a file is read: whoever converts one of them is told of a key that it lacks."""
    tables = [
        *get_args(SourceConfig),
        *get_args(SinkConfig),
        PublishConfig,
        RecordConfig,
        EngineConfig,
        RealtimeConfig,
        StreamConfig,
        Config,
    ]
    for table in tables:
        assert table.__struct_config__.forbid_unknown_fields, table


class Inner(msgspec.Struct, forbid_unknown_fields=True, tag_field="kind", tag="inner"):
    a: int = 1


class Other(msgspec.Struct, forbid_unknown_fields=True, tag_field="kind", tag="other"):
    b: int = 1


class Plain(msgspec.Struct, forbid_unknown_fields=True):
    c: int = 1


class Outer(msgspec.Struct, forbid_unknown_fields=True):
    one: Inner | Other | None = None
    maybe: Plain | None = None
    several: Annotated[tuple[Plain, ...], msgspec.Meta(max_length=3)] = ()
    mixed: list[Inner | Other] = []
    free: dict[str, int] = {}
    named: int = msgspec.field(default=0, name="called")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"one": {"kind": "inner", "b": 1}}, "x: one: unknown key 'b'; valid keys are a"),
        ({"one": {"kind": "third"}}, "x: one: kind is 'third'; there are inner, other"),
        ({"maybe": {"d": 1}}, "x: maybe: unknown key 'd'; valid keys are c"),
        ({"several": [{"c": 1}, {"d": 1}]}, "x: several: item 2: unknown key 'd'; valid keys are c"),
        ({"mixed": [{"kind": "other", "a": 1}]}, "x: mixed: item 1: unknown key 'a'; valid keys are b"),
        ({"named": 1}, "x: unknown key 'named'; valid keys are called, free, maybe, mixed, one, several"),
        ({"free": {"a": "b"}}, "x: Expected `int`, got `str` - at `$.free[...]`".replace("`", "").replace("$.", "")),
    ],
)
def test_an_unknown_key_is_named_with_those_that_are_valid_there(data: dict[str, object], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        convert_strict(data, Outer, "x")
    assert str(caught.value) == expected


def test_what_is_right_is_converted() -> None:
    data = {"one": {"kind": "other", "b": 3}, "maybe": None, "several": [{"c": 2}], "free": {"k": 1}, "called": 4}
    assert convert_strict(data, Outer, "x") == Outer(Other(3), None, (Plain(2),), [], {"k": 1}, 4)


def test_what_nobody_asks_of_the_kernel_is_as_documented() -> None:
    plain = RealtimeConfig()
    asked = (plain.policy, plain.priority, plain.cores, plain.lock_memory, plain.busy_poll_ms)
    assert asked == ("other", 5, (), False, 0.0)


def test_a_file_is_read_by_its_class_too(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    assert Config.load(str(path)) == load_config(path)


def test_metrics_are_a_sink_at_a_tcp_address_where_their_library_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_runtime.extras.find_spec", lambda name: object())
    config = loaded(tmp_path, "source=[]", "[metrics]", 'bind="tcp://127.0.0.1:9999"')
    assert config.sinks == (ZmqSink(), config.metrics) and config.metrics is not None
    assert config.metrics.bind == "tcp://127.0.0.1:9999"
    assert "metrics: bind is 'ipc:///run/x'; expected tcp://" in refused(
        tmp_path, "source=[]", "[metrics]", 'bind="ipc:///run/x"'
    )
    monkeypatch.setattr("edge_runtime.extras.find_spec", lambda name: None)
    assert "metrics needs prometheus-client; pip install" in refused(tmp_path, "source=[]", "[metrics]")
    loaded(tmp_path, "source=[]")


def test_a_kind_of_an_installed_package_is_read_by_its_own_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    (site / "sonar-1.dist-info").mkdir(parents=True)
    (site / "sonar-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: sonar\nVersion: 1\n")
    (site / "sonar-1.dist-info" / "entry_points.txt").write_text("[edge_runtime.sources]\nsonar = sonar_kind:Sonar\n")
    (site / "sonar_kind.py").write_text(
        "import msgspec\nclass Sonar:\n    class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):\n"
        "        stream: str\n        depth_m: float = 3.0\n"
        "        def check(self, insecure, where):\n"
        "            if self.depth_m > 11_000:\n"
        "                from edge_runtime.errors import ConfigError\n"
        "                raise ConfigError(f'{where}: depth_m is {self.depth_m:g}; no sea is as deep')\n"
    )
    monkeypatch.syspath_prepend(str(site))
    rows = ("[[source]]", 'kind="sonar"', 'stream="hull"', "depth_m=4.0", "[[source]]", 'kind="stdin"')
    config = loaded(tmp_path, *rows)
    sonar, stdin = config.source
    assert (sonar.stream, sonar.depth_m, stdin) == ("hull", 4.0, StdinSource())  # type: ignore[union-attr]
    assert "source: item 1: unknown key 'deep'; valid keys are depth_m, stream" in refused(
        tmp_path, "[[source]]", 'kind="sonar"', 'stream="hull"', "deep=1"
    )
    assert ": sonar: depth_m is 12000; no sea" in refused(
        tmp_path, "[[source]]", 'kind="sonar"', 'stream="hull"', "depth_m=12000.0"
    )
    assert "there are zmq, camera" in (said := refused(tmp_path, "[[source]]", 'kind="radar"')) and "sonar" in said
    assert "sonar" not in refused(tmp_path, "source=[]", "[[sink]]", 'kind="sonar"').partition("there are")[2]


def test_how_far_clocks_may_be_apart_is_in_nanoseconds_where_it_is_said() -> None:
    assert ZmqSource().agreement_ns is None
    assert [ZmqSource(clock_agreement_ms=value).agreement_ns for value in (0.0, 2.5)] == [0, 2_500_000]
