"""More cameras than a bundle has: the bundle that is made for them, and what is made of their figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import cameras, replay
from benchmarks.camera_bundle import write_camera_bundle
from benchmarks.workload import make_workload
from edge_runtime.bundle import open_bundle
from edge_runtime.bundles import bundle_path
from edge_runtime.errors import UserError
from edge_runtime.messages import Frame
from edge_runtime.pipeline import Pipeline


def test_a_bundle_of_one_camera_decides_as_before(tmp_path: Path) -> None:
    vehicle = open_bundle(bundle_path("shipped:vehicle"), allow_unsigned=True)
    assert write_camera_bundle(vehicle, 1, tmp_path) == ("camera.front",)
    one = open_bundle(tmp_path, allow_unsigned=True).manifest
    assert one.streams == vehicle.manifest.streams
    assert [stage.inputs for stage in one.stages] == [stage.inputs for stage in vehicle.manifest.stages]


def test_every_camera_has_its_part_in_the_mean(tmp_path: Path) -> None:
    vehicle = open_bundle(bundle_path("shipped:vehicle"), allow_unsigned=True)
    names = write_camera_bundle(vehicle, 3, tmp_path)
    assert names == ("camera.front", "camera.2", "camera.3")
    pipeline = Pipeline(open_bundle(tmp_path, allow_unsigned=True))
    alone = Pipeline(vehicle)
    first, second = make_workload().picture(0), make_workload().picture(45)
    try:
        # The same picture everywhere: its mean is what the one camera gives.
        same = _logits(pipeline, dict.fromkeys(names, first))
        np.testing.assert_allclose(same, _logits(alone, {"camera.front": first}), atol=1e-4)
        for name in names[1:]:
            other = _logits(pipeline, dict.fromkeys(names, first) | {name: second})
            assert not np.allclose(other, same, atol=1e-3), name
    finally:
        pipeline.close()
        alone.close()


def _logits(pipeline: Pipeline, pictures: dict[str, object]) -> np.ndarray:
    pipeline.reset()
    for name, picture in pictures.items():
        pipeline.add(Frame(name, 0, 1_000, picture))  # type: ignore[arg-type]
    output = pipeline.decide(1_000, 1_000, blocking=False).inference.output
    assert output is not None
    return output


def test_a_bundle_without_such_a_camera_is_named(tmp_path: Path) -> None:
    sensors = open_bundle(replay.write_bundle(tmp_path / "sensors"), allow_unsigned=True)
    with pytest.raises(UserError, match="one camera that one stage reads"):
        write_camera_bundle(sensors, 2, tmp_path / "several")


def test_drops_are_held_against_the_budget_while_the_processor_has_room() -> None:
    def judged(dropped: int, share: float) -> list[tuple[bool, str]]:
        found = {"4": {"dropped": dropped, "cpu_share": share}, "8": {"dropped": 99, "cpu_share": share}}
        return [(item.held, item.unless) for item in cameras.judged(found)]

    assert judged(0, 0.5) == [(True, "")]
    assert judged(1, 0.79) == [(False, "")]
    assert judged(1, 0.8) == [(True, "processor at 80%")]
    assert cameras.judged({"2": {"dropped": 7, "cpu_share": 0.1}}) == []
