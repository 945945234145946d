"""The page's server over real sockets: what is let in, what is turned away, and who is let go."""

from __future__ import annotations

import errno
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.dashboard import feed as feeds
from edge_runtime.dashboard import server
from edge_runtime.dashboard.feed import Feed
from edge_runtime.dashboard.server import MAX_REQUEST_BYTES, MAX_VIEWERS, MAX_VISITS, Dashboard
from edge_runtime.errors import ConfigError, HeldError
from edge_runtime.patient_server import NO_ROOM_S
from tests.conftest import WAIT_S, jpeg, noise, wait_for
from tests.dashboard.looker import Looker, ask, connection
from tests.dashboard.test_feed import frame
from tests.mosquitto import make_certificates
from tests.publish.test_sinks import decision, status

TOKEN = "a-token-of-some-length"
Serve = Callable[..., tuple[Feed, Dashboard]]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Opens pages on free ports, which tell quickly what is new."""
    monkeypatch.setattr(server, "RATE_HZ", 50.0)
    opened = []

    def open_page(token: Path | None = None, certificate: Path | None = None, key: Path | None = None) -> Any:
        feed = Feed(with_pictures=True)
        opened.append(Dashboard(feed, "tcp://127.0.0.1:*", token, certificate, key))
        return feed, opened[-1]

    yield open_page
    for page in opened:
        page.close()


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(TOKEN + "\n")
    path.chmod(0o600)
    return path


def test_the_page_and_its_parts_come_with_a_policy_that_lets_nothing_else_in(serve: Serve) -> None:
    _, page = serve()
    for path, kind in (
        ("/", "text/html"),
        ("/page.js", "text/javascript"),
        ("/page.css", "text/css"),
        ("/icon.svg", "image/svg"),
    ):
        code, head, body = ask(page.endpoint, path)
        assert code == 200 and f"Content-Type: {kind}" in head and body
        assert "Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'" in head
        assert "unsafe" not in head and "X-Content-Type-Options: nosniff" in head and "Server: edge-runtime" in head
    html = (server.PAGE / "index.html").read_text()
    assert re.findall(r"\s(?:style|on\w+)=|<style|javascript:|//", html) == [], "nothing inline, nothing from elsewhere"
    for path in ("/nothing", "/../server.py", "/page/../server.py", "//page.js/.."):
        assert ask(page.endpoint, path)[0] == 404


def test_a_page_of_another_site_that_is_led_here_gets_nothing(serve: Serve) -> None:
    _, page = serve()
    for host in ("evil.example", "127.evil.example", "127.0.0.1.evil.example:80", "192.168.0.7", "", "[::2]"):
        code, _, body = ask(page.endpoint, "/events", f"Host: {host}")
        assert (code, body) == (421, b"421 Misdirected Request\n"), host
    for host in ("localhost", "LOCALHOST:5562", "127.0.0.1", "127.3.2.1:99", "[::1]:5562"):
        assert ask(page.endpoint, "/", f"Host: {host}")[0] == 200, host


def test_who_looks_is_greeted_and_told_what_is_new(serve: Serve) -> None:
    feed, page = serve()
    feed.publish(decision(1))
    feed.publish(status(2))
    looker = Looker(page.endpoint)
    assert looker.status == 200 and "Content-Type: text/event-stream" in looker.head
    kind, hello = looker.next()
    assert kind == "hello" and hello["decision"]["seq"] == 1 and hello["status"]["seq"] == 2
    feed.took(frame(7))
    feed.publish(decision(2, label="go"))
    (picture,) = looker.find("pictures")
    assert (picture["camera"], picture["seq"]) == ("camera", 7)
    late = Looker(page.endpoint)
    kind, hello = late.next()
    assert kind == "hello" and [turn["label"] for turn in hello["turns"]] == ["keep", "go"]
    assert hello["pictures"] == [picture], "who comes later sees it too"
    feed.publish(decision(3))
    assert looker.find("decision")["seq"] == late.find("decision")["seq"] == 3
    looker.close()
    late.close()


def test_nothing_is_encoded_while_nobody_looks(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    for name in ("preview", "_encode"):
        real = getattr(feeds, name)
        monkeypatch.setattr(feeds, name, lambda item, name=name, real=real: (made.append(name), real(item))[1])
    feed, page = serve()
    ask(page.endpoint)  # a page that was fetched is not yet one that is looked at

    def run(seqs: range) -> None:
        for seq in seqs:
            feed.took(frame(seq))
            feed.publish(decision(seq))
            time.sleep(0.002)

    run(range(50))
    assert made == [] and not feed.watched
    looker = Looker(page.endpoint)
    wait_for(lambda: feed.watched, "the page to notice")
    run(range(50, 100))
    looker.find("pictures")
    assert {"preview", "_encode"} == set(made)
    looker.close()
    wait_for(lambda: not feed.watched, "the page to notice that nobody looks")
    made.clear()
    run(range(100, 150))
    assert made == []


def test_what_takes_long_is_done_less_often(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    feed, page = serve()
    real, audience = feed.view, page._audience
    waits: list[float] = []

    def slow() -> bytes:
        time.sleep(0.05)
        return real()

    monkeypatch.setattr(feed, "view", slow)
    monkeypatch.setattr(audience._stopping, "wait", waits.append)
    looker = Looker(page.endpoint)
    wait_for(lambda: len(waits) >= 3, "some views")
    assert all(seconds >= 0.1 for seconds in waits), "a third of one core"
    looker.close()


def test_so_many_may_look_and_whoever_goes_makes_room(serve: Serve) -> None:
    _, page = serve()
    lookers = [Looker(page.endpoint) for _ in range(MAX_VIEWERS)]
    assert ask(page.endpoint, "/events")[0] == 503
    assert ask(page.endpoint)[0] == 200, "the page itself is there"
    lookers.pop().close()
    wait_for(lambda: _may_look(page), "room")
    for looker in lookers:
        looker.close()


def _may_look(page: Dashboard) -> bool:
    looker = Looker(page.endpoint)
    looker.close()
    return looker.status == 200


def test_who_looks_and_takes_nothing_is_let_go_and_the_others_go_on(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "SEND_S", 0.3)
    monkeypatch.setattr(server, "SOCKET_BYTES", 32 << 10)
    feed, page = serve()
    slow = connection(page.endpoint, receive_bytes=4096)
    slow.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    wait_for(lambda: feed.watched, "the slow one to be let in")
    picture = jpeg(noise(100, 1, (480, 640)))
    looker = Looker(page.endpoint)
    audience = page._audience
    seq = 0

    def shown() -> bool:
        nonlocal seq
        seq += 1
        feed.took(frame(seq, picture))
        feed.publish(decision(seq))
        looker.find("pictures")
        return len(audience._viewers) == 1

    wait_for(shown, "the slow one to be let go")
    assert looker.find("silent_s") is not None
    looker.close()
    slow.close()


def test_visitors_that_say_nothing_too_slowly_or_too_much_keep_nobody_out_for_long(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "VISIT_S", 0.5)
    _, page = serve()
    silent = [connection(page.endpoint) for _ in range(MAX_VISITS)]
    dripping = threading.Thread(target=_drip, args=(silent[0],), daemon=True)
    dripping.start()

    def served() -> bool:
        try:
            return bool(ask(page.endpoint)[0] == 200)
        except (OSError, IndexError):
            return False

    wait_for(served, "the page")
    dripping.join(WAIT_S)
    assert not dripping.is_alive(), "a byte now and then buys no time"
    for one in silent:
        one.close()
    for endless in (b"a: b\r\n" * 200, b"a: " + bytes(MAX_REQUEST_BYTES), bytes(MAX_REQUEST_BYTES + 1)):
        assert b"200" not in _answer(page, b"GET / HTTP/1.1\r\n" + endless)
    assert b"200" not in _answer(page, b"\xff\x00 nonsense\r\n\r\n")
    assert served()


def _answer(page: Dashboard, said: bytes) -> bytes:
    """What comes back first; nothing where the connection is closed instead."""
    with connection(page.endpoint) as talking:
        try:
            talking.sendall(said)
            return talking.recv(1 << 16)
        except OSError:
            return b""


def _drip(talking: socket.socket) -> None:
    try:
        while True:
            talking.sendall(b"G")
            time.sleep(0.05)
    except OSError:
        pass


def test_without_a_file_descriptor_it_waits_and_then_lets_in_who_waited(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, page = serve()
    slept: list[float] = []
    real = time.sleep

    def refuse(listening: socket.socket) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(server.time, "sleep", lambda seconds: (slept.append(seconds), real(seconds))[1])
    monkeypatch.setattr(socket.socket, "accept", refuse)
    with connection(page.endpoint) as waiting:
        waiting.sendall(b"GET /page.css HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_for(lambda: NO_ROOM_S in slept, "the refusal")
        monkeypatch.undo()
        assert waiting.recv(1 << 16).startswith(b"HTTP/1.0 200")


def test_with_a_token_only_who_shows_it_is_let_in(
    serve: Serve, token_file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "WRONG_TOKEN_S", 0.0)
    caplog.set_level("DEBUG")
    feed, page = serve(token_file)
    feed.publish(decision(1))
    code, _, body = ask(page.endpoint)
    assert code == 200 and b'name="token"' in body and b"timeline" not in body
    for path in ("/events", "/page.js", "/nothing"):
        assert ask(page.endpoint, path)[0] == 401
    assert ask(page.endpoint, "/page.css")[0] == 200
    for wrong in (b"token=no", b"", b"token=" + TOKEN.encode()[:-1], b"\xff", b"token=%ff%00"):
        code, head, _ = ask(page.endpoint, "/enter", body=wrong or b"x")
        assert code == 403 and "Set-Cookie" not in head
    for header in ("Authorization: Bearer no", "Authorization: Bearer", "Cookie: a=b; ;=", f"Cookie: edge={TOKEN}"):
        assert ask(page.endpoint, "/events", header)[0] == 401
    code, head, _ = ask(page.endpoint, "/enter", body=b"token=" + TOKEN.encode())
    assert code == 303 and "HttpOnly; SameSite=Strict" in head and TOKEN not in head
    cookie = next(line for line in head.splitlines() if line.startswith("Set-Cookie"))[len("Set-Cookie: ") :].split(
        ";"
    )[0]
    assert b"timeline" in ask(page.endpoint, "/", f"Cookie: other=1; {cookie}")[2]
    assert b"timeline" in ask(page.endpoint, "/", f"Authorization: Bearer {TOKEN}", "Host: car.example")[2]
    looker = Looker(page.endpoint, f"Cookie: {cookie}")
    assert looker.find("decision")["seq"] == 1
    looker.close()
    _, other = serve(token_file)
    assert ask(other.endpoint, "/events", f"Cookie: {cookie}")[0] == 401, "another process knows nothing of it"
    assert TOKEN not in caplog.text and cookie.partition("=")[2] not in caplog.text


def test_with_a_certificate_it_is_encrypted(serve: Serve, tmp_path: Path, token_file: Path) -> None:
    files = make_certificates(tmp_path)
    _, page = serve(token_file, files["broker"], files["broker.key"])
    assert page.endpoint.startswith("https://")
    context = ssl.create_default_context(cafile=str(files["authority"]))
    _, head, _ = ask(page.endpoint, "/enter", body=b"token=" + TOKEN.encode(), encryption=context)
    assert "; Secure" in head
    assert b"200" not in _answer(page, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert ask(page.endpoint, encryption=context)[0] == 200


def test_what_cannot_be_used_is_said_and_never_what_the_secret_is(tmp_path: Path, token_file: Path) -> None:
    feed = Feed()

    def refused(match: str, bind: str = "tcp://127.0.0.1:*", *files: Path | None) -> str:
        with pytest.raises(ConfigError, match=match) as raised:
            Dashboard(feed, bind, *(*files, None, None, None)[:3])
        return str(raised.value)

    short = tmp_path / "short"
    short.write_text("secret\n")
    short.chmod(0o600)
    assert "secret" not in refused("at least 16 characters", "tcp://127.0.0.1:*", short).replace("this secret", "")
    refused("No such file", "tcp://127.0.0.1:*", tmp_path / "none")
    token_file.chmod(0o644)
    assert TOKEN not in refused("others may read this secret; chmod 600", "tcp://127.0.0.1:*", token_file)
    files = make_certificates(tmp_path)
    refused("certificate .* cannot be used", "tcp://127.0.0.1:*", None, files["broker"], files["client.key"])
    files["broker.key"].chmod(0o644)
    refused("others may read", "tcp://127.0.0.1:*", None, files["broker"], files["broker.key"])


def test_closing_lets_everybody_go_and_frees_the_address(serve: Serve) -> None:
    feed, page = serve()
    looker = Looker(page.endpoint)
    looker.next()
    bind = page.endpoint.replace("http", "tcp").rstrip("/")
    with pytest.raises(HeldError):
        Dashboard(feed, bind, None, None, None)
    page.close()
    page.close()
    with pytest.raises((EOFError, OSError)):
        while True:
            looker.next()
    assert not feed.watched
    again = Dashboard(feed, bind, None, None, None)
    assert ask(again.endpoint)[0] == 200
    again.close()
    looker.close()


def test_it_binds_to_version_6_too() -> None:
    page = Dashboard(Feed(), "tcp://[::1]:*", None, None, None)
    assert page.endpoint.startswith("http://[::1]:")
    with socket.create_connection(("::1", int(page.endpoint.rstrip("/").rpartition(":")[2])), WAIT_S) as talking:
        talking.sendall(b"GET / HTTP/1.1\r\nHost: [::1]\r\n\r\n")
        assert talking.recv(1 << 16).startswith(b"HTTP/1.0 200")
    page.close()
