"""`edge-runtime bundle install|rollback|list|status`: the bundles that are installed on this device."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from edge_runtime.slots import Slot, Slots, State

_slots = click.option(
    "--slots",
    "folder",
    type=click.Path(path_type=Path),
    required=True,
    envvar="EDGE_RUNTIME_SLOTS",
    show_envvar=True,
    help='The folder that the configuration names: bundle = "slot:FOLDER".',
)


@click.command()
@click.argument("name", metavar="BUNDLE")
@_slots
@click.option(
    "--key",
    "keys",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Trusted public key (PEM) or a folder of them; may be repeated.  [default: /etc/edge-runtime/trust.d]",
)
@click.option("--allow-unsigned", is_flag=True, help="Accept a bundle without a signature.")
@click.option("--downgrade", is_flag=True, help="Take a version that is not above the current one, or that was bad.")
@click.option(
    "--trial",
    "seconds",
    type=click.FloatRange(0, min_open=True),
    default=30.0,
    show_default=True,
    help="Seconds in which it must prove itself.",
)
@click.option("--latency-ms", type=click.FloatRange(0, min_open=True), help="What 99 % of its decisions may take.")
@click.option(
    "--shadow", "shadow_s", type=click.FloatRange(0), default=0.0, help="Seconds to run beside the current one first."
)
@click.option(
    "--agreement",
    type=click.FloatRange(0, 1),
    default=0.9,
    show_default=True,
    help="Part of the decisions beside the current one that must be the same.",
)
def install(
    name: str,
    folder: Path,
    keys: tuple[Path, ...],
    allow_unsigned: bool,
    downgrade: bool,
    seconds: float,
    latency_ms: float | None,
    shadow_s: float,
    agreement: float,
) -> None:
    """Verify BUNDLE and put it beside the one that runs, to take its place on trial.

    A service whose configuration says bundle = "slot:FOLDER" takes over without a pause. What does not
    prove itself within the trial is bad, and the one before is back.
    """
    from edge_runtime.bundles import bundle_path
    from edge_runtime.infer.rehearsal import rehearse
    from edge_runtime.signing_keys import trusted
    from edge_runtime.slots import Slots, Trial

    trial = Trial(seconds, latency_ms, shadow_s, agreement)
    slots = Slots(folder.absolute())
    slot = slots.install(bundle_path(name), trusted(keys), allow_unsigned, trial, downgrade, rehearse)
    then = "runs beside the current one first" if slots.read().shadow is not None else f"is on trial for {seconds:g} s"
    click.echo(f"{slot.name} {slot.version} is installed in {slots.path(slot)}; it {then}")


@click.command()
@_slots
def rollback(folder: Path) -> None:
    """Go back to the bundle before; the current one is bad from then on."""
    from edge_runtime.slots import Slots

    current = Slots(folder.absolute()).roll_back().current
    assert current is not None
    click.echo(f"{current.name} {current.version} is current")


@click.command("list")
@_slots
def list_slots(folder: Path) -> None:
    """List what is installed: the current one first."""
    from edge_runtime.slots import Slots

    slots = Slots(folder.absolute())
    for slot in slots.read().slots:
        click.echo(f"{slot.state:<7} {slot.name} {slot.version} {slot.digest[:16]} {slots.path(slot)}")


@click.command()
@_slots
@click.option("--json", "as_json", is_flag=True, help="Print the state as it is.")
def status(folder: Path, as_json: bool) -> None:
    """Tell which bundle runs, which it would go back to, how the trial stands, and what became of those before."""
    import msgspec

    from edge_runtime.slots import Slots

    slots = Slots(folder.absolute())
    state = slots.read()
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(state), indent=2))
        return
    click.echo(f"current  {_told(slots, state.current)}")
    click.echo(f"{'beside it' if state.shadow else 'other'}    {_told(slots, state.other)}")
    for line in _trial(state):
        click.echo(line)
    for event in state.events[-10:]:
        click.echo(f"  {event.time} {event.version} {event.what}{f': {event.reason}' if event.reason else ''}")


def _told(slots: Slots, slot: Slot | None) -> str:
    if slot is None:
        return "none"
    signed = f"signed by {slot.signed_by}" if slot.signed_by else "not signed"
    reason = f" ({slot.reason})" if slot.reason else ""
    return f"{slot.state}{reason}: {slot.name} {slot.version}, {signed}, installed {slot.installed}, {slots.path(slot)}"


def _trial(state: State) -> list[str]:
    if state.current is not None and state.current.state == "pending":
        return [f"trial    {state.trial.seconds:g} s from when a service decides with it; started {state.starts} times"]
    return []
