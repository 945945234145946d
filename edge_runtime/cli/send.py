"""`edge-runtime send`: one sentence or one set of sensor values into a running runtime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

SEND_TIMEOUT_MS = 2000


@click.group()
def send() -> None:
    """Send one input to a running runtime."""


_keys = click.option("--keys", type=click.Path(path_type=Path, dir_okay=False), help="This client's file of keys.")
_connect = click.option(
    "--connect", default="tcp://127.0.0.1:5561", show_default=True, help="Where the runtime takes inputs."
)


@send.command()
@click.argument("sentence")
@click.option("--stream", default="text", show_default=True)
@click.option("--lang", help="Language tag, e.g. en or zh.")
@_connect
@_keys
def text(sentence: str, stream: str, lang: str | None, connect: str, keys: Path | None) -> None:
    """Send SENTENCE."""
    message = {"schema": 1, "stream": stream, "text": sentence}
    _push(connect, message if lang is None else message | {"lang": lang}, keys)


@send.command()
@click.argument("values", nargs=-1, required=True, metavar="CHANNEL=VALUE...")
@click.option("--stream", default="sensors", show_default=True)
@_connect
@_keys
def sensor(values: tuple[str, ...], stream: str, connect: str, keys: Path | None) -> None:
    """Send sensor values, each in its channel's unit, as CHANNEL=VALUE."""
    _push(connect, {"schema": 1, "stream": stream, "values": dict(_pair(item) for item in values)}, keys)


def _pair(item: str) -> tuple[str, float]:
    channel, _, value = item.partition("=")
    try:
        return channel, float(value)
    except ValueError:
        raise click.BadParameter(f"{item!r}: expected CHANNEL=NUMBER, e.g. co2_ppm=415") from None


def _stamp(connect: str) -> dict[str, Any]:
    """When the input was made: by the clock that all processes of this host share, or by the wall clock, for another
    host's runtime that was told that the clocks agree."""
    from edge_runtime import endpoints
    from edge_runtime.clock import RealClock, rfc3339

    clock = RealClock()
    if endpoints.is_local(endpoints.parse(connect)):
        return {"captured_ns": clock.now_ns()}
    return {"captured_wall": rfc3339(clock.wall_ns())}


def _push(connect: str, message: dict[str, Any], keys: Path | None) -> None:
    import zmq

    from edge_runtime import sockets
    from edge_runtime.errors import UserError

    stamp = _stamp(connect)
    with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
        socket.setsockopt(zmq.LINGER, SEND_TIMEOUT_MS)
        try:
            with socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED) as events:
                sockets.connect(socket, connect, keys)
                # Without a runtime at the other end that takes it the command fails, so that nobody believes it
                # arrived.
                answered = events.poll(SEND_TIMEOUT_MS)
                socket.disable_monitor()
            if not answered:
                socket.setsockopt(zmq.LINGER, 0)
                hint = "give --keys where it asks for some" if keys is None else "it may not take these keys"
                raise UserError(f"send: no runtime takes inputs at {connect}; start one, give --connect; {hint}")
            socket.send(json.dumps(message | stamp, ensure_ascii=False).encode())
        except zmq.ZMQError as error:
            raise UserError(f"send: {connect}: {error.strerror}") from None
