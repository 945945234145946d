"""Listen at an endpoint without ever taking one that somebody listens at, and connect to one."""

from __future__ import annotations

import errno
import fcntl
import grp
import os
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime import endpoints
from edge_runtime.endpoints import Endpoint, Ipc
from edge_runtime.errors import ConfigError, HeldError
from edge_runtime.keyring import read_client_keys

if TYPE_CHECKING:
    import zmq

BACKLOG = 128
PROBE_S = 0.5
PRIVATE = 0o600


class Listener:
    """A listening socket, and the file that it has in the file system, if any."""

    def __init__(self, listening: socket.socket, endpoint: Endpoint) -> None:
        self.socket = listening
        self.endpoint = str(endpoint)
        """Where it really is (a port `*` is chosen by the system)."""
        self._path = Path(endpoint.path) if isinstance(endpoint, Ipc) and not endpoint.abstract else None
        self._inode = self._path.stat().st_ino if self._path is not None else 0

    def forget(self) -> None:
        """Remove its file, if it is still its own; before the socket is closed, while nobody can take the place."""
        if self._path is not None:
            with suppress(OSError):
                if self._path.lstat().st_ino == self._inode:
                    self._path.unlink()
            self._path = None

    def close(self) -> None:
        """Stop listening. Harmless when called again."""
        self.forget()
        self.socket.close()


class Spare:
    """A file descriptor to spare, so that a connection can be turned away where the process has none left: one that
    waits is announced without end.
    """

    def __init__(self) -> None:
        self._held: int | None = None
        self._hold()

    def turn_away(self, listening: socket.socket) -> None:
        """End the connection that has waited for longest at `listening`, which does not block."""
        self.close()
        with suppress(OSError):
            listening.accept()[0].close()
        self._hold()

    def close(self) -> None:
        """Give it back. Harmless when called again."""
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def _hold(self) -> None:
        with suppress(OSError):
            self._held = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)


def listen(
    address: str,
    setting: str,
    mode: int = PRIVATE,
    group: str = "",
    prepare: Callable[[socket.socket], None] = lambda listening: None,
    kind: socket.SocketKind = socket.SOCK_STREAM,
) -> Listener:
    """Listen at `address`; `prepare` sets options before. A Unix socket in the file system gets `mode` and `group`.

    TCP knows the `kind` SOCK_STREAM only.

    Raises ConfigError naming `setting` if the address cannot be had; HeldError if somebody listens there. The file of
    a listener that has died is taken over.
    """
    endpoint = endpoints.parse(address)
    try:
        if isinstance(endpoint, Ipc):
            return _listen_ipc(endpoint, setting, mode, group, prepare, kind)
        where = _resolve(endpoint)
        listening = socket.socket(where[0], socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            prepare(listening)
            listening.bind(where[1])
            listening.listen(BACKLOG)
            port = listening.getsockname()[1]
            return Listener(listening, endpoints.Tcp(endpoint.host, port))
        except BaseException:
            listening.close()
            raise
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise _held(setting, address) from None
        hint = "is it an address of this host?" if error.errno == errno.EADDRNOTAVAIL else "choose another address"
        raise ConfigError(f"{setting} {address}: {_words(error)}; {hint}") from None


def bind(
    context: zmq.Context[Any],
    zmq_socket: zmq.Socket[Any],
    address: str,
    setting: str,
    mode: int = PRIVATE,
    group: str = "",
) -> Listener:
    """As `listen`, for a ZeroMQ socket, which then owns the listening socket: `forget` before it is closed.

    Raises as `listen`, with `context` and all its sockets closed.
    """
    import zmq

    try:
        listener = listen(address, setting, mode, group)
        try:
            zmq_socket.setsockopt(zmq.USE_FD, listener.socket.fileno())
            zmq_socket.bind(listener.endpoint)
        except zmq.ZMQError as error:
            listener.close()
            raise ConfigError(f"{setting} {address}: {error.strerror}; choose another address") from None
        listener.socket.detach()
        return listener
    except BaseException:
        context.destroy(linger=0)
        raise


def connect(zmq_socket: zmq.Socket[Any], address: str, keys: Path | None = None) -> None:
    """Connect to `address`, with the client's file `keys` where it asks for one (see `keyring`).

    Raises ConfigError if the address is none, or the keys cannot be used.
    """
    import zmq

    if keys is not None:
        own = read_client_keys(keys)
        zmq_socket.setsockopt_string(zmq.CURVE_SERVERKEY, own.server_key)
        zmq_socket.setsockopt_string(zmq.CURVE_PUBLICKEY, own.public_key)
        zmq_socket.setsockopt_string(zmq.CURVE_SECRETKEY, own.secret_key)

    endpoint = endpoints.parse(address)
    if isinstance(endpoint, endpoints.Tcp) and endpoint.ipv6:
        zmq_socket.setsockopt(zmq.IPV6, 1)
    try:
        zmq_socket.connect(address)
    except zmq.ZMQError as error:
        raise ConfigError(f"endpoint {address!r}: {error.strerror}") from None


def answers(address: str) -> bool:
    """Whether somebody listens at `address`. Raises ConfigError if it is none."""
    endpoint = endpoints.parse(address)
    try:
        if isinstance(endpoint, Ipc):
            return _alive(endpoint)
        family, where = _resolve(endpoint)
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.settimeout(PROBE_S)
            probe.connect(where)
            return True
    except TimeoutError:
        return True
    except OSError:
        return False


def _listen_ipc(
    endpoint: Ipc,
    setting: str,
    mode: int,
    group: str,
    prepare: Callable[[socket.socket], None],
    kind: socket.SocketKind,
) -> Listener:
    number = _group_number(group, setting)
    listening = socket.socket(socket.AF_UNIX, kind)
    try:
        prepare(listening)
        if endpoint.abstract:
            if group:
                raise ConfigError(f"{setting} {endpoint}: an abstract socket has no group; give a path")
            listening.bind(endpoint.address)
            listening.listen(BACKLOG)
        else:
            # From the first moment, whatever the umask: nobody else's until mode and group are set.
            os.fchmod(listening.fileno(), PRIVATE)
            with _locked(Path(endpoint.path).absolute().parent):
                _clear(endpoint, setting)
                listening.bind(endpoint.path)
                if number is not None:
                    os.chown(endpoint.path, -1, number)
                Path(endpoint.path).chmod(mode)
                listening.listen(BACKLOG)  # from here on it answers
        return Listener(listening, endpoint)
    except BaseException:
        listening.close()
        raise


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One at a time looks who listens in `folder` and takes a place there."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _clear(endpoint: Ipc, setting: str) -> None:
    """Remove the file that a dead listener has left."""
    try:
        status = os.lstat(endpoint.path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise ConfigError(f"{setting} {endpoint}: is there already, and no socket; choose another path or remove it")
    if _alive(endpoint):
        raise _held(setting, str(endpoint))
    Path(endpoint.path).unlink()


def _alive(endpoint: Ipc) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(endpoint.address)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except BlockingIOError:  # so many wait to be accepted
            return True
        except OSError as error:
            if error.errno != errno.EPROTOTYPE:  # a socket of another kind, but there
                raise
        return True


def _group_number(group: str, setting: str) -> int | None:
    if not group:
        return None
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise ConfigError(f"{setting}: there is no group {group!r} on this machine") from None


def _resolve(endpoint: endpoints.Tcp) -> tuple[int, Any]:
    """Address family and address."""
    if endpoint.host == "*":
        return socket.AF_INET, ("", endpoint.port)
    addresses = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    # As ZeroMQ does: a name stands for its IPv4 address, where it has one.
    family, *_, where = min(addresses, key=lambda entry: entry[0] != socket.AF_INET)
    return family, where


def _held(setting: str, address: str) -> HeldError:
    return HeldError(f"{setting} {address}: somebody listens there; is another runtime running? choose another address")


def _words(error: OSError) -> str:
    return error.strerror or str(error)
