"""Nobody who listens loses his place, whoever comes; the dead are buried."""

from __future__ import annotations

import grp
import os
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import zmq

from edge_runtime import sockets
from edge_runtime.errors import ConfigError, HeldError

ENDPOINTS = ["ipc://{folder}/door", "ipc://@edge-runtime-sockets-{process}", "tcp://127.0.0.1:*", "tcp://[::1]:*"]


def _endpoint(form: str, folder: Path) -> str:
    if "::1" in form:
        try:
            with socket.socket(socket.AF_INET6) as probe:
                probe.bind(("::1", 0))
        except OSError:
            pytest.skip("no IPv6 on this machine")
    return form.format(folder=folder, process=os.getpid())


@pytest.mark.parametrize("form", ENDPOINTS)
def test_a_live_endpoint_is_never_taken_and_goes_on_being_reached(form: str, tmp_path: Path) -> None:
    with sockets.listen(_endpoint(form, tmp_path), "x").socket as first:
        address = first.getsockname()
        where = _text(first, address)
        for _ in range(3):
            with pytest.raises(HeldError, match=r"^x .*is another runtime running\? choose another address$"):
                sockets.listen(where, "x")
        with zmq.Context() as context:
            other = context.socket(zmq.PULL)
            with pytest.raises(HeldError):
                sockets.bind(context, other, where, "x")
            assert other.closed
        assert sockets.answers(where)
        with socket.socket(first.family) as client:
            client.connect(address)
            first.settimeout(10)
            while True:  # those who looked whether it lives come first
                accepted, _ = first.accept()
                with accepted:
                    client.settimeout(0.5)
                    try:
                        accepted.sendall(b"here")
                        if client.recv(4) == b"here":
                            break
                    except OSError:
                        continue


def _text(listening: socket.socket, address: object) -> str:
    if listening.family == socket.AF_UNIX:
        name = address.decode() if isinstance(address, bytes) else str(address)
        return "ipc://" + (f"@{name[1:]}" if name.startswith("\0") else name)
    assert isinstance(address, tuple)
    return (
        f"tcp://[{address[0]}]:{address[1]}"
        if listening.family == socket.AF_INET6
        else f"tcp://{address[0]}:{address[1]}"
    )


@pytest.mark.parametrize("form", ENDPOINTS)
def test_zeromq_listens_where_it_is_told_and_is_reached(form: str, tmp_path: Path) -> None:
    with zmq.Context() as context, context.socket(zmq.PULL) as pull, context.socket(zmq.PUSH) as push:
        listener = sockets.bind(context, pull, _endpoint(form, tmp_path), "x")
        sockets.connect(push, listener.endpoint)
        push.setsockopt(zmq.LINGER, 0)
        push.send(b"hello")
        assert pull.poll(10_000)
        assert pull.recv() == b"hello"
        listener.forget()
    assert not (tmp_path / "door").exists()


def test_the_file_of_one_that_was_killed_is_taken_over(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/door"
    code = f"from edge_runtime import sockets; sockets.listen({endpoint!r}, 'x'); import os; os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code], check=False)
    assert (tmp_path / "door").is_socket()
    assert not sockets.answers(endpoint)
    sockets.listen(endpoint, "x").close()
    assert not (tmp_path / "door").exists()


def test_of_many_who_come_at_once_to_a_dead_file_one_gets_it(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/door"
    for _ in range(20):
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(f"{tmp_path}/door")
        got: list[sockets.Listener] = []
        refused: list[HeldError] = []

        def come(got: list[sockets.Listener] = got, refused: list[HeldError] = refused) -> None:
            try:
                got.append(sockets.listen(endpoint, "x"))
            except HeldError as error:
                refused.append(error)

        threads = [threading.Thread(target=come) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(got), len(refused)) == (1, 7)
        assert sockets.answers(endpoint)
        got[0].close()


def test_what_is_no_socket_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(ConfigError, match="is there already, and no socket"):
        sockets.listen(f"ipc://{tmp_path}/notes", "x")
    assert (tmp_path / "notes").read_text() == "mine"


def test_another_s_file_in_our_place_is_left_alone(tmp_path: Path) -> None:
    listener = sockets.listen(f"ipc://{tmp_path}/door", "x")
    (tmp_path / "door").unlink()
    with sockets.listen(f"ipc://{tmp_path}/door", "x").socket:
        listener.close()
        assert (tmp_path / "door").is_socket()


def test_mode_and_group_are_as_told_whatever_the_umask(tmp_path: Path) -> None:
    own = grp.getgrgid(os.getgroups()[0] if os.getgroups() else os.getgid())
    before = os.umask(0o077)
    try:
        for mode in (0o600, 0o660, 0o666):
            listener = sockets.listen(f"ipc://{tmp_path}/door", "x", mode, own.gr_name)
            found = (tmp_path / "door").stat()
            assert (stat.S_IMODE(found.st_mode), found.st_gid) == (mode, own.gr_gid)
            listener.close()
    finally:
        os.umask(before)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("ipc:///nowhere/at/all", "No such file or directory"),
        ("tcp://192.0.2.1:5560", "is it an address of this host"),
        ("tcp://name.invalid:5560", "choose another address"),
        ("tcp://eth99:5560", "choose another address"),
        ("tcp://127.0.0.1:99999", "from 1 to 65535"),
    ],
)
def test_what_cannot_be_had_is_one_line(address: str, words: str) -> None:
    with pytest.raises(ConfigError, match=rf"^[^\n]*{words}[^\n]*$"):
        sockets.listen(address, "x")


def test_a_group_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no group 'nobody-has-it'"):
        sockets.listen(f"ipc://{tmp_path}/door", "x", 0o660, "nobody-has-it")
    with pytest.raises(ConfigError, match="an abstract socket has no group"):
        sockets.listen("ipc://@x", "x", 0o660, grp.getgrgid(os.getgid()).gr_name)
