"""`build-engines publish`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from build_engines.publish import RoleName

_PATH = click.Path(path_type=Path)


@click.command("publish")
@click.argument("bundle", required=False)
@click.option("--repo", type=_PATH, required=True, help="Folder of the TUF repository; made where it is not there.")
@click.option("--keys", "folder", type=_PATH, required=True, help="Folder of its keys; made with the repository.")
@click.option("--machine", "machines", multiple=True, help="Kind of machine that BUNDLE is for.  [default: all]")
@click.option("--compute", multiple=True, help="Compute capability that BUNDLE is for, e.g. 8.7.  [default: all]")
@click.option(
    "--rollout",
    type=click.IntRange(0, 100),
    default=100,
    show_default=True,
    help="Percentage of the devices that may have it.",
)
@click.option("--trust", "trusted_keys", multiple=True, type=_PATH, help="Public key (PEM) that BUNDLE is signed with.")
@click.option("--allow-unsigned", is_flag=True, help="Publish a bundle without a signature.")
@click.option("--refresh", is_flag=True, help="Sign snapshot and timestamp anew, for which their keys are enough.")
@click.option(
    "--rotate",
    "role",
    type=click.Choice(["root", "targets", "snapshot", "timestamp"]),
    help="Put a new key in the place of this one; needs root's.",
)
def publish_command(
    bundle: str | None,
    repo: Path,
    folder: Path,
    machines: tuple[str, ...],
    compute: tuple[str, ...],
    rollout: int,
    trusted_keys: tuple[Path, ...],
    allow_unsigned: bool,
    refresh: bool,
    role: RoleName | None,
) -> None:
    """Offer BUNDLE (a directory, a .tar, or shipped:NAME) to a fleet: in a TUF repository, from which devices take it
    with `edge-runtime bundle pull`.

    The same bundle again changes who may have it: --rollout 10 first, 100 when it has proven itself, 0 to stop.
    """
    from edge_runtime.errors import ConfigError, UserError

    try:
        import tuf  # noqa: F401
    except ModuleNotFoundError:
        raise UserError("publish needs python-tuf; pip install 'edge-runtime[updates]'") from None
    from build_engines.publish import Publisher
    from edge_runtime.bundle import open_bundle
    from edge_runtime.bundles import bundle_path
    from edge_runtime.signing_keys import trusted

    if (bundle is not None) + refresh + (role is not None) != 1:
        raise ConfigError("publish: say one of BUNDLE, --refresh and --rotate")
    publisher = Publisher(repo, folder)
    if role is not None:
        publisher.rotate(role)
        click.echo(f"{repo}: {role} has a new key, in {folder}")
    elif bundle is None:
        publisher.refresh()
        click.echo(f"{repo}: snapshot and timestamp are signed anew")
    else:
        # Opened first: what is refused makes no repository.
        opened = open_bundle(bundle_path(bundle), trusted(trusted_keys), allow_unsigned)
        if not publisher.exists():
            publisher.create()
            click.echo(
                f"{repo}: made; its keys are in {folder}: those of root and targets belong off line, and a copy safe"
            )
            click.echo(f"{publisher.root_file} goes to the devices, by a way you trust")
        offer = publisher.publish(opened, machines, compute, rollout)
        whom = ", ".join([*machines, *(f"compute capability {one}" for one in compute)]) or "all machines"
        click.echo(f"{repo}: {offer.name} {offer.version} for {whom}, {rollout} % of the devices")
    for line in publisher.expiring():
        click.echo(f"{repo}: {line}", err=True)
