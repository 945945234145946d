"""Keys of endpoints that others than this host can reach: this side's own, and the clients' that may come in.

A folder holds `server.toml` (secret) and `clients/NAME.toml` (public, with what the client may do). What a client needs
is one file of its own, `NAME.key.toml` (secret). Keys are written as ZeroMQ writes them (Z85, rfc.zeromq.org/spec/32).
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

from edge_runtime.errors import ConfigError
from edge_runtime.plain_file import read_plain
from edge_runtime.trusted_path import others_may_read, others_may_write, services, why_replaceable

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
        if secret and others_may_read(status):
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


def make_server(folder: Path) -> Path:
    """Make the folder with its own new keys. Raises ConfigError if it has some, or cannot be written."""
    path = folder / SERVER
    try:
        (folder / CLIENTS).mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise ConfigError(f"keys {folder}: {error.strerror}") from None
    public, secret = _pair()
    _write(path, ServerFile(public, secret), new="`keys rotate` gives it new ones")
    return path


def make_client(folder: Path, name: str, send: tuple[str, ...], receive: bool, out: Path) -> Path:
    """Let a new client in, whose own file is `out`. Raises ConfigError if there is one of this name, or such a file."""
    (server, *_) = public_keys(folder)
    path = _client_path(folder, name)
    if path.exists():
        raise ConfigError(f"keys {path}: is there already; `keys rotate --client {name}` gives it new ones")
    public, secret = _pair()
    _write(out, ClientKeys(server, public, secret), new="give another --out, or remove it")
    _write(path, ClientFile(public, send, receive))
    return out


def rotate_server(folder: Path) -> str:
    """Give this side new keys beside those before, which stay good; the new public one. Raises ConfigError."""
    own = _read(folder / SERVER, ServerFile, secret=True)
    if own.previous_secret_key:
        raise ConfigError(f"keys {folder}: are being rotated already; `keys rotate --finish` first")
    public, secret = _pair()
    _write(folder / SERVER, ServerFile(public, secret, own.public_key, own.secret_key))
    return public


def rotate_client(folder: Path, name: str, out: Path) -> Path:
    """Give a client new keys beside the one before, which stays good. Raises ConfigError."""
    path = _client_path(folder, name)
    known = _read(path, ClientFile)
    if known.previous_public_key:
        raise ConfigError(f"keys {path}: are being rotated already; `keys rotate --client {name} --finish` first")
    public, secret = _pair()
    _write(out, ClientKeys(public_keys(folder)[0], public, secret), new="give another --out, or remove it")
    _write(path, msgspec.structs.replace(known, public_key=public, previous_public_key=known.public_key))
    return out


def finish_rotation(folder: Path, name: str | None) -> None:
    """Let the keys before go: this side's, or a client's. Raises ConfigError."""
    if name is None:
        own = _read(folder / SERVER, ServerFile, secret=True)
        _write(folder / SERVER, ServerFile(own.public_key, own.secret_key))
    else:
        path = _client_path(folder, name)
        _write(path, msgspec.structs.replace(_read(path, ClientFile), previous_public_key=""))


def remove_client(folder: Path, name: str) -> None:
    """Let a client in no longer. Raises ConfigError."""
    path = _client_path(folder, name)
    try:
        path.unlink()
    except OSError as error:
        raise ConfigError(f"keys {path}: {error.strerror}; `keys list` tells who there is") from None


def public_keys(folder: Path) -> tuple[str, ...]:
    """This side's, the newest first. Raises ConfigError."""
    own = _read(folder / SERVER, ServerFile, secret=True)
    return tuple(key for key in (own.public_key, own.previous_public_key) if key)


def _client_path(folder: Path, name: str) -> Path:
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name) is None:
        raise ConfigError(f"client {name!r}: expected a letter or digit, then at most 63 of those, `.`, `_` and `-`")
    return folder / CLIENTS / f"{name}.toml"


def _pair() -> tuple[str, str]:
    """A public and a secret key, as text."""
    import zmq

    public, secret = zmq.curve_keypair()
    return public.decode(), secret.decode()


def _write(path: Path, content: Struct, new: str = "") -> None:
    """Whole or not at all, and the owner's only; in a folder that root has given to the services' group, theirs to read
    from the first moment on. With `new`, which says what else to do: never over another one.
    """
    lines = [
        f"{key} = {_toml(value)}" for key, value in msgspec.structs.asdict(content).items() if value not in ("", ())
    ]
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(handle, "w") as file:
                if os.geteuid() == 0 and path.parent.stat().st_gid == services():
                    os.fchown(handle, -1, services())
                    os.fchmod(handle, 0o640)
                file.write("\n".join(lines) + "\n")
                file.flush()
                os.fsync(file.fileno())
            if new:
                os.link(beside, path)
            else:
                beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    except FileExistsError:
        raise ConfigError(f"keys {path}: is there already; {new}") from None
    except OSError as error:
        raise ConfigError(f"keys {path}: cannot be written ({error.strerror})") from None


def _toml(value: object) -> str:
    """Text, truth and lists of text as TOML; JSON's text is TOML's."""
    return msgspec.json.encode(value).decode()
