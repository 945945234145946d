"""`edge-runtime service`: the runtime as a systemd service, from the environment that it is installed in."""

from __future__ import annotations

import os
from pathlib import Path

import click

from edge_runtime.service import EXAMPLES


@click.group()
def service() -> None:
    """Run as a systemd service, `edge-runtime@NAME`."""


@service.command()
@click.argument("name")
@click.option(
    "--config", type=click.Path(path_type=Path, dir_okay=False), help="Copied to /etc/edge-runtime/NAME.toml."
)
@click.option(
    "--example",
    type=click.Choice(EXAMPLES),
    default=EXAMPLES[0],
    show_default=True,
    help="Put there where there is no configuration yet.",
)
@click.option("--start", is_flag=True, help="Start it too, and wait until it decides.")
def install(name: str, config: Path | None, example: str, start: bool) -> None:
    """Make NAME a service that starts with the machine. Installing again updates the unit, and keeps what you wrote."""
    from edge_runtime import service as systemd

    systemd.install(name, config, example, start, click.echo)


@service.command()
@click.argument("name")
@click.option("--purge", is_flag=True, help="Its configuration, engines and state too.")
def uninstall(name: str, purge: bool) -> None:
    """Stop NAME, and no longer start it."""
    from edge_runtime import service as systemd

    systemd.uninstall(name, purge, click.echo)


@service.command()
@click.argument("name")
def status(name: str) -> None:
    """What systemd says of NAME."""
    _become("status", name)


@service.command()
@click.argument("name")
@click.option("-f", "--follow", is_flag=True, help="Go on as more is said.")
def logs(name: str, follow: bool) -> None:
    """What NAME has said."""
    _become("logs", name, follow)


def _become(action: str, name: str, follow: bool = False) -> None:
    from edge_runtime import service as systemd
    from edge_runtime.errors import UserError

    line = systemd.command_of(action, name, follow)
    try:
        os.execvp(line[0], line)
    except OSError as error:
        raise UserError(f"service {action}: {line[0]}: {error.strerror}; systemd does not run this machine") from None
