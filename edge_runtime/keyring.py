"""Keys of endpoints that others than this host can reach: this side's own, and the clients' that may come in.

A folder holds `server.toml` (secret) and `clients/NAME.toml` (public, with what the client may do). What a client needs
is one file of its own, `NAME.key.toml` (secret). Keys are written as ZeroMQ writes them (Z85, rfc.zeromq.org/spec/32).
"""

from __future__ import annotations

import logging
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

from edge_runtime.errors import ConfigError
from edge_runtime.plain_file import read_plain
from edge_runtime.trusted_path import others_may_write, why_replaceable

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

log = logging.getLogger("edge_runtime")

SERVER, CLIENTS = "server.toml", "clients"
MAX_FILE_BYTES = 4096
MAX_CLIENTS = 1000
LOOK_S = 1.0
"""How soon a changed folder is noticed."""
ANY = "*"
"""In `send`: every stream."""
KEY_BYTES, Z85_CHARACTERS = 32, 40

_File = TypeVar("_File", bound=Struct)


class Client(Struct, frozen=True):
    """Who holds a key, and what it may do."""

    name: str
    send: tuple[str, ...] = ()
    """Streams that it may send."""
    receive: bool = False
    """Whether it may read decisions and status."""

    def may_send(self, stream: str) -> bool:
        return ANY in self.send or stream in self.send


class ServerFile(Struct, frozen=True, forbid_unknown_fields=True):
    """`server.toml`."""

    public_key: str
    secret_key: str
    previous_public_key: str = ""
    """Clients that know this one only are still let in, until `keys rotate --finish`."""
    previous_secret_key: str = ""


class ClientFile(Struct, frozen=True, forbid_unknown_fields=True):
    """`clients/NAME.toml`."""

    public_key: str
    send: tuple[str, ...] = ()
    receive: bool = False
    previous_public_key: str = ""
    """Until `keys rotate --finish`."""


class ClientKeys(Struct, frozen=True, forbid_unknown_fields=True):
    """A client's own file."""

    server_key: str
    public_key: str
    secret_key: str


class Keyring:
    """The keys in a folder, looked up again when something there has changed. One thread."""

    def __init__(self, folder: Path) -> None:
        """Raises ConfigError if they cannot be used."""
        self.folder = folder
        self._seen = _state(folder)
        self.own = read_server(folder)
        """(public, secret) keys that this side is known by, the newest first."""
        self._clients = read_clients(folder)
        self._look_at = 0.0

    def client(self, public: bytes) -> Client | None:
        """Who has this key, if it may come in."""
        return self._clients.get(public)

    def stands(self, client: Client) -> bool:
        """Whether `client` is still known, and may do the same."""
        return client in self._clients.values()

    def changed(self, now: float) -> bool:
        """Whether the folder, looked at again at most every LOOK_S, holds something else than before (`now`: monotonic
        seconds). A server's key that cannot be read leaves the ones before; a client's that cannot be read is out.
        """
        if now < self._look_at:
            return False
        self._look_at = now + LOOK_S
        seen = _state(self.folder)
        if seen == self._seen:
            return False
        self._seen = seen
        try:
            self.own = read_server(self.folder)
        except ConfigError as error:
            log.warning("%s; the keys before it stay", error)
        self._clients = read_clients(self.folder, strict=False)
        return True


def read_server(folder: Path) -> tuple[tuple[bytes, bytes], ...]:
    """(public, secret) of `server.toml`, the newest first. Raises ConfigError."""
    path = folder / SERVER
    own = _read(path, ServerFile, secret=True)
    pairs = [(decode(own.public_key, path), decode(own.secret_key, path))]
    if own.previous_secret_key:
        pairs.append((decode(own.previous_public_key, path), decode(own.previous_secret_key, path)))
    return tuple(pairs)


def read_clients(folder: Path, strict: bool = True) -> dict[bytes, Client]:
    """Public keys to who holds them. Raises ConfigError for a file that cannot be used, or leaves it out."""
    clients: dict[bytes, Client] = {}
    for path in client_files(folder):
        try:
            told = _read(path, ClientFile)
            client = Client(path.stem, told.send, told.receive)
            for key in (told.public_key, told.previous_public_key):
                if key:
                    holder = clients.setdefault(decode(key, path), client)
                    if holder is not client:
                        raise ConfigError(f"{path}: has the key of {holder.name}; give each client one of its own")
        except ConfigError as error:
            if strict:
                raise
            log.warning("%s; this client is not let in", error)
    return clients


def read_client_keys(path: Path) -> ClientKeys:
    """A client's own file. Raises ConfigError."""
    keys = _read(path, ClientKeys, secret=True)
    for key in (keys.server_key, keys.public_key, keys.secret_key):
        decode(key, path)
    return keys


def client_files(folder: Path) -> list[Path]:
    """In the order of their names. Raises ConfigError if there are more than MAX_CLIENTS."""
    try:
        paths = sorted(path for path in (folder / CLIENTS).iterdir() if path.suffix == ".toml")
    except OSError as error:
        raise ConfigError(f"keys {folder / CLIENTS}: {error.strerror}; `edge-runtime keys generate` makes it") from None
    if len(paths) > MAX_CLIENTS:
        raise ConfigError(f"keys {folder / CLIENTS}: {len(paths)} clients; at most {MAX_CLIENTS} are read")
    return paths


def decode(key: str, where: Path) -> bytes:
    """The 32 bytes of a key. Raises ConfigError."""
    from zmq.utils import z85

    try:
        data = bytes(z85.decode(key.encode("ascii"))) if len(key) == Z85_CHARACTERS else b""
    except (ValueError, KeyError, UnicodeEncodeError):
        data = b""
    if len(data) != KEY_BYTES:
        raise ConfigError(f"{where}: a key is {Z85_CHARACTERS} characters of Z85; `edge-runtime keys` writes them")
    return data


def _read(path: Path, kind: type[_File], secret: bool = False) -> _File:
    """The TOML file at `path` as `kind`; the owner's only, where it is secret, and nobody else's to change ever."""
    where = f"keys {path}"
    try:
        status = path.stat()
        if secret and status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ConfigError(f"{where}: others may read this secret; chmod 600 {path}")
        if others_may_write(status):
            raise ConfigError(f"{where}: others may change it; chown and chmod go-w {path}")
        if (reason := why_replaceable(path)) is not None:
            raise ConfigError(f"{where}: {reason}")
        return msgspec.convert(tomllib.loads(read_plain(path, MAX_FILE_BYTES).decode()), kind)
    except OSError as error:
        raise ConfigError(f"{where}: {error.strerror}; `edge-runtime keys generate` makes it") from None
    except (ValueError, RecursionError) as error:  # what is no TOML, no UTF-8, or not what is expected
        raise ConfigError(f"{where}: {error}") from None


def _state(folder: Path) -> tuple[tuple[str, int, int, int], ...]:
    """What changes when something in `folder` does: of each file its name, inode, size and time."""
    return tuple(_marks(folder))


def _marks(folder: Path) -> Iterator[tuple[str, int, int, int]]:
    for place in (folder, folder / CLIENTS):
        try:
            with os.scandir(place) as entries:
                for entry in sorted(entries, key=lambda one: one.name)[: MAX_CLIENTS + 2]:
                    status = entry.stat()
                    yield entry.path, status.st_ino, status.st_size, status.st_mtime_ns
        except OSError:
            continue
