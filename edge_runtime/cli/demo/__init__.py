"""`edge-runtime demo`: a whole vehicle or home on one machine, with everything around it as it would be there."""

from __future__ import annotations

from pathlib import Path

import click

TOWN, HOME, VEHICLE = "town", "home", "vehicle"


@click.command()
@click.argument("what", default=TOWN, type=click.Choice([TOWN, HOME, VEHICLE]))
@click.option("--seconds", default=60.0, show_default=True, type=click.FloatRange(5, 600), help="How long, at least.")
@click.option("--seed", default=1, show_default=True, type=click.IntRange(0), help="Which town, traffic and weather.")
@click.option(
    "--unplug",
    multiple=True,
    type=click.Choice(["camera", "range", "text"]),
    help="Pull this input's plug after 20 s; may be repeated. In the town only.",
)
@click.option(
    "--pack",
    type=click.Path(path_type=Path, file_okay=False),
    help="Made by `voice fetch`: home and vehicle are spoken to, by espeak-ng or flite.",
)
@click.option(
    "--keep",
    type=click.Path(path_type=Path, file_okay=False),
    help="New folder for the configuration and all else that home and vehicle write.",
)
def demo(what: str, seconds: float, seed: int, unplug: tuple[str, ...], pack: Path | None, keep: Path | None) -> None:
    """Show a whole application on this machine, and end by itself.

    town: the built-in town, driven by the shipped vehicle bundle over ZeroMQ. vehicle: the same, its senses on a CAN
    bus and at gpsd, its decisions for holders of keys only, recorded and decided again. home: rooms' sensors and
    decisions over an MQTT broker as Home Assistant has it, a film as the camera, a page to look at and figures for
    Prometheus. What home and vehicle show is checked: exit code 3 if anything of it was not seen.
    """
    if what == TOWN:
        if pack is not None or keep is not None:
            raise click.UsageError("--pack and --keep are for `demo home` and `demo vehicle`")
        from edge_runtime.cli.demo.town import show_town

        show_town(seconds, seed, unplug)
        return
    if unplug:
        raise click.UsageError("--unplug is for `demo town`")
    from edge_runtime.cli.demo.around import place

    with place(keep) as folder:
        if what == HOME:
            from edge_runtime.cli.demo.home import show_home

            show_home(folder, seconds, pack)
        else:
            from edge_runtime.cli.demo.vehicle import show_vehicle

            show_vehicle(folder, seconds, seed, pack)
