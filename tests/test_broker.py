"""Topics, filters and secrets of a broker; its connections are tested with the sink and the source that make them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.broker import Broker, encryption, matches, password, topic_problem
from edge_runtime.errors import ConfigError

LEVELS = st.lists(st.sampled_from(["a", "b", "", "+", "$SYS"]), min_size=1, max_size=4)


@given(pattern=LEVELS, more=st.booleans(), topic=LEVELS.filter(lambda levels: "+" not in levels))
def test_a_filter_matches_as_the_library_says(pattern: list[str], more: bool, topic: list[str]) -> None:
    client = pytest.importorskip("paho.mqtt.client", reason="paho-mqtt is not installed")
    text = "/".join([*pattern, "#"] if more else pattern)
    assert (matches(text, "/".join(topic)) is not None) == client.topic_matches_sub(text, "/".join(topic))


def test_what_the_wildcards_stand_for() -> None:
    assert matches("a/+/b", "a/x y/b") == ("x y",)
    assert matches("a/#", "a/b/c") == ("b/c",)
    assert matches("a/#", "a") == ("",)
    assert matches("a", "a") == ()


@pytest.mark.parametrize("topic", ["", "a/#/b", "a#", "a+/b", "a\0", "x" * 70_000])
def test_what_is_no_filter(topic: str) -> None:
    assert topic_problem(topic, wildcards=True) is not None


@pytest.mark.parametrize("topic", ["a", "/a", "a/+", "+/a/#", "#", "zigbee2mqtt/living room"])
def test_what_is_one(topic: str) -> None:
    assert topic_problem(topic, wildcards=True) is None
    assert (topic_problem(topic, wildcards=False) is None) == ("+" not in topic and "#" not in topic)


def test_a_password_is_its_file_s_first_line_and_its_owner_s_alone(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    row = Broker(user="hub", password_file=str(file))
    with pytest.raises(ConfigError, match="No such file"):
        password(row)
    file.write_text("p\N{LATIN SMALL LETTER U WITH DIAERESIS} ss\nmore\n")
    file.chmod(0o644)
    with pytest.raises(ConfigError, match=r"others may read this secret; chmod 600") as caught:
        password(row)
    assert "ss" not in str(caught.value).replace(str(tmp_path), "").replace("password", "")
    file.chmod(0o600)
    assert password(row) == "p\N{LATIN SMALL LETTER U WITH DIAERESIS} ss"
    file.write_text("\n")
    with pytest.raises(ConfigError, match="first line is empty"):
        password(row)
    file.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="UTF-8"):
        password(row)
    assert password(Broker(user="hub")) is None


def test_a_secret_in_a_folder_where_others_may_write_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    file = folder / "secret"
    file.write_text("x")
    file.chmod(0o600)
    folder.chmod(0o777)
    with pytest.raises(ConfigError, match="others may write in"):
        password(Broker(user="hub", password_file=str(file)))


def test_certificates_that_are_none_are_named(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    with pytest.raises(ConfigError, match="ca .*ca.pem: cannot be used"):
        encryption(Broker(ca=str(file)))
    file.write_text("no certificate")
    file.chmod(0o600)
    with pytest.raises(ConfigError, match="ca .*ca.pem: cannot be used"):
        encryption(Broker(ca=str(file)))
    with pytest.raises(ConfigError, match="certificate .*ca.pem: cannot be used"):
        encryption(Broker(certificate=str(file)))
