from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.bundle import Bundle
from edge_runtime.config import (
    INSECURE_PHRASE,
    CameraSource,
    RecordConfig,
    RecordingSource,
    ZmqSink,
    ZmqSource,
    check_endpoint,
    load_config,
)
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


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "none.toml")


def test_a_public_address_needs_the_words() -> None:
    check_endpoint("tcp://0.0.0.0:1", INSECURE_PHRASE)
    check_endpoint("ipc:///run/x")
    check_endpoint("tcp://[::1]:5")
    with pytest.raises(ConfigError):
        check_endpoint("tcp://0.0.0.0:1", "yes")
    with pytest.raises(ConfigError):
        check_endpoint("tcp://example.org:1")
