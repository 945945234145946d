"""What an endpoint in the configuration or on the command line means."""

from __future__ import annotations

import ipaddress
import re

from msgspec import Struct

from edge_runtime.errors import ConfigError

INSECURE_PHRASE = "I know that anybody on this network can read decisions and send inputs"
"""What a configuration's `insecure_public_bind` must say."""
MAX_PATH_BYTES = 107
"""Of a Unix socket, on Linux."""

_TCP = re.compile(r"tcp://(\[[^\[\]/]+\]|[^\[\]/:]+):(\*|[0-9]{1,9})")
_FORMS = "expected tcp://ADDRESS:PORT with a port from 1 to 65535 (IPv6: tcp://[::1]:PORT), ipc://PATH or ipc://@NAME"


class Tcp(Struct, frozen=True):
    """A TCP address: `host` without brackets (`*` for all), port 0 where the system chooses."""

    host: str
    port: int

    @property
    def ipv6(self) -> bool:
        return ":" in self.host

    def __str__(self) -> str:
        return f"tcp://{f'[{self.host}]' if self.ipv6 else self.host}:{self.port or '*'}"


class Ipc(Struct, frozen=True):
    """A Unix socket: a path, or `@` and a name that lives in no folder (Linux' abstract sockets)."""

    path: str

    @property
    def abstract(self) -> bool:
        return self.path.startswith("@")

    @property
    def address(self) -> str:
        """As the system calls take it."""
        return "\0" + self.path[1:] if self.abstract else self.path

    def __str__(self) -> str:
        return f"ipc://{self.path}"


Endpoint = Tcp | Ipc


def parse(endpoint: str) -> Endpoint:
    """Raises ConfigError that says what is wrong with it."""
    if endpoint.startswith("ipc://"):
        path = endpoint.removeprefix("ipc://")
        if path in ("", "@") or "\0" in path:
            raise ConfigError(f"endpoint {endpoint!r}: {_FORMS}")
        if len(path.encode()) > MAX_PATH_BYTES:
            raise ConfigError(f"endpoint {endpoint!r}: a path of at most {MAX_PATH_BYTES} bytes; choose a shorter one")
        return Ipc(path)
    match = _TCP.fullmatch(endpoint)
    if match is None:
        raise ConfigError(f"endpoint {endpoint!r}: {_FORMS}")
    host, port = match.groups()
    if port != "*" and not 1 <= int(port) <= 65535:
        raise ConfigError(f"endpoint {endpoint!r}: {_FORMS}")
    return Tcp(host.strip("[]"), 0 if port == "*" else int(port))


def is_local(endpoint: Endpoint) -> bool:
    """Whether only this host's processes can reach it. Of names, `localhost` alone: others mean what a server says."""
    if isinstance(endpoint, Ipc) or endpoint.host == "localhost":
        return True
    try:
        return ipaddress.ip_address(endpoint.host).is_loopback
    except ValueError:
        return False


def check(endpoint: str, insecure: bool = False) -> None:
    """Raise ConfigError for what is no endpoint, and for one that others than this host could reach, unless `insecure`
    (allowed in words).
    """
    if not is_local(parse(endpoint)) and not insecure:
        raise ConfigError(
            f"endpoint {endpoint!r} is open to the network without encryption; use tcp://127.0.0.1:PORT, "
            f'give `keys` (made by `edge-runtime keys generate`), or set insecure_public_bind = "{INSECURE_PHRASE}"'
        )
