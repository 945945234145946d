"""What a repository offers, and which of it one device takes. Pure; no TUF, no network."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated

from msgspec import Meta, Struct

from edge_runtime.bundle import MANIFEST
from edge_runtime.errors import UserError
from edge_runtime.model_signature import MAX_FILES
from edge_runtime.slots import State, version_key
from edge_runtime.specs import Name

BUNDLES, FILES = "bundles/", "files/"
"""How the names of targets begin: of manifests, and of all other files; behind it comes the sha256 (hex)."""

Words = Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=100)], ...], Meta(max_length=100)]


class Offer(Struct, frozen=True):
    """A bundle in a repository: `custom` of its manifest. What newer publishers say beyond this is not looked at."""

    name: Name
    version: Annotated[str, Meta(max_length=256)]
    files: Annotated[dict[str, Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]], Meta(max_length=MAX_FILES)]
    """Path in the bundle to sha256 (hex), of all files but the manifest."""
    machines: Words = ()
    """Kinds of machine that it is for; none named: all."""
    compute: Words = ()
    """Compute capabilities that it is for, e.g. `8.7`; none named: all, and machines without a GPU."""
    rollout: Annotated[int, Meta(ge=0, le=100)] = 100
    """Percentage of the devices that may have it. (TUF's canonical JSON has no fractions.)"""


class Device(Struct, frozen=True):
    """Who asks."""

    id: str
    """Never sent: it says which share of a fleet this is in."""
    machine: str
    compute: str = ""
    """Of its GPU; empty where there is none."""

    def fits(self, offer: Offer) -> bool:
        """Whether the bundle is for such machines."""
        return (not offer.machines or self.machine in offer.machines) and (
            not offer.compute or self.compute in offer.compute
        )

    def place(self, offer: Offer) -> float:
        """Where in the fleet this device is for that version, 0 to 100: those below the rollout's percentage are in.

        The same each time, so that a share that grows takes nobody out; another for each version, so that it is not
        always the same devices that go first.
        """
        digest = hashlib.sha256(f"{self.id}\n{offer.name}\n{offer.version}".encode()).digest()
        return int.from_bytes(digest[:8], "big") * 100 / 2**64


def choose(offers: Mapping[str, Offer], device: Device, name: str | None, state: State) -> str | None:
    """Of `offers`, by the digest of their manifests, the newest that `device` is to install; None: it has that.

    `name` is the bundle's; unless given, that of the one that is installed. What was bad here is not taken again.
    Raises UserError where it cannot be told which bundle the device is to have.
    """
    fitting = {digest: offer for digest, offer in offers.items() if device.fits(offer)}
    name = name or (state.current.name if state.current is not None else _only_name(fitting))
    own = {digest: offer for digest, offer in fitting.items() if offer.name == name}
    newest = sorted(
        (key, digest)
        for digest, offer in own.items()
        if (key := version_key(offer.version)) is not None
        and device.place(offer) < offer.rollout
        and state.why_bad(digest) is None
        and _newer(offer, state)
    )
    return newest[-1][1] if newest else None


def unsafe_name(file: str) -> bool:
    """Whether a file's path could lead out of its bundle's folder, or be none, or be the manifest's."""
    parts = file.split("/")
    return (
        file == MANIFEST
        or len(file) > 1000
        or any(part in ("", ".", "..") or len(part.encode(errors="replace")) > 255 for part in parts)
        or any(not char.isprintable() or char == "\\" for char in file)
    )


def _newer(offer: Offer, state: State) -> bool:
    """Whether it is above the current one, or that is bad."""
    current = state.current
    if current is None or current.state == "bad":
        return True
    new, old = version_key(offer.version), version_key(current.version)
    return new is not None and old is not None and new > old


def _only_name(offers: Mapping[str, Offer]) -> str:
    names = sorted({offer.name for offer in offers.values()})
    if len(names) == 1:
        return names[0]
    there = f"for this machine there are {', '.join(names)}" if names else "for this machine there is none"
    raise UserError(f"pull: nothing is installed yet, and no --name says which bundle it is to be; {there}")
