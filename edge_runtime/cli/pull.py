"""`edge-runtime bundle pull`: the newest bundle of a fleet's repository."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_runtime.cli.slots import slots_option, trial_of, trial_options, trust_options, what_next

if TYPE_CHECKING:
    from edge_runtime.bundle import Bundle
    from edge_runtime.fleet.offers import Device, Offer
    from edge_runtime.fleet.pull import Check
    from edge_runtime.slots import Slot

ROOT = Path("/etc/edge-runtime/fleet/root.json")
MACHINE_ID = Path("/etc/machine-id")


@click.command()
@click.option(
    "--repo",
    "url",
    required=True,
    envvar="EDGE_RUNTIME_REPO",
    show_envvar=True,
    help="URL of the TUF repository that `build-engines publish` made.",
)
@click.option(
    "--root",
    type=click.Path(path_type=Path),
    default=ROOT,
    show_default=True,
    envvar="EDGE_RUNTIME_FLEET_ROOT",
    show_envvar=True,
    help="The repository's root metadata, brought here by a way you trust. Newer ones are followed from it on.",
)
@slots_option
@trust_options
@click.option("--name", help="Name of the bundle.  [default: that of the installed one, or the only one there is]")
@click.option(
    "--device-id",
    help="What says which share of the fleet this device is in; it is not sent.  [default: from /etc/machine-id]",
)
@click.option("--machine", help="Kind of machine, as publishers name it.  [default: that of the system, e.g. aarch64]")
@click.option("--compute", help="Compute capability of the GPU, e.g. 8.7.  [default: asked of the driver, if needed]")
@click.option("--plain-http", is_flag=True, help="Take http:// from another host: who listens sees what is fetched.")
@trial_options
def pull(
    url: str,
    root: Path,
    folder: Path,
    keys: tuple[Path, ...],
    allow_unsigned: bool,
    name: str | None,
    device_id: str | None,
    machine: str | None,
    compute: str | None,
    plain_http: bool,
    **asked: float | None,
) -> None:
    """Install the newest bundle that the fleet's repository has for this device, as `bundle install` does.

    What is on the device already is not fetched again. Where there is nothing newer, nothing happens.
    """
    from edge_runtime.errors import UserError

    try:
        from edge_runtime.fleet.fetcher import check_url
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] not in ("tuf", "securesystemslib"):
            raise
        raise UserError("pull needs python-tuf; pip install 'edge-runtime[updates]'") from None
    from edge_runtime.fleet.offers import Device
    from edge_runtime.fleet.pull import MAX_ROOT_BYTES, pull
    from edge_runtime.infer.rehearsal import rehearse
    from edge_runtime.signing_keys import read_trusted, trusted
    from edge_runtime.slots import Slots

    check_url(url, plain_http)
    try:
        pinned = read_trusted(root, "root", MAX_ROOT_BYTES)
    except OSError as error:
        raise UserError(
            f"root {root}: cannot be read ({error.strerror}); copy the repository's metadata/1.root.json there, by a "
            "way you trust"
        ) from None
    slots = Slots(folder.absolute())
    trust = trusted(keys)

    def device(offers: Mapping[str, Offer]) -> Device:
        asks = any(offer.compute for offer in offers.values())
        return Device(
            device_id or _machine_id(),
            machine or platform.machine(),
            compute if compute is not None else _compute() if asks else "",
        )

    def install(source: Path, check: Check) -> Slot:
        def both(bundle: Bundle) -> None:
            check(bundle)
            rehearse(bundle)

        return slots.install(source, trust, allow_unsigned, lambda bundle: trial_of(bundle, asked), check=both)

    pulled = pull(url, pinned, slots, device, install, name)
    if pulled.slot is None:
        current = slots.read().current
        has = f"{current.name} {current.version} is current" if current else "nothing is installed"
        click.echo(f"nothing newer for this device; {has} ({pulled.received / 1e3:.1f} kB came)")
        return
    slot = pulled.slot
    click.echo(
        f"{slot.name} {slot.version} is installed in {slots.path(slot)} ({pulled.received / 1e6:.3f} MB came); "
        f"it {what_next(slots)}"
    )


def _machine_id() -> str:
    from edge_runtime.errors import UserError
    from edge_runtime.plain_file import read_plain

    try:
        found = read_plain(MACHINE_ID, 4096).decode("ascii", "replace").strip()
    except OSError:
        found = ""
    if not found:
        raise UserError(f"pull: {MACHINE_ID} says nothing; say --device-id, the same each time")
    return found


def _compute() -> str:
    from edge_runtime.cuda import CudaUnavailable, open_cuda

    try:
        cuda = open_cuda()
    except CudaUnavailable:
        return ""
    try:
        return cuda.info().compute
    finally:
        cuda.close()
