from __future__ import annotations

from edge_runtime.capture.intake import Intake
from edge_runtime.clock import RealClock
from edge_runtime.mailbox import Mailbox
from tests import tiny
from tests.conftest import jpeg, noise


def test_a_picture_rings_when_it_comes_and_when_it_is_decoded() -> None:
    waiting: list[int] = []
    boxes = {name: Mailbox(4) for name in tiny.STREAMS}
    boxes["camera"] = Mailbox(4, wake=lambda: waiting.append(boxes["camera"].captured))
    intake = Intake(tiny.STREAMS, boxes, RealClock())
    intake.jpeg("camera", jpeg(noise(80, 1)))
    assert waiting == [0, 1]
