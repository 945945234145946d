"""`edge-runtime bundle install|rollback|list|status`: the bundles that are installed on this device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from edge_runtime.bundle import Bundle
    from edge_runtime.slots import Slot, Slots, State, Trial

_Command = TypeVar("_Command", bound=Callable[..., Any])

slots_option = click.option(
    "--slots",
    "folder",
    type=click.Path(path_type=Path),
    required=True,
    envvar="EDGE_RUNTIME_SLOTS",
    show_envvar=True,
    help='The folder that the configuration names: bundle = "slot:FOLDER".',
)


_TRUST = (
    click.option(
        "--key",
        "keys",
        multiple=True,
        type=click.Path(path_type=Path),
        help="Trusted public key (PEM) or a folder of them; may be repeated.  [default: /etc/edge-runtime/trust.d]",
    ),
    click.option("--allow-unsigned", is_flag=True, help="Accept a bundle without a signature."),
)
_TRIAL = (
    click.option(
        "--trial",
        "seconds",
        type=click.FloatRange(0, min_open=True),
        help="Seconds in which it must prove itself.  [default: as its gate report says, else 30]",
    ),
    click.option(
        "--latency-ms",
        type=click.FloatRange(0, min_open=True),
        help="What 99 % of its decisions may take.  [default: as its gate report says]",
    ),
    click.option(
        "--rate",
        type=click.FloatRange(0, 1),
        help="Part of the messages that it must answer.  [default: as its gate report says, else 0.5]",
    ),
    click.option(
        "--shadow",
        "shadow_s",
        type=click.FloatRange(0),
        help="Seconds to run beside the current one first.  [default: as its gate report says, else 0]",
    ),
    click.option(
        "--agreement",
        type=click.FloatRange(0, 1),
        help="Part of the decisions beside the current one that must be the same.  "
        "[default: as its gate report says, else 0.9]",
    ),
)


def trust_options(command: _Command) -> _Command:
    """Whose bundles are taken: `keys`, `allow_unsigned`."""
    return reduce(lambda decorated, option: option(decorated), reversed(_TRUST), command)


def trial_options(command: _Command) -> _Command:
    """What is asked of the bundle in other words than its own: fields of `Trial`, or None."""
    return reduce(lambda decorated, option: option(decorated), reversed(_TRIAL), command)


def trial_of(bundle: Bundle, asked: Mapping[str, float | None]) -> Trial:
    """What its gate's report says, and where `asked` says otherwise, that. Raises BundleError."""
    import msgspec

    from edge_runtime.slots import stated_trial

    return msgspec.structs.replace(
        stated_trial(bundle), **{name: value for name, value in asked.items() if value is not None}
    )


@click.command()
@click.argument("name", metavar="BUNDLE")
@slots_option
@trust_options
@click.option("--downgrade", is_flag=True, help="Take a version that is not above the current one, or that was bad.")
@trial_options
def install(
    name: str, folder: Path, keys: tuple[Path, ...], allow_unsigned: bool, downgrade: bool, **asked: float | None
) -> None:
    """Verify BUNDLE and put it beside the one that runs, to take its place on trial.

    A service whose configuration says bundle = "slot:FOLDER" takes over without a pause. What does not
    prove itself within the trial is bad, and the one before is back.
    """
    from edge_runtime.bundles import bundle_path
    from edge_runtime.infer.rehearsal import rehearse
    from edge_runtime.signing_keys import trusted
    from edge_runtime.slots import Slots

    slots = Slots(folder.absolute())
    slot = slots.install(
        bundle_path(name),
        trusted(keys),
        allow_unsigned,
        lambda bundle: trial_of(bundle, asked),
        downgrade,
        rehearse,
    )
    click.echo(f"{slot.name} {slot.version} is installed in {slots.path(slot)}; it {what_next(slots)}")


def what_next(slots: Slots) -> str:
    """What becomes of the bundle that was just installed."""
    state = slots.read()
    return "runs beside the current one first" if state.shadow else f"is on trial for {state.trial.seconds:g} s"


@click.command()
@slots_option
def rollback(folder: Path) -> None:
    """Go back to the bundle before; the current one is bad from then on."""
    from edge_runtime.slots import Slots

    current = Slots(folder.absolute()).roll_back().current
    assert current is not None
    click.echo(f"{current.name} {current.version} is current")


@click.command("list")
@slots_option
def list_slots(folder: Path) -> None:
    """List what is installed: the current one first."""
    from edge_runtime.slots import Slots

    slots = Slots(folder.absolute())
    for slot in slots.read().slots:
        click.echo(f"{slot.state:<7} {slot.name} {slot.version} {slot.digest[:16]} {slots.path(slot)}")


@click.command()
@slots_option
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
