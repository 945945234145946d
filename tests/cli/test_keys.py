"""`edge-runtime keys`, and the files that it writes."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from edge_runtime import Subscriber, keyring
from edge_runtime.capture import zmq_source
from edge_runtime.cli import commands, run_command
from edge_runtime.config import ZmqSink, load_config
from edge_runtime.config import ZmqSource as SourceRow
from edge_runtime.errors import ConfigError
from edge_runtime.runtime import Runtime
from edge_runtime.wire import StatusMessage
from tests.capture.test_sources import Inbox
from tests.conftest import running, tiny_config, wait_for


def keys(*arguments: object) -> int:
    return run_command(commands, ["keys", *map(str, arguments)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    assert keys("generate", tmp_path / "keys") == 0
    assert keys(
        "generate", tmp_path / "keys", "--client", "phone", "--send", "text", "--receive", "--out", tmp_path / "phone"
    ) == 0  # fmt: skip
    return tmp_path / "keys"


def test_what_is_secret_is_the_owner_s_only_and_what_is_told_is_not_secret(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (folder / "server.toml", folder.parent / "phone"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    capsys.readouterr()
    assert keys("list", folder) == 0
    told = capsys.readouterr().out
    server = keyring.public_keys(folder)[0]
    assert told == f"server  {server}\nphone  send text; receive\n"
    own = keyring.read_client_keys(folder.parent / "phone")
    assert own.server_key == server
    assert own.secret_key not in (folder / "clients" / "phone.toml").read_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("generate", "{keys}"), "is there already; `keys rotate` gives it new ones"),
        (("generate", "{keys}", "--client", "phone", "--receive"), "is there already; `keys rotate --client phone`"),
        (("generate", "{keys}", "--client", "new", "--receive", "--out", "{out}"), "there already; give another --out"),
        (("generate", "{keys}", "--client", "../up", "--receive"), "client '../up': expected a letter or digit"),
        (("generate", "{keys}", "--client", "idle"), "give --send STREAM, --receive, or both"),
        (("generate", "{keys}", "--receive"), "belong to a --client"),
        (("generate", "{file}/below"), "Not a directory"),
        (("rotate", "{keys}", "--client", "nobody"), "No such file"),
        (("revoke", "{keys}", "--client", "nobody"), "`keys list` tells who there is"),
        (("list", "{keys}/clients"), "`edge-runtime keys generate` makes it"),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_one_line_and_change_nothing(
    folder: Path, arguments: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = _content(folder.parent)
    places = {"keys": folder, "out": folder.parent / "phone", "file": folder.parent / "phone"}
    assert keys(*(argument.format(**places) for argument in arguments)) == 2
    assert says in capsys.readouterr().err
    assert _content(folder.parent) == before


def _content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _twice(folder: Path) -> None:
    (folder / "clients" / "other.toml").write_bytes((folder / "clients" / "phone.toml").read_bytes())


def _pipe(folder: Path) -> None:
    (folder / "server.toml").unlink()
    os.mkfifo(folder / "server.toml", 0o600)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda keys: (keys / "server.toml").chmod(0o640), "others may read this secret; chmod 600"),
        (lambda keys: (keys / "clients" / "phone.toml").chmod(0o666), "others may change it"),
        (lambda keys: keys.chmod(0o777), "others may write in"),
        (lambda keys: (keys / "server.toml").write_text('public_key = "a"\nsecret_key = ""'), "40 characters of Z85"),
        (lambda keys: (keys / "server.toml").write_text("public_key = 7"), "Expected `str`"),
        (lambda keys: (keys / "server.toml").write_bytes(b"\xff"), "utf-8"),
        (lambda keys: (keys / "server.toml").write_bytes(b"#" * 5000), "more than 4096 bytes"),
        (lambda keys: (keys / "clients" / "phone.toml").write_text("unknown = 1"), "phone.toml"),
        (_twice, "has the key of"),
        (_pipe, "no regular file"),
    ],
)  # fmt: skip
def test_keys_that_cannot_be_trusted_are_refused_by_name(
    folder: Path, spoil: Callable[[Path], object], says: str
) -> None:
    spoil(folder)
    with pytest.raises(ConfigError, match=re.escape(says)):
        zmq_source.ZmqSource(Inbox().intake, "tcp://127.0.0.1:*", keys=folder)


def test_a_client_s_file_that_is_spoiled_while_it_runs_puts_out_that_client_only(folder: Path) -> None:
    assert keys("generate", folder, "--client", "hub", "--send", "*", "--out", folder.parent / "hub") == 0
    ring = keyring.Keyring(folder)
    known = dict(ring._clients)
    assert {client.name for client in known.values()} == {"phone", "hub"}
    (folder / "clients" / "phone.toml").write_text("public_key = 1")
    (folder / "server.toml").write_text("half a fi")
    own = ring.own
    assert ring.changed(1e9)
    assert [client.name for client in ring._clients.values()] == ["hub"]
    assert ring.own == own
    assert not ring.changed(2e9), "nothing more has changed"


def test_beyond_this_host_keys_or_the_words_are_needed(folder: Path, tiny_bundle_path: Path, tmp_path: Path) -> None:
    text = f'name = "x"\nbundle = "{tiny_bundle_path}"\n[[source]]\nkind = "zmq"\nbind = "tcp://0.0.0.0:5561"\n'
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(ConfigError, match="give `keys`"):
        load_config(tmp_path / "c.toml")
    (tmp_path / "c.toml").write_text(text + 'keys = "keys"\n')
    (row,) = load_config(tmp_path / "c.toml").source
    assert isinstance(row, SourceRow)
    assert Path(row.keys) == folder
    (tmp_path / "c.toml").write_text(text.replace("tcp://0.0.0.0:5561", "tcp://0.0.0.0") + 'keys = "keys"\n')
    with pytest.raises(ConfigError, match="expected tcp://ADDRESS:PORT"):
        load_config(tmp_path / "c.toml")


def test_send_and_listen_with_keys_and_without(folder: Path, tiny_bundle_path: Path) -> None:
    config = tiny_config(tiny_bundle_path, SourceRow("tcp://127.0.0.1:*", rate_limit=0, keys=str(folder)))
    config = msgspec.structs.replace(config, sink=(ZmqSink("tcp://127.0.0.1:*", keys=str(folder)),))
    own = folder.parent / "phone"
    with running(Runtime(config)) as runtime:
        (inputs,) = runtime.input_endpoints
        sent = _cli("send", "text", "stop here", "--connect", inputs, "--keys", own)
        assert sent.returncode == 0, sent.stderr
        with Subscriber(runtime.decisions_endpoint, keys=own) as subscriber:
            wait_for(lambda: _sentences(subscriber) == 1, "the sentence")
        refused = _cli("send", "text", "stop here", "--connect", inputs)
        assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)
        assert "--keys" in refused.stderr
        heard = _cli("listen", "--connect", runtime.decisions_endpoint, "--keys", own, "--seconds", "2", "--json")
        assert heard.returncode == 0
        assert heard.stdout.count('"label"') > 0
        deaf = _cli("listen", "--connect", runtime.decisions_endpoint, "--seconds", "1", "--json")
        assert deaf.stdout == ""


def _sentences(subscriber: Subscriber) -> int:
    message = subscriber.receive(0.1)
    return message.streams["text"].captured if isinstance(message, StatusMessage) else 0


def _cli(*arguments: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "edge_runtime", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=120)
