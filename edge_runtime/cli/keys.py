"""`edge-runtime keys`: who may reach a runtime's endpoints from elsewhere, and what they may do there."""

from __future__ import annotations

from pathlib import Path

import click

_folder = click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
_client = click.option("--client", "name", help="A client's keys, instead of the runtime's own.")


@click.group()
def keys() -> None:
    """Keys for endpoints with `keys = FOLDER` in the configuration."""


@keys.command()
@_folder
@_client
@click.option("--send", multiple=True, metavar="STREAM", help="A stream that the client may send; * for all.")
@click.option("--receive", is_flag=True, help="The client may read decisions and status.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="The client's own file [NAME.key.toml].")
def generate(folder: Path, name: str | None, send: tuple[str, ...], receive: bool, out: Path | None) -> None:
    """Make FOLDER with the runtime's keys; with --client, one more client, and the file that it needs."""
    from edge_runtime import keyring

    if name is None:
        if send or receive or out is not None:
            raise click.UsageError("--send, --receive and --out belong to a --client")
        made = keyring.make_server(folder)
        click.echo(f"{made}: keep it secret\nclients are added by: edge-runtime keys generate {folder} --client NAME")
        return
    if not send and not receive:
        raise click.UsageError(f"--client {name}: give --send STREAM, --receive, or both")
    own = keyring.make_client(folder, name, send, receive, out or Path(f"{name}.key.toml"))
    click.echo(f"{own}: bring it to the client, and keep it nowhere else\n{folder}: lets it in within a second")


@keys.command()
@_folder
@_client
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="The client's own file [NAME.key.toml].")
@click.option("--finish", is_flag=True, help="The keys before are no longer good.")
def rotate(folder: Path, name: str | None, out: Path | None, finish: bool) -> None:
    """New keys; those before stay good until this is called again with --finish."""
    from edge_runtime import keyring

    if finish:
        keyring.finish_rotation(folder, name)
        click.echo(f"{folder}: the keys before are no longer good")
    elif name is None:
        click.echo(f"{keyring.rotate_server(folder)}: clients need this as their server_key, before --finish")
    else:
        own = keyring.rotate_client(folder, name, out or Path(f"{name}.key.toml"))
        click.echo(f"{own}: bring it to the client, then --finish")


@keys.command()
@_folder
@click.option("--client", "name", required=True, help="Whose key is no longer good.")
def revoke(folder: Path, name: str) -> None:
    """Let a client in no longer; a running runtime ends its connections within a second."""
    from edge_runtime import keyring

    keyring.remove_client(folder, name)
    click.echo(f"{folder}: {name} is let in no longer")


@keys.command(name="list")
@_folder
def list_clients(folder: Path) -> None:
    """Print the runtime's public key, and each client with what it may do."""
    from edge_runtime import keyring

    public, *before = keyring.public_keys(folder)
    click.echo(f"server  {public}" + "".join(f"\n  until --finish also {key}" for key in before))
    for client in sorted(set(keyring.read_clients(folder).values()), key=lambda one: one.name):
        rights = [f"send {', '.join(client.send)}"] * bool(client.send) + ["receive"] * client.receive
        click.echo(f"{client.name}  {'; '.join(rights) or 'nothing'}")
