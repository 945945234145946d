"""The frame path with everything on beside everything off, and MQTT by itself, alternating in one run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.live import PROCESS, Heard, run_live
from benchmarks.results import Judged, Machine, budgets, tell, write_results
from benchmarks.variants import Measured, Run, measure, plot
from benchmarks.watchers import Watch
from benchmarks.workload import DEFAULT_PICTURES, FRAME_HZ, Play, size_of
from edge_runtime.bundles import bundle_path
from edge_runtime.cli.demo.around import answers, free_port, open_to_this_host, program, running, wait_until
from edge_runtime.errors import UserError
from edge_runtime.kinds.audio import SAMPLE_RATE
from edge_runtime.wav import write_wav

OFF, MQTT, ON = "everything off", "MQTT", "everything on"
METHOD = (
    "As `latency`, the staged runtime alone. Everything on: the page is looked at, figures are scraped every 5 s, "
    "a broker (mosquitto) takes decisions and a client hears them, a viewer of Foxglove's takes every channel, all is "
    "recorded to disk, and a voice source listens to a room in which nobody speaks. Broker and watchers are processes "
    "of their own on the same machine, with what processor time is left (nice 19); processor time and memory are the "
    "runtime's, without the process that listens. The first frame comes once all has started. Ratios are to "
    "everything off."
)
SETTLE_S = 4.0
"""A recogniser's weights take their time to be read."""


class Site:
    """A bundle, and what stands around its runtime."""

    def __init__(self, bundle: str, folder: Path, pack: Path | None) -> None:
        """Raises UserError where mosquitto is not installed."""
        self._mosquitto = program("mosquitto", "mosquitto")
        self._bundle = str(bundle_path(bundle))
        self._folder = folder
        self._pack = pack
        self.seen: Counter[str] = Counter()
        """What watchers have seen, all rounds together."""

    def off(self, size: str, frames: int) -> Heard:
        """Nothing but the subscriber."""
        return run_live(PROCESS, self._play(size, frames))

    def mqtt(self, size: str, frames: int) -> Heard:
        """Decisions go to a broker, too."""
        with self._broker() as port, self._watched(Watch(broker=port)):
            return run_live(PROCESS, self._play(size, frames, _mqtt(port)))

    def on(self, size: str, frames: int) -> Heard:
        """Everything that a service may have, looked at."""
        page, figures, foxglove = free_port(), free_port(), free_port()
        recording = self._folder / "drive.mcap"
        with self._broker() as port, self._watched(Watch(page, figures, foxglove, port)):
            rows = [
                _mqtt(port),
                f'[[sink]]\nkind = "dashboard"\nbind = "tcp://127.0.0.1:{page}"\n',
                f'[[sink]]\nkind = "metrics"\nbind = "tcp://127.0.0.1:{figures}"\n',
                f'[[sink]]\nkind = "foxglove"\nbind = "tcp://127.0.0.1:{foxglove}"\n',
                f'[[sink]]\nkind = "recording"\npath = "{recording}"\n',
            ]
            play = self._play(size, frames, "\n".join(rows), self._listening(SETTLE_S + frames / FRAME_HZ))
            heard = run_live(PROCESS, play)
        for file in self._folder.glob("drive*.mcap"):
            file.unlink()
        return heard

    def _play(self, size: str, frames: int, sinks: str = "", sources: str = "source = []") -> Play:
        beside = None
        if sinks:
            config = self._folder / "beside.toml"
            text = f'name = "benchmark"\nbundle = "{self._bundle}"\n{sources}\n{sinks}\n'
            config.write_text(text, encoding="utf-8")
            beside = str(config)
        return Play(self._bundle, f"ipc://{self._folder}/decisions", frames, size, settle_s=SETTLE_S, beside=beside)

    def _listening(self, seconds: float) -> str:
        """A room for as long as the drive takes."""
        file = self._folder / "room.wav"
        noise = np.random.default_rng(0).standard_normal(round(seconds * SAMPLE_RATE)) * 30
        write_wav(file, noise.astype(np.int16))
        how = 'recogniser = "wyoming"' if self._pack is None else f'pack = "{self._pack.absolute()}"'
        grammar = 'grammar = "shipped:vehicle"'
        return f'[[source]]\nkind = "voice"\nstream = "text"\npath = "{file}"\n{grammar}\n{how}\n'

    @contextmanager
    def _broker(self) -> Iterator[int]:
        port = free_port()
        config, log = self._folder / "mosquitto.conf", self._folder / "mosquitto.log"
        config.write_text(open_to_this_host(port), encoding="utf-8")
        with running(["nice", "-n", "19", self._mosquitto, "-c", str(config)], log) as process:
            wait_until(lambda: answers(port), f"mosquitto, {log}", process)
            yield port

    @contextmanager
    def _watched(self, watch: Watch) -> Iterator[None]:
        """Raises UserError at the end if one of them has seen nothing: then nothing was measured."""
        command = [sys.executable, "-m", "benchmarks.watchers", msgspec.json.encode(watch).decode()]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                yield
            finally:
                process.terminate()
            said, _ = process.communicate()
        seen = Counter(json.loads(said or "{}"))
        names = {"page": "views", "figures": "scrapes", "foxglove": "foxglove", "broker": "mqtt"}
        if blind := [name for field, name in names.items() if getattr(watch, field) is not None and not seen[name]]:
            raise UserError(
                f"everything: nobody has seen {', '.join(blind)}; is a round too short, the machine too full?"
            )
        self.seen += seen


def _mqtt(port: int) -> str:
    return f'[[sink]]\nkind = "mqtt"\nport = {port}\n'


@click.command()
@click.option("--bundle", default="shipped:vehicle", show_default=True)
@click.option("--pictures", default=DEFAULT_PICTURES, show_default=True, help="WIDTHxHEIGHT, or WIDTHxHEIGHT-raw.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1))
@click.option("--seconds", default=10.0, show_default=True, type=click.FloatRange(4), help="Per variant and round.")
@click.option(
    "--pack",
    type=click.Path(path_type=Path, file_okay=False),
    help="Made by `voice fetch`, for its memory; without it a recogniser that is asked nothing is elsewhere.",
)
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default=Path("runs/everything"), show_default=True
)
@click.option("--check", is_flag=True, help="Exit with code 3 if a figure breaks budgets.toml.")
def everything(
    bundle: str, pictures: str, rounds: int, seconds: float, pack: Path | None, out: Path, check: bool
) -> None:
    """Page, figures, MQTT, Foxglove, recording and voice on, beside the same runtime with all of it off."""
    size_of(pictures)
    machine = Machine()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="edge-runtime-everything-")))
        site = Site(bundle, folder, pack)
        variants: dict[str, Run] = {OFF: site.off, MQTT: site.mqtt, ON: site.on}
        measured = measure(variants, (pictures,), rounds, seconds)[pictures]
    figures = figures_of(measured)
    Console(width=120).print(table(pictures, figures))
    Console().print(f"watchers saw, all rounds together: {dict(site.seen)}")
    Console().print(machine.sentence())
    settings = {"bundle": bundle, "pictures": pictures, "rounds": rounds, "seconds": seconds, "pack": pack is not None}
    found = {"method": METHOD, "variants": figures, "seen": dict(site.seen)}
    write_results(out, "everything", found, plot({pictures: measured}), machine, settings)
    tell(judged(figures), check)


def figures_of(measured: dict[str, Measured]) -> dict[str, Any]:
    """Of each variant; ratios are to everything off."""
    off = measured[OFF]
    return {
        name: {
            "frames": len(item.latency),
            "p50_ms": item.median("p50"),
            "p99_ms": item.median("p99"),
            "cpu_ms": item.median("cpu_ms"),
            "memory_mb": item.facts["memory_mb"],
            "replaced": sum(found["replaced"] for found in item.rounds),
            "p50_ratio": item.median("p50") / off.median("p50"),
            "p99_ratio": item.median("p99") / off.median("p99"),
            "cpu_ratio": item.median("cpu_ms") / off.median("cpu_ms"),
            "rounds": item.rounds,
        }
        for name, item in measured.items()
    }


def judged(figures: dict[str, Any]) -> list[Judged]:
    """Both beside their limits."""
    return [
        Judged(f"{name}: {figure}", float(figures[name][figure]), limit)
        for name in (MQTT, ON)
        for figure, limit in budgets()["everything"].items()
    ]


def table(pictures: str, figures: dict[str, Any]) -> Table:
    shown = Table(title=f"{pictures}: capture to subscriber, ms, medians of rounds", title_justify="left")
    for column in ("variant", "frames", "p50", "p99", "CPU", "MiB", "replaced", "p50 / off", "p99 / off", "CPU / off"):
        shown.add_column(column, justify="left" if column == "variant" else "right")
    for name, figure in figures.items():
        cells = [f"{figure[key]:.2f}" for key in ("p50_ms", "p99_ms", "cpu_ms")]
        cells += [f"{figure['memory_mb']:.0f}", f"{figure['replaced']:.0f}"]
        cells += [f"{figure[key]:.2f}" for key in ("p50_ratio", "p99_ratio", "cpu_ratio")]
        shown.add_row(name, str(figure["frames"]), *cells)
    return shown
