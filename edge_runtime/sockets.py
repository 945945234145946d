"""Bind a ZeroMQ socket, or say in one line why that cannot be."""

from __future__ import annotations

from typing import Any

import zmq

from edge_runtime.errors import ConfigError


def bind(context: zmq.Context[Any], socket: zmq.Socket[Any], address: str, setting: str) -> str:
    """Bind `socket` and give the endpoint it really has (a port `*` is chosen by the system).

    Raises ConfigError naming `setting`, with `context` and all its sockets closed, if the address cannot be had.
    """
    try:
        socket.bind(address)
    except zmq.ZMQError as error:
        context.destroy(linger=0)
        raise ConfigError(
            f"{setting} {address}: {error.strerror}; is another runtime running? choose another address"
        ) from None
    return socket.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")
