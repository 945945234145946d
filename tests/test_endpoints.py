from __future__ import annotations

import pytest

from edge_runtime.endpoints import Endpoint, Ipc, Tcp, is_local, parse
from edge_runtime.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "meant", "local"),
    [
        ("tcp://127.0.0.1:5560", Tcp("127.0.0.1", 5560), True),
        ("tcp://127.0.0.1:*", Tcp("127.0.0.1", 0), True),
        ("tcp://localhost:1", Tcp("localhost", 1), True),
        ("tcp://[::1]:65535", Tcp("::1", 65535), True),
        ("tcp://127.8.9.1:7", Tcp("127.8.9.1", 7), True),
        ("tcp://127.example.org:7", Tcp("127.example.org", 7), False),
        ("tcp://127.1:7", Tcp("127.1", 7), False),
        ("tcp://*:5560", Tcp("*", 5560), False),
        ("tcp://[::]:5560", Tcp("::", 5560), False),
        ("tcp://192.168.0.7:5560", Tcp("192.168.0.7", 5560), False),
        ("ipc:///run/edge-runtime/car/decisions", Ipc("/run/edge-runtime/car/decisions"), True),
        ("ipc://@car", Ipc("@car"), True),
        ("ipc://" + "x" * 107, Ipc("x" * 107), True),
    ],
)
def test_what_an_endpoint_means(text: str, meant: Endpoint, local: bool) -> None:
    assert parse(text) == meant
    assert str(meant) == text
    assert is_local(meant) == local


@pytest.mark.parametrize(
    "text",
    [
        "5560",
        "tcp://127.0.0.1",
        "tcp://127.0.0.1:",
        "tcp://127.0.0.1:0",
        "tcp://127.0.0.1:65536",
        "tcp://127.0.0.1:99999999999999999999",
        "tcp://127.0.0.1:-1",
        "tcp://127.0.0.1:5560x",
        "tcp://::1:5560",
        "tcp://:5560",
        "tcp:///5560",
        "udp://127.0.0.1:5560",
        "inproc://x",
        "ipc://",
        "ipc://@",
        "ipc://a\0b",
        "ipc://" + "x" * 108,
        "ipc://" + "\N{LATIN SMALL LETTER E WITH ACUTE}" * 54,
        "",
    ],
)
def test_what_is_none_is_one_line(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^endpoint .*(expected tcp://ADDRESS:PORT|choose a shorter one)[^\n]*$"):
        parse(text)
