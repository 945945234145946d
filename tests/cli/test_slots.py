"""The real process on slots: one that dies with a new bundle again and again comes back with the one before."""

from __future__ import annotations

from pathlib import Path

from edge_runtime import Subscriber
from edge_runtime.slots import Slots, Trial
from edge_runtime.wire import DecisionMessage
from tests import tiny
from tests.cli.test_end import Service, end, started
from tests.conftest import WAIT_S

DIES = """
import os, signal
from edge_runtime.session import Session
opened = Session.__init__
def dies(session, *arguments, **named):
    opened(session, *arguments, **named)
    if session.bundle_id.version == "2.0.0":
        os.kill(os.getpid(), signal.SIGKILL)
Session.__init__ = dies
"""


def test_a_bundle_that_kills_its_process_is_left_after_three_starts(tmp_path: Path, tiny_bundle_path: Path) -> None:
    slots = Slots(tmp_path / "slots")
    slots.passed(slots.install(tiny_bundle_path, allow_unsigned=True))
    slots.install(
        tiny.write_bundle(tmp_path / "2", version="2.0.0"), allow_unsigned=True, trial=lambda bundle: Trial(60.0)
    )
    service = Service(tmp_path, Path(f"slot:{slots.folder}"), sabotage=DIES)
    codes = []
    for _ in range(3):
        with started(service) as process:
            codes.append(process.wait(WAIT_S))
    assert codes == [-9] * 3
    with started(service) as process, Subscriber(f"ipc://{tmp_path}/out") as subscriber:
        while not isinstance(message := subscriber.receive(WAIT_S), DecisionMessage):
            assert message is not None
        assert message.bundle.version == "1.0.0"
        assert end(process)[0] == 0
    state = slots.read()
    assert [(slot.version, slot.state) for slot in state.slots] == [("1.0.0", "good"), ("2.0.0", "bad")]
    assert state.other is not None and "started 3 times" in state.other.reason
