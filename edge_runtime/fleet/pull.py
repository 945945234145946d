"""One pull: look what a repository offers, take what is newer, and have it installed on trial."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec import Struct

from edge_runtime.bundle import Bundle
from edge_runtime.errors import BundleError, UserError
from edge_runtime.fleet.offers import Device, Offer, choose
from edge_runtime.slots import Slot, Slots

OWN_FOLDER = ".fleet"
MAX_ROOT_BYTES = 1 << 20
Check = Callable[[Bundle], None]


class Pulled(Struct, frozen=True):
    """What came of it."""

    slot: Slot | None
    """What was installed; None: there is nothing newer for this device."""
    received: int
    """Bytes that came over the network, metadata included."""


def pull(
    url: str,
    root: bytes,
    slots: Slots,
    device: Callable[[Mapping[str, Offer]], Device],
    install: Callable[[Path, Check], Slot],
    name: str | None = None,
) -> Pulled:
    """Install the newest bundle that the repository at `url` has for this device, if it is above the current one.

    `root` is the trusted root metadata; `device` says who asks, once it is known what there is; `install` verifies and
    installs what lies in a folder, and refuses what does not pass the check that it is given. Raises UserError; then
    the slots are as they were.
    """
    if (pending := slots.read().pending) is not None:
        raise UserError(f"pull: {pending.version} is on trial here; pull again when that is over")
    from edge_runtime.fleet.repository import Repository

    with slots.own_folder(OWN_FOLDER) as folder:
        with slots.hand():
            repository = Repository(url, root, folder)
            offers = repository.offers()
            digest = choose(offers, device(offers), name, slots.read())
            if digest is None:
                return Pulled(None, repository.received)
            offer = offers[digest]
            source = repository.fetch(digest, offer, [slots.path(slot) for slot in slots.read().slots])
        slot = install(source, lambda bundle: _is_what_was_offered(bundle, digest, offer))
        with slots.hand():
            repository.clear()
    return Pulled(slot, repository.received)


def _is_what_was_offered(bundle: Bundle, digest: str, offer: Offer) -> None:
    manifest = bundle.manifest
    if (bundle.digest, manifest.name, manifest.version) != (digest, offer.name, offer.version):
        raise BundleError(
            f"pull: the repository calls {offer.name} {offer.version} what is {manifest.name} {manifest.version}; "
            "publish it again"
        )
