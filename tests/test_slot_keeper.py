"""A running service and its slots: it takes over what is installed, and goes back from what does not prove itself."""

from __future__ import annotations

import itertools
import math
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from edge_runtime.bundle import sign_bundle
from edge_runtime.cli.run import Service
from edge_runtime.config import Config
from edge_runtime.errors import BundleError
from edge_runtime.runtime import Runtime
from edge_runtime.signing_keys import generate_keys
from edge_runtime.slots import Slots, Trial
from edge_runtime.wire import DecisionMessage
from tests import tiny
from tests.conftest import WAIT_S, tiny_config, wait_for
from tests.test_runtime import Vehicle

HEARTBEAT_MS = 1000.0
TRIAL = Trial(seconds=0.6, latency_ms=5000)
"""Short, and of no matter how slow the machine is."""


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """By name: `1`, `2` (decides alike), `other` (decides otherwise), `broken` (its engine gives no numbers)."""
    folder = tmp_path_factory.mktemp("bundles")
    policy = tiny.DecisionPolicy("stop", heartbeat_ms=HEARTBEAT_MS)
    for name, scale in (("1", 1.0), ("2", 1.0), ("other", -1.0), ("broken", math.nan)):
        version = "1.0.0" if name == "1" else "2.0.0"
        tiny.write_bundle(folder / name, scale=scale, version=version, policy=policy, description=name)
    return folder


class Home:
    """A service on slots, a camera, and a subscriber."""

    def __init__(self, slots: Slots, config: Config) -> None:
        self.slots = slots
        self.config = config
        self.answers: list[str | None] = []
        self.errors: list[BaseException] = []
        self.service = Service(lambda: self.config, self.answers.append)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self._dark = threading.Event()
        self._stop = threading.Event()
        self.sent = 0

    @property
    def runtime(self) -> Runtime:
        return self.service.runtime

    def install(self, source: Path, trial: Trial = TRIAL) -> None:
        self.slots.install(source, allow_unsigned=True, trial=lambda bundle: trial, downgrade=True)

    def told(self) -> list[tuple[str, str]]:
        return [(slot.version, slot.state) for slot in self.slots.read().slots]

    def settle(self, *told: tuple[str, str]) -> None:
        """Wait until that is the state of the slots and the current one decides."""

        def settled() -> bool:
            while (message := self.vehicle.subscriber.receive(0)) is not None:
                if isinstance(message, DecisionMessage):
                    self.vehicle.decisions.append(message)
                else:
                    self.vehicle.statuses.append(message)
            return self.told() == list(told) and self.vehicle.decisions[-1].bundle.version == told[0][0]

        wait_for(settled, f"slots to be {told}")

    def _run(self) -> None:
        try:
            self.service.run()
        except BaseException as error:
            self.errors.append(error)

    def _film(self) -> None:
        while not self._stop.wait(0.05):
            if not self._dark.is_set():
                self.vehicle.frame(200)
                self.sent += 1

    def cover(self) -> None:
        """No picture comes any more."""
        self._dark.set()

    @contextmanager
    def living(self) -> Iterator[Home]:
        self.thread.start()
        # A runtime that could not be started has no session.
        wait_for(lambda: hasattr(self.runtime, "_session") or bool(self.errors), "the start")
        if self.errors:
            raise self.errors[0]
        self.vehicle = Vehicle(self.runtime)
        camera = threading.Thread(target=self._film)
        camera.start()
        self.vehicle.decision(source="model")
        try:
            yield self
        finally:
            self._stop.set()
            camera.join()
            self.runtime.stop()
            self.thread.join(WAIT_S)
            while not (self.vehicle.statuses and self.vehicle.statuses[-1].state == "stopped"):
                self.vehicle.read()
            self.vehicle.close()
            assert not self.thread.is_alive()
        assert self.errors == []

    def reason(self) -> str:
        """Why the bad one is."""
        return next(slot.reason for slot in self.slots.read().slots if slot.state == "bad")


@pytest.fixture
def home(bundles: Path, tmp_path: Path) -> Home:
    """Version 1 is installed, and good."""
    return home_of(tmp_path, bundles / "1")


def home_of(folder: Path, *sources: Path) -> Home:
    slots = Slots(folder / "slots")
    for source in sources:
        slots.passed(slots.install(source, allow_unsigned=True, downgrade=True))
    return Home(slots, msgspec.structs.replace(tiny_config(folder), bundle=f"slot:{slots.folder}"))


def silences_ms(home: Home) -> list[float]:
    published = [message.published_ns for message in home.vehicle.decisions]
    return [(after - before) / 1e6 for before, after in itertools.pairwise(published)]


def test_a_running_service_takes_over_without_a_gap_and_without_losing_a_count(home: Home, bundles: Path) -> None:
    with home.living():
        for source, version, before in (("2", "2.0.0", "1.0.0"), ("1", "1.0.0", "2.0.0"), ("2", "2.0.0", "1.0.0")):
            home.install(bundles / source)
            home.settle((version, "good"), (before, "good"))
    versions = [version for version, _ in itertools.groupby(m.bundle.version for m in home.vehicle.decisions)]
    assert versions == ["1.0.0", "2.0.0", "1.0.0", "2.0.0"]
    assert home.vehicle.subscriber.lost == 0 and home.vehicle.subscriber.restarts == 0
    assert max(silences_ms(home)) < 10 * HEARTBEAT_MS, "nothing is opened or judged on the loop (figures: installs)"
    last = home.vehicle.statuses[-1]
    assert last.conserved and last.streams["camera"].captured == home.sent
    # On a busy machine a picture may come late, after a heartbeat too, or grow old on its way; nothing else is a
    # reason, a takeover least.
    since = list(itertools.dropwhile(lambda message: message.source == "safe", home.vehicle.decisions))
    reasons = {message.reason for message in since if message.reason is not None}
    assert reasons <= {"camera stale", "camera missing"}, "each decides from its first picture on"
    assert sum(message.source == "safe" for message in since) < len(since) / 4


def test_one_whose_engine_fails_is_left_at_once_and_the_reason_is_kept(home: Home, bundles: Path) -> None:
    with home.living():
        home.install(bundles / "broken", msgspec.structs.replace(TRIAL, seconds=60.0))
        home.settle(("1.0.0", "good"), ("2.0.0", "bad"))
        assert home.reason() == "engine: output not finite"
        home.vehicle.decision(source="model")
    assert home.vehicle.statuses[-1].conserved
    assert home.vehicle.subscriber.lost == 0


def test_one_that_is_too_slow_is_bad(home: Home, bundles: Path) -> None:
    with home.living():
        home.install(bundles / "2", Trial(seconds=0.6, latency_ms=0.001))
        home.settle(("1.0.0", "good"), ("2.0.0", "bad"))
    assert "0.001 ms are allowed" in home.reason()


def test_one_that_has_nothing_to_decide_on_has_not_proven_itself(home: Home, bundles: Path) -> None:
    with home.living():
        home.cover()
        home.vehicle.decision(source="safe")
        home.install(bundles / "2")
        home.settle(("1.0.0", "good"), ("2.0.0", "bad"))
    assert home.reason().startswith("it decided nothing by the model in 0.6 s: ")


def test_a_first_one_whose_camera_comes_late_is_good_once_it_has_proven_itself(bundles: Path, tmp_path: Path) -> None:
    slots = Slots(tmp_path / "slots")
    slot = slots.install(bundles / "1", allow_unsigned=True, trial=lambda bundle: TRIAL)
    slots.failed(slot, "it decided nothing by the model in 0.6 s: camera missing")
    home = Home(slots, msgspec.structs.replace(tiny_config(tmp_path), bundle=f"slot:{slots.folder}"))
    assert home.told() == [("1.0.0", "bad")]
    with home.living():
        home.settle(("1.0.0", "good"))
        home.install(bundles / "broken")
        home.settle(("1.0.0", "good"), ("2.0.0", "bad"))


@pytest.fixture
def strict(bundles: Path, tmp_path: Path) -> Home:
    """Takes signed bundles only; version 1 is one, and good."""
    secret, public = generate_keys(tmp_path / "plant")
    signed = Path(shutil.copytree(bundles / "1", tmp_path / "signed"))
    sign_bundle(signed, secret)
    home = home_of(tmp_path, signed)
    home.config = msgspec.structs.replace(home.config, trusted_keys=(str(public),), allow_unsigned=False)
    return Home(home.slots, home.config)


def test_one_that_cannot_be_opened_is_never_heard_and_decisions_go_on(strict: Home, bundles: Path) -> None:
    with strict.living() as home:
        home.install(bundles / "2")
        home.settle(("1.0.0", "good"), ("2.0.0", "bad"))
        assert "is not signed" in home.reason()
        home.vehicle.decision(source="model")
    assert {message.bundle.version for message in home.vehicle.decisions} == {"1.0.0"}
    assert max(silences_ms(home)) < 10 * HEARTBEAT_MS, "nothing is opened or judged on the loop (figures: installs)"


def test_one_that_cannot_be_started_gives_way_to_the_one_before(strict: Home, bundles: Path) -> None:
    strict.install(bundles / "2")
    home = Home(strict.slots, strict.config)
    with home.living():
        assert home.told() == [("1.0.0", "good"), ("2.0.0", "bad")]
    assert "is not signed" in home.reason()


def test_a_good_one_that_is_whole_no_more_gives_way_to_the_one_before(bundles: Path, tmp_path: Path) -> None:
    home = home_of(tmp_path, bundles / "1", bundles / "2")
    current = home.slots.read().current
    assert current is not None
    (home.slots.path(current) / "tokenizer.model").write_bytes(b"rot")
    home = Home(home.slots, home.config)
    with home.living():
        assert home.told() == [("1.0.0", "good"), ("2.0.0", "bad")]
    assert "changed or cut short" in home.reason()


def test_where_there_is_nothing_to_go_back_to_the_error_is_told_and_nothing_is_blamed(
    bundles: Path, tmp_path: Path
) -> None:
    with pytest.raises(BundleError, match="nothing is installed; use `edge-runtime bundle install`"):
        home_of(tmp_path)
    home = home_of(tmp_path, bundles / "1")
    current = home.slots.read().current
    assert current is not None
    (home.slots.path(current) / "tokenizer.model").unlink()
    with pytest.raises(BundleError, match="cannot read"):
        Home(home.slots, home.config).service.run()
    assert home.told() == [("1.0.0", "good")]


def test_one_on_trial_at_the_start_proves_itself_then(home: Home, bundles: Path) -> None:
    home.install(bundles / "2")
    home = Home(home.slots, home.config)
    assert home.slots.read().starts == 1
    with home.living():
        home.settle(("2.0.0", "good"), ("1.0.0", "good"))


def test_by_hand_back_while_it_runs(bundles: Path, tmp_path: Path) -> None:
    home = home_of(tmp_path, bundles / "1", bundles / "2")
    home = Home(home.slots, home.config)
    with home.living():
        home.slots.roll_back()
        home.settle(("1.0.0", "good"), ("2.0.0", "bad"))
    assert max(silences_ms(home)) < 10 * HEARTBEAT_MS, "nothing is opened or judged on the loop (figures: installs)"


def test_a_reload_by_the_user_goes_on_working(home: Home, bundles: Path) -> None:
    with home.living():
        home.runtime.reload(home.service.load)
        wait_for(lambda: home.answers == [None], "the reload")
        home.config = msgspec.structs.replace(home.config, bundle=str(bundles / "2"))
        home.runtime.reload(home.service.load)
        wait_for(lambda: len(home.answers) == 2, "the reload")
        assert home.answers[1] is not None and "cannot change from or to slots while running" in home.answers[1]
        home.install(bundles / "2")
        home.settle(("2.0.0", "good"), ("1.0.0", "good"))


BESIDE = msgspec.structs.replace(TRIAL, shadow_s=0.6, agreement=0.95)


def test_beside_the_running_one_one_that_agrees_goes_on_trial(home: Home, bundles: Path) -> None:
    with home.living():
        home.install(bundles / "2", BESIDE)
        assert home.told() == [("1.0.0", "good"), ("2.0.0", "pending")]
        home.settle(("2.0.0", "good"), ("1.0.0", "good"))
    assert home.vehicle.subscriber.lost == 0
    assert home.vehicle.statuses[-1].conserved


def test_beside_the_running_one_one_that_disagrees_is_bad_and_never_heard(home: Home, bundles: Path) -> None:
    with home.living():
        home.install(bundles / "other", BESIDE)
        home.settle(("1.0.0", "good"), ("2.0.0", "bad"))
        home.vehicle.decision(source="model")
    assert re.match(r"beside the running one: it agreed with the running one in 0 of \d+ decisions", home.reason())
    assert {message.bundle.version for message in home.vehicle.decisions} == {"1.0.0"}


def test_beside_the_running_one_one_whose_engine_fails_is_bad_and_never_heard(home: Home, bundles: Path) -> None:
    with home.living():
        home.install(bundles / "broken", BESIDE)
        home.settle(("1.0.0", "good"), ("2.0.0", "bad"))
    assert home.reason() == "beside the running one: engine: output not finite"
    assert {message.bundle.version for message in home.vehicle.decisions} == {"1.0.0"}
