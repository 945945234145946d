"""The page's server: a few visitors at a time, each with little time and room; nobody who is slow costs more than that.

One thread accepts, each visit has one, and one tells those who look what is new, RATE_HZ times a second at most. It
rests while nobody looks.
"""

from __future__ import annotations

import io
import logging
import queue
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from edge_runtime import sockets
from edge_runtime.dashboard.access import Access, read_token
from edge_runtime.dashboard.feed import Feed
from edge_runtime.endpoints import Tcp, parse
from edge_runtime.errors import ConfigError
from edge_runtime.patient_server import PatientServer
from edge_runtime.secret_file import check_private

log = logging.getLogger("edge_runtime.dashboard")

RATE_HZ = 5.0
MAX_VIEWERS = 4
MAX_VISITS = 16
"""At a time, viewers included; more are turned away."""
MAX_REQUEST_BYTES = 16 << 10
"""Of a request, its head and what follows it together."""
VISIT_S = 8.0
"""To say what is wanted, which browsers may put off after they have come, and again to take it; but not to look."""
SEND_S = 5.0
"""Whoever takes nothing for so long looks no more."""
QUEUE = 10
"""What may wait for a viewer; with more it looks no more."""
SOCKET_BYTES = 256 << 10
WRONG_TOKEN_S = 0.5
POLL_S = 0.25
CLOSE_S = 0.8

PAGE = Path(__file__).parent / "page"
FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
ENTER = ("enter.html", "text/html; charset=utf-8")
OPEN = ("/page.css", "/icon.svg")
"""What who asks for the token needs before it is shown."""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_LOOKING = float("inf")


class Dashboard:
    """Serves the page of `feed` from the constructor on, until it is closed."""

    def __init__(
        self, feed: Feed, bind: str, token_file: Path | None, certificate: Path | None, key: Path | None
    ) -> None:
        """`bind`: `tcp://ADDRESS:PORT`; port `*` is chosen by the system. With a `certificate` (PEM) it is encrypted.
        Raises ConfigError for what cannot be used, HeldError where somebody listens there already.
        """
        token = None if token_file is None else read_token(token_file)
        encryption = None if certificate is None else _encryption(certificate, key or certificate)
        listener = sockets.listen(bind, "dashboard bind")
        endpoint = parse(listener.endpoint)
        assert isinstance(endpoint, Tcp)
        self.endpoint = f"{'https' if encryption else 'http'}://{str(endpoint).removeprefix('tcp://')}/"
        access = Access(token, f"edge_runtime_{endpoint.port}", encryption is not None)
        self._audience = _Audience(feed)
        self._server = _Server(listener.socket, access, encryption, self._audience)
        self._threads = [
            threading.Thread(target=self._server.serve_forever, args=(POLL_S,), name="dashboard", daemon=True),
            threading.Thread(target=self._audience.run, name="dashboard view", daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        log.info("dashboard: %s", self.endpoint)

    def close(self) -> None:
        """Let go of everybody, within about a second. Harmless when called again."""
        self._audience.stop()
        self._server.shutdown()
        self._server.server_close()
        for thread in self._threads:
            thread.join(CLOSE_S)


def _encryption(certificate: Path, key: Path) -> ssl.SSLContext:
    """Raises ConfigError for files that cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        check_private(key, "key")
        # A callback, so that a key under a passphrase is an error and no question at a terminal.
        context.load_cert_chain(certificate, key, password=lambda: b"")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ConfigError(f"certificate {certificate}: cannot be used ({reason})") from None
    return context


class _Viewer:
    """Somebody who looks."""

    def __init__(self, visit: _Visit) -> None:
        self.visit = visit
        self.greeted = False
        self.waiting: queue.Queue[bytes | None] = queue.Queue(QUEUE)


class _Audience:
    """Those who look, and the thread that tells them what is new."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._lock = threading.Lock()
        """Of the viewers."""
        self._viewers: list[_Viewer] = []
        self._come = threading.Event()
        self._stopping = threading.Event()

    def join(self, visit: _Visit) -> _Viewer | None:
        """Begin to look; None where too many do."""
        viewer = _Viewer(visit)
        with self._lock:
            if len(self._viewers) >= MAX_VIEWERS or self._stopping.is_set():
                return None
            self._viewers.append(viewer)
        self._come.set()
        return viewer

    def leave(self, viewer: _Viewer) -> None:
        with self._lock:
            if viewer in self._viewers:
                self._viewers.remove(viewer)

    def run(self) -> None:
        """On a thread of its own."""
        while not self._stopping.is_set():
            with self._lock:
                viewers = list(self._viewers)
            self._feed.watch(bool(viewers))
            if not viewers:
                self._come.wait()
                self._come.clear()
                continue
            begun = time.monotonic()
            try:
                self._tell(viewers)
            except Exception:  # the page must not be dark for ever because of one message
                log.exception("dashboard: cannot be shown")
            took_s = time.monotonic() - begun
            # However large the pictures: at most a third of one core.
            self._stopping.wait(max(1 / RATE_HZ - took_s, 2 * took_s))
        self._feed.watch(False)

    def stop(self) -> None:
        """Let all go."""
        self._stopping.set()
        self._come.set()
        with self._lock:
            viewers = list(self._viewers)
        for viewer in viewers:
            try:
                viewer.waiting.put_nowait(None)
            except queue.Full:
                viewer.visit.end()

    def _tell(self, viewers: list[_Viewer]) -> None:
        view, hello = _event("view", self._feed.view()), None
        for viewer in viewers:
            item = view
            if not viewer.greeted:
                item = hello = hello or _event("hello", self._feed.hello())
                viewer.greeted = True
            try:
                viewer.waiting.put_nowait(item)
            except queue.Full:
                viewer.visit.end()
                self.leave(viewer)


def _event(kind: str, data: bytes) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n"


class _Visit:
    """A connection, and until when it may last (monotonic seconds)."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.until = time.monotonic() + VISIT_S

    def end(self) -> None:
        """Have whoever reads or writes there fail. Any thread."""
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


class _Server(PatientServer, HTTPServer):
    """Accepts, and ends what lasts too long."""

    def __init__(
        self, listening: socket.socket, access: Access, encryption: ssl.SSLContext | None, audience: _Audience
    ) -> None:
        super().__init__(listening.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        self.access = access
        self.audience = audience
        self._encryption = encryption
        self._lock = threading.Lock()
        """Of the visits."""
        self._visits: set[_Visit] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        visit = _Visit(request)
        with self._lock:
            full = len(self._visits) >= MAX_VISITS
            if not full:
                self._visits.add(visit)
        if full:
            request.close()
            return
        thread = threading.Thread(target=self._serve, args=(visit, client_address), name="dashboard visit", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the system gives no more threads
            self._forget(visit)

    def service_actions(self) -> None:
        """Called every POLL_S at least."""
        now = time.monotonic()
        with self._lock:
            late = [visit for visit in self._visits if visit.until < now]
        for visit in late:
            visit.end()

    def server_close(self) -> None:
        super().server_close()
        with self._lock:
            visits = list(self._visits)
        for visit in visits:
            visit.end()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Somebody who goes before being let in is nobody's trouble."""

    def _serve(self, visit: _Visit, client_address: Any) -> None:
        try:
            visit.socket.settimeout(VISIT_S)
            visit.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
            if self._encryption is not None:
                visit.socket = self._encryption.wrap_socket(visit.socket, server_side=True)
            _Handler(visit, client_address, self)
        except OSError:  # whoever goes, says nothing or says too much
            pass
        except Exception:
            log.exception("dashboard: a visit failed")
        finally:
            self._forget(visit)

    def _forget(self, visit: _Visit) -> None:
        with self._lock:
            self._visits.discard(visit)
        visit.socket.close()


class _Bounded(io.RawIOBase):
    """What one request may read. Raises OSError beyond that."""

    def __init__(self, file: io.BufferedIOBase) -> None:
        self._file = file
        self._left = MAX_REQUEST_BYTES

    def readline(self, size: int | None = -1, /) -> bytes:
        return self._counted(self._file.readline(self._left + 1))

    def read(self, size: int = -1, /) -> bytes:
        return self._counted(self._file.read(min(size, self._left + 1) if size >= 0 else self._left + 1))

    def close(self) -> None:
        self._file.close()
        super().close()

    def _counted(self, data: bytes) -> bytes:
        self._left -= len(data)
        if self._left < 0:
            raise OSError(f"a request of more than {MAX_REQUEST_BYTES} bytes")
        return data


class _Handler(BaseHTTPRequestHandler):
    """One request; the connection ends with its answer."""

    server: _Server

    def __init__(self, visit: _Visit, client_address: Any, server: _Server) -> None:
        self._visit = visit
        super().__init__(visit.socket, client_address, server)

    def setup(self) -> None:
        super().setup()
        self.rfile = _Bounded(self.rfile)  # type: ignore[assignment]

    def version_string(self) -> str:
        return "edge-runtime"

    def log_message(self, format: str, *args: object) -> None:
        """Visits are not logged: neither is what somebody has shown as a token."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        self._answer(HTTPStatus(code))

    def parse_request(self) -> bool:
        known = super().parse_request()
        self._visit.until = time.monotonic() + VISIT_S
        return known

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if not self._known() and path not in OPEN:
            if path == "/" and self.server.access.asks:
                self._file(*ENTER)
            else:
                self._answer(HTTPStatus.UNAUTHORIZED if self.server.access.asks else HTTPStatus.MISDIRECTED_REQUEST)
        elif path in FILES:
            self._file(*FILES[path])
        elif path == "/events":
            self._look()
        else:
            self._answer(HTTPStatus.NOT_FOUND)

    def do_POST(self) -> None:
        """The form that asks for the token."""
        if self.path != "/enter" or not self.server.access.asks:
            self._answer(HTTPStatus.NOT_FOUND)
            return
        length = self.headers.get("Content-Length") or ""
        if not (length.isascii() and length.isdigit()) or int(length) > MAX_REQUEST_BYTES:
            self._answer(HTTPStatus.BAD_REQUEST)
            return
        fields = parse_qs(self.rfile.read(int(length)).decode("utf-8", "replace"))
        cookie = self.server.access.enter(fields.get("token", [""])[0])
        if cookie is None:
            time.sleep(WRONG_TOKEN_S)
            self._file(*ENTER, status=HTTPStatus.FORBIDDEN)
        else:
            self._answer(HTTPStatus.SEE_OTHER, headers={"Location": "/", "Set-Cookie": cookie})

    def _known(self) -> bool:
        headers = self.headers
        return self.server.access.allows(headers.get("Host"), headers.get("Cookie"), headers.get("Authorization"))

    def _file(self, name: str, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        self._answer(status, (PAGE / name).read_bytes(), kind)

    def _answer(
        self,
        status: HTTPStatus,
        body: bytes | None = None,
        kind: str = "text/plain; charset=utf-8",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        body = f"{status.value} {status.phrase}\n".encode() if body is None else body
        self._head(status, {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _head(self, status: HTTPStatus, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {**HEADERS, **headers, "Connection": "close"}.items():
            self.send_header(name, value)
        self.end_headers()

    def _look(self) -> None:
        """Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html), until it goes."""
        viewer = self.server.audience.join(self._visit)
        if viewer is None:
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, headers={"Retry-After": "5"})
            return
        try:
            self._visit.socket.settimeout(SEND_S)
            self._visit.until = _LOOKING
            self._head(HTTPStatus.OK, {"Content-Type": "text/event-stream; charset=utf-8"})
            self.wfile.write(b"retry: 1000\n\n")
            while (item := viewer.waiting.get()) is not None:
                self.wfile.write(item)
        finally:
            self.server.audience.leave(viewer)
