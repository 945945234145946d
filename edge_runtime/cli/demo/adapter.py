"""A runtime with a CAN adapter beside it, where there is no CAN: python-can's virtual bus is one for each process.

python -m edge_runtime.cli.demo.adapter CONFIG SOCKET BUS: frames of Linux (`struct can_frame`), a datagram each, that
come to the Unix socket SOCKET go onto the virtual bus BUS.
"""

from __future__ import annotations

import socket
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from edge_runtime.runtime import Runtime


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("place", type=click.Path(path_type=Path))
@click.argument("bus")
def adapter(config: Path, place: Path, bus: str) -> int:
    """Run CONFIG until stopped, and forward frames meanwhile."""
    from edge_runtime.cli.run import serve
    from edge_runtime.config import load_config

    taken = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    taken.bind(str(place))

    def begin(runtime: Runtime) -> None:
        threading.Thread(target=_forward, args=(taken, bus), name="can adapter", daemon=True).start()

    return serve(lambda: load_config(config), False, begin)


def _forward(taken: socket.socket, channel: str) -> None:
    import can

    from edge_runtime.world.buses import FRAME

    with can.Bus(interface="virtual", channel=channel) as bus:
        while frame := taken.recv(FRAME.size):
            number, length, data = FRAME.unpack(frame)
            bus.send(can.Message(arbitration_id=number, data=data[:length], is_extended_id=False))


if __name__ == "__main__":
    from edge_runtime.cli import run_command

    sys.exit(run_command(adapter))
