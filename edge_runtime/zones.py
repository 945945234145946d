"""Zones of a camera's picture, as the configuration draws them, and what stands in them. Pure; any thread."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import numpy as np
from msgspec import Meta, Struct

PICTURE = "picture"
"""The zone that is there without being drawn: the whole picture."""
Share = Annotated[float, Meta(ge=0, le=1)]
ZoneName = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]


class Zone(Struct, frozen=True, forbid_unknown_fields=True):
    """A part of a camera's picture."""

    polygon: Annotated[tuple[tuple[Share, Share], ...], Meta(min_length=3)]
    """Its corners in order, each as shares of the picture's width (from the left) and height (from the top)."""
    camera: str = ""
    """The stream whose picture it is drawn in; unless given, every camera's."""


Zones = Mapping[str, Zone]


def zones_of(box: tuple[float, float, float, float], zones: Zones, camera: str = "") -> tuple[str, ...]:
    """Names of the `zones` that `box` (left, top, right, bottom, in shares of the picture) stands in, in their order:
    in which the middle of its lower edge lies, or on whose border. Only those of `camera`, where one is named.
    """
    import cv2  # configurations hold zones, and are read where it is missing

    foot = ((box[0] + box[2]) / 2, box[3])
    return tuple(
        name
        for name, zone in zones.items()
        if (not camera or zone.camera in ("", camera))
        and cv2.pointPolygonTest(np.array(zone.polygon, np.float32), foot, measureDist=False) >= 0
    )
