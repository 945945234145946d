"""Zones: where a thing stands is where its lower edge is."""

from __future__ import annotations

import msgspec
import pytest

from edge_runtime.zones import Zone, zones_of

ZONES = {
    "door": Zone(((0.0, 0.5), (0.5, 0.5), (0.5, 1.0), (0.0, 1.0))),
    "step": Zone(((0.25, 0.75), (1.0, 0.75), (1.0, 1.0)), "camera.front"),
}


@pytest.mark.parametrize(
    ("box", "names"),
    [
        ((0.1, 0.0, 0.3, 0.6), ["door"]),
        ((0.1, 0.6, 0.3, 0.4), []),
        ((0.4, 0.2, 0.6, 0.5), ["door"]),  # its foot on a corner
        ((0.4, 0.2, 0.60001, 0.49), []),
        ((0.3, 0.0, 0.68, 0.8), ["door", "step"]),
        ((0.8, 0.1, 0.9, 0.8), ["step"]),
    ],
)
def test_the_middle_of_the_lower_edge_counts(box: tuple[float, float, float, float], names: list[str]) -> None:
    assert list(zones_of(box, ZONES)) == names
    assert list(zones_of(box, ZONES, "camera.front")) == names
    assert list(zones_of(box, ZONES, "camera.rear")) == [name for name in names if name == "door"]


@pytest.mark.parametrize("polygon", [[[0, 0], [1, 1]], [[0, 0], [1, 1], [1, 1.1]], [[-0.1, 0], [1, 1], [1, 0]]])
def test_what_is_no_part_of_a_picture_is_refused(polygon: list[list[float]]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"polygon": polygon}, Zone)
