"""The user's work as a Holoscan application of Python operators: camera, prepare, infer, publish.

python -m benchmarks.peers.holoscan_loop MONOLITH.onnx INPUTS.npz ENDPOINT FRAMES [PICTURES]
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from holoscan.conditions import CountCondition
from holoscan.core import Application, Operator, OperatorSpec

from benchmarks.user_work import Pace, Publisher, UserWork
from benchmarks.workload import DEFAULT_PICTURES, Workload, make_workload


class Camera(Operator):  # type: ignore[misc]
    def __init__(self, fragment: Any, *conditions: Any, workload: Workload, **named: Any) -> None:
        super().__init__(fragment, *conditions, **named)
        self._workload, self._index, self._pace = workload, 0, Pace()

    def setup(self, spec: OperatorSpec) -> None:
        spec.output("frame")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        self._pace.wait()
        given = self._workload.picture(self._index)
        op_output.emit((self._index, time.monotonic_ns(), given), "frame")
        self._index += 1


class Prepare(Operator):  # type: ignore[misc]
    def __init__(self, fragment: Any, *conditions: Any, work: UserWork, **named: Any) -> None:
        super().__init__(fragment, *conditions, **named)
        self._work = work

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("frame")
        spec.output("image")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        index, captured_ns, given = op_input.receive("frame")
        image = self._work.prepare(given)
        op_output.emit((index, captured_ns, time.monotonic_ns(), image), "image")


class Infer(Operator):  # type: ignore[misc]
    def __init__(self, fragment: Any, *conditions: Any, work: UserWork, **named: Any) -> None:
        super().__init__(fragment, *conditions, **named)
        self._work = work

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("image")
        spec.output("logits")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        index, captured_ns, prepared_ns, image = op_input.receive("image")
        logits = self._work.infer(image)
        op_output.emit((index, captured_ns, prepared_ns, time.monotonic_ns(), logits), "logits")


class Publish(Operator):  # type: ignore[misc]
    def __init__(self, fragment: Any, *conditions: Any, publisher: Publisher, **named: Any) -> None:
        super().__init__(fragment, *conditions, **named)
        self._publisher = publisher

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("logits")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        self._publisher.send(UserWork.message(*op_input.receive("logits")))


class App(Application):  # type: ignore[misc]
    def __init__(self, work: UserWork, workload: Workload, publisher: Publisher, frames: int) -> None:
        super().__init__()
        self._given = (work, workload, publisher, frames)

    def compose(self) -> None:
        work, workload, publisher, frames = self._given
        camera = Camera(self, CountCondition(self, frames), workload=workload, name="camera")
        prepare = Prepare(self, work=work, name="prepare")
        infer = Infer(self, work=work, name="infer")
        publish = Publish(self, publisher=publisher, name="publish")
        self.add_flow(camera, prepare)
        self.add_flow(prepare, infer)
        self.add_flow(infer, publish)


def main(model: Path, inputs: Path, endpoint: str, frames: int, pictures: str = DEFAULT_PICTURES) -> None:
    """Run `frames` frames; every answer is published as JSON at `endpoint`."""
    workload = make_workload(pictures)
    work = UserWork(model, inputs)
    publisher = Publisher(endpoint)
    App(work, workload, publisher, frames).run()
    publisher.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), *sys.argv[5:6])
