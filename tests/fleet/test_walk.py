"""docs/updates.md as it is written: build, publish, pull on a device whose service runs; one that fails its trial is
rolled back, and the next one is good.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from build_engines.write_bundle import write_bundle
from edge_runtime import signing_keys
from edge_runtime.bundle import open_bundle, sign_bundle
from edge_runtime.cli import commands, run_command
from edge_runtime.cli import pull as pull_command
from edge_runtime.fleet.offers import Device, Offer
from edge_runtime.slots import TRIAL, Slots
from tests import tiny
from tests.build_engines.calling import call
from tests.conftest import tiny_config
from tests.fleet.conftest import Server
from tests.test_slot_keeper import HEARTBEAT_MS, Home

PAGE = Path(__file__).parents[2] / "docs" / "updates.md"
FAIR = b'{"seconds": 0.6, "latency_ms": 5000}'
UNMET = b'{"seconds": 0.6, "latency_ms": 0.001}'


def blocks() -> list[list[list[str]]]:
    """The commands of each shell block in the section on fleets, as words."""
    section = PAGE.read_text(encoding="utf-8").split("## A fleet\n")[1].split("### Beside")[0]
    bodies = [part.split("```")[0] for part in section.split("```sh\n")[1:]]
    lines = ([shlex.split(line, comments=True) for line in body.splitlines()] for body in bodies)
    return [[words for words in block if words] for block in lines]


class Walk:
    """The machine that builds, in its working directory, and a device below `device`, whose `/` that is."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, serve: Callable[[Path], Server]) -> None:
        self.device = folder / "device"
        self.slots = Slots(self.device / "var/lib/edge-runtime/car/slots")
        self.trials: list[tuple[str, bytes]] = []
        """Version and trial of the bundles that are to be built."""
        self._patch = patch
        self._server: Server | None = None
        self._serve = serve
        patch.chdir(folder)
        patch.setattr(signing_keys, "TRUST_FOLDER", self.device / "etc/edge-runtime/trust.d")
        patch.setattr(pull_command, "MACHINE_ID", self.device / "etc/machine-id")
        patch.setenv("EDGE_RUNTIME_FLEET_ROOT", str(self.device / "etc/edge-runtime/fleet/root.json"))
        (self.device / "etc").mkdir(parents=True)
        (self.device / "etc/machine-id").write_text("1f3a\n")

    def run(self, block: list[list[str]]) -> None:
        for words in block:
            assert self._run(words) == 0, words

    def _run(self, words: list[str]) -> int:
        match words:
            case ["edge-runtime", *arguments]:
                return run_command(commands, [self._there(word) for word in arguments])
            case ["build-engines", "run", _, "--key", key]:
                # Training has tests of its own: what it leaves is put there.
                version, trial = self.trials.pop(0)
                policy = tiny.DecisionPolicy("stop", heartbeat_ms=HEARTBEAT_MS)
                tiny.write_bundle(Path("plain"), version=version, policy=policy)
                plain = open_bundle(Path("plain"), allow_unsigned=True)
                files = {name: plain.read(name) for name in plain.manifest.files}
                write_bundle(Path("bundles/vehicle"), plain.manifest, {**files, TRIAL: trial})
                sign_bundle(Path("bundles/vehicle"), Path(key))
                return 0
            case ["build-engines", *arguments]:
                return call(self._patch, *arguments)
            case ["sudo", "install", "-D", "-m", "644", source, target]:
                place = self.device / target.lstrip("/")
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, place)
                return 0
        raise AssertionError(f"no part of the walk: {words}")

    def _there(self, word: str) -> str:
        if word.startswith("https://updates.example/"):
            self._server = self._server or self._serve(Path.cwd())
            return word.replace("https://updates.example", self._server.url)
        return str(self.device / word.lstrip("/")) if word.startswith("/var/lib/") else word


def test_the_walk(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    serve: Callable[[Path], Server],
    capsys: pytest.CaptureFixture[str],
) -> None:
    build, trust, pull, next_version, renew = blocks()
    walk = Walk(tmp_path, monkeypatch, serve)
    walk.trials = [("1.0.0", FAIR), ("1.1.0", UNMET), ("1.2.0", FAIR)]
    walk.run(build)
    walk.run(trust)
    walk.run(pull)
    assert "pending: tiny 1.0.0, signed by plant" in capsys.readouterr().out
    config = tiny_config(Path(f"slot:{walk.slots.folder}"))
    with (home := Home(walk.slots, config)).living():
        home.settle(("1.0.0", "good"))

        tenth, everybody = next_version[:-1], next_version[-1:]
        assert Device("1f3a", "m").place(Offer("tiny", "1.1.0", {})) > 10, "this device is not among the first"
        walk.run(tenth)
        walk.run(pull[:1])
        assert "nothing newer for this device; tiny 1.0.0 is current" in capsys.readouterr().out
        walk.run(everybody)
        walk.run(pull[:1])
        assert "tiny 1.1.0 is installed" in capsys.readouterr().out
        home.settle(("1.0.0", "good"), ("1.1.0", "bad"))
        assert "0.001 ms are allowed" in home.reason()
        walk.run(pull)
        said = capsys.readouterr().out
        assert "nothing newer" in said and "bad (its latency is" in said

        walk.run(next_version)
        walk.run(renew)
        walk.run(pull)
        assert "tiny 1.2.0 is installed" in capsys.readouterr().out
        home.settle(("1.2.0", "good"), ("1.0.0", "good"))
    assert home.vehicle.statuses[-1].conserved
    assert home.vehicle.subscriber.lost == 0
