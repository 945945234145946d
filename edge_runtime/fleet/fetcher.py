"""The network under the TUF client: HTTPS, no redirects, nothing unpacked, and a sender that has to keep up.

Each request runs on a thread of its own, so that whatever stands still (a name server, a handshake, a header that comes
byte by byte) is left behind when its time is over. Proxies are those of the environment (`https_proxy`), authorities
those of the system (`SSL_CERT_FILE`).
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import queue
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from tuf.api.exceptions import (
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    SlowRetrievalError,
)
from tuf.ngclient import FetcherInterface

from edge_runtime.errors import ConfigError

GRACE_S = 30.0
"""So long a file may take beyond what `BYTES_PER_S` allows."""
BYTES_PER_S = 2000.0
"""Slower than this, after the grace, nobody sends who wants it to arrive."""
STALL_S = 20.0
"""Between two bytes; the thread itself gives up then."""
PART_BYTES = 1 << 16


def check_url(url: str, plain_http: bool = False) -> str:
    """`url`, if what comes from there comes encrypted, or from this host, or `plain_http` says it need not.

    Raises ConfigError.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname
        parts.port  # noqa: B018  # raises where it is none
    except ValueError as error:
        raise ConfigError(f"repository {url!r:.200}: is no URL ({error})") from None
    if parts.scheme not in ("http", "https") or not host or parts.username is not None or parts.query or parts.fragment:
        raise ConfigError(f"repository {url!r:.200}: write https://HOST[:PORT]/PATH, without a user and a query")
    if parts.scheme == "http" and not plain_http and not _is_loopback(host):
        raise ConfigError(
            f"repository {url}: is not encrypted: who listens sees what comes; use https, or say --plain-http"
        )
    return url


class Fetcher(FetcherInterface):
    """Of one pull. Files of which it is not known yet whether they are whole lie in `folder`, without a name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._opener = urllib.request.build_opener(_NoRedirect)
        self.received = 0
        """Bytes so far."""

    @contextmanager
    def download_file(self, url: str, max_length: int) -> Iterator[IO[bytes]]:
        """The content at `url` as a file. Raises DownloadError; where there is more than `max_length`, right then."""
        with tempfile.TemporaryFile(dir=self._folder) as file:
            with contextlib.closing(self._fetch(url)) as parts:
                for part in parts:
                    if file.tell() + len(part) > max_length:
                        raise DownloadLengthMismatchError(f"it is longer than {max_length} bytes")
                    file.write(part)
            file.seek(0)
            yield file

    def _fetch(self, url: str) -> Generator[bytes, None, None]:
        parts: queue.Queue[bytes | DownloadError] = queue.Queue(8)
        gone = threading.Event()
        threading.Thread(target=_get, args=(self._opener, url, parts, gone), name="fetch", daemon=True).start()
        began, received = time.monotonic(), 0
        try:
            while True:
                left = began + GRACE_S + received / BYTES_PER_S - time.monotonic()
                try:
                    part = parts.get(timeout=max(0.0, left))
                except queue.Empty:
                    raise SlowRetrievalError(
                        f"{received} bytes came in {time.monotonic() - began:.0f} s; at least {BYTES_PER_S:g} a second "
                        f"are asked for after {GRACE_S:g} s"
                    ) from None
                if isinstance(part, DownloadError):
                    raise part
                if not part:
                    return
                received += len(part)
                self.received += len(part)
                yield part
        finally:
            gone.set()


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Where a repository lies is said once, by who trusts it."""

    def redirect_request(self, *_: object) -> None:
        return None


def _get(
    opener: urllib.request.OpenerDirector, url: str, parts: queue.Queue[bytes | DownloadError], gone: threading.Event
) -> None:
    """Put what comes from `url` into `parts`: bytes, at the end none, or what went wrong. A thread of its own, which
    ends when `gone` is set and what it waits for returns.
    """

    def put(part: bytes | DownloadError) -> bool:
        while not gone.is_set():
            with contextlib.suppress(queue.Full):
                parts.put(part, timeout=0.1)
                return True
        return False

    request = urllib.request.Request(url, headers={"Accept-Encoding": "identity", "User-Agent": "edge-runtime"})
    try:
        with opener.open(request, timeout=STALL_S) as response:
            while (part := response.read1(PART_BYTES)) and put(part):
                pass
        put(b"")
    except urllib.error.HTTPError as error:
        error.close()
        put(DownloadHTTPError(f"the server says {error.code} {error.reason}", error.code))
    except TimeoutError:
        put(SlowRetrievalError(f"nothing came for {STALL_S:g} s"))
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        kind = SlowRetrievalError if isinstance(reason, TimeoutError) else DownloadError
        put(kind(f"{reason}" or type(reason).__name__))


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
