"""A TUF repository of bundles: a folder for any web server, made and kept here.

Its four roles have a key each (Ed25519), a file in a folder of keys. Of these `root` and `targets` sign seldom and by
hand: keep them off line. `snapshot` and `timestamp` sign that what is offered is still so, from any machine that
renews them: they can hold news back from devices until they expire, and nothing else.

Everything is written so that whoever reads meanwhile, or after a cut, finds the old state whole or the new one: what
others name is there first, and `timestamp.json` comes last.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import msgspec

from edge_runtime.bundle import MANIFEST, Bundle
from edge_runtime.durable import DISK, replace_file
from edge_runtime.errors import UserError
from edge_runtime.fleet.offers import BUNDLES, FILES, Offer, unsafe_name
from edge_runtime.plain_file import read_plain
from edge_runtime.slots import version_key

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner
    from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp

RoleName = Literal["root", "targets", "snapshot", "timestamp"]
ROLES: Final[tuple[RoleName, ...]] = get_args(RoleName)
LIFE: Final[Mapping[RoleName, timedelta]] = {
    "root": timedelta(days=365),
    "targets": timedelta(days=365),
    "snapshot": timedelta(days=7),
    "timestamp": timedelta(days=1),
}
"""How long a signature counts; a device takes nothing from a repository where one has expired."""
SOON = timedelta(days=30)
"""Before `root` or `targets` expire: time to say so."""
MAX_METADATA_BYTES = 5_000_000
"""More of `targets` the client does not take."""


class Publisher:
    """Of the repository in one folder. One process at a time."""

    def __init__(self, folder: Path, keys: Path, now: datetime | None = None) -> None:
        """`keys` is the folder of the roles' keys; `now` is the time from which signatures count on."""
        self._metadata = folder / "metadata"
        self._files = folder / "targets"
        self._keys = keys
        self._now = (now or datetime.now(timezone.utc)).replace(microsecond=0)
        self.folder = folder

    @property
    def root_file(self) -> Path:
        """The root metadata that devices are to trust."""
        return self._metadata / f"{self._root().signed.version}.root.json"

    def exists(self) -> bool:
        return (self._metadata / "timestamp.json").is_file()

    def create(self) -> None:
        """Make the keys, and a repository that offers nothing. Raises UserError where there is something already."""
        from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

        if self.exists():
            raise UserError(f"repository {self.folder}: is there already")
        try:
            self._keys.mkdir(mode=0o700, parents=True, exist_ok=True)
            if any(self._keys.iterdir()):
                raise UserError(
                    f"repository {self.folder}: is not there, and {self._keys} holds keys already, of another perhaps; "
                    "check --repo, or name a new folder of keys"
                )
            for folder in (self._metadata, self._files / BUNDLES, self._files / FILES):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{error.filename}: cannot be made ({error.strerror})") from None
        root, targets, snapshot, timestamp = Root(consistent_snapshot=True), Targets(), Snapshot(), Timestamp()
        for role in ROLES:
            root.add_key(self._new_key(role).public_key, role)
        for signed in (root, targets, snapshot, timestamp):
            signed.version = 0  # `_write` counts on
        self._write("root", Metadata(root), self._signers(root, "root"))
        self._publish(root, Metadata(targets), Metadata(snapshot), Metadata(timestamp))

    def publish(
        self, bundle: Bundle, machines: Sequence[str] = (), compute: Sequence[str] = (), rollout: int = 100
    ) -> Offer:
        """Offer `bundle` to devices of these kinds, to a percentage of them; or the same bundle to others, or to more.

        Raises UserError: no version that can be compared, the same version of something else for the same devices.
        """
        from tuf.api.metadata import TargetFile

        manifest = bundle.manifest
        if version_key(manifest.version) is None:
            raise UserError(f"publish: version {manifest.version!r} cannot be told to be newer (1.2.3 is a version)")
        contents = dict(bundle.contents())
        if bad := next((name for name in contents if name != MANIFEST and unsafe_name(name)), None):
            raise UserError(f"publish: {bad!r:.200} is no name for a file that is to be fetched; rename it")
        files = {name: TargetFile.from_data(FILES, data).hashes["sha256"] for name, data in contents.items()}
        own = files.pop(MANIFEST)
        offer = msgspec.convert(
            Offer(manifest.name, manifest.version, files, tuple(machines), tuple(compute), rollout), Offer
        )
        root, targets, snapshot, timestamp = self._read()
        self._refuse_two(own, offer, self._offers(targets))
        for name, data in contents.items():
            path = BUNDLES + own if name == MANIFEST else FILES + files[name]
            target = TargetFile.from_data(path, data)
            if name == MANIFEST:
                target.unrecognized_fields["custom"] = msgspec.json.decode(msgspec.json.encode(offer))
            targets.signed.targets[path] = target
            place = self._files / path.replace("/", f"/{path.rpartition('/')[2]}.")
            if not place.is_file() or place.stat().st_size != len(data):
                replace_file(DISK, place, data)
        named = {FILES + sha256 for one in self._offers(targets).values() for sha256 in one.files.values()}
        for path in [path for path in targets.signed.targets if path.startswith(FILES) and path not in named]:
            del targets.signed.targets[path]
        self._publish(root.signed, targets, snapshot, timestamp)
        return offer

    def offers(self) -> dict[str, Offer]:
        """All that is offered, by the digest of the manifest."""
        return self._offers(self._read()[1])

    def refresh(self) -> None:
        """Sign anew that what is offered is still so: with the keys of `snapshot` and `timestamp` alone."""
        root, _, snapshot, timestamp = self._read()
        self._publish(root.signed, None, snapshot, timestamp)

    def rotate(self, role: RoleName) -> None:
        """Put a new key in the place of the one of `role`; root's own key signs it, and counts anew from now on.

        The old key's file stays: of `root` it is needed by nobody any more, but devices that were off for long follow
        one root after the other.
        """
        from tuf.api.metadata import Metadata

        metadata, targets, snapshot, timestamp = self._read()
        root = metadata.signed
        before = self._signers(root, "root")
        new = self._new_key(role).public_key
        for old in list(root.roles[role].keyids):
            root.revoke_key(old, role)
        root.add_key(new, role)
        after = self._signers(root, "root")
        # Whatever else is to be signed anew must be able to be, before anything is.
        for one in ROLES[1:] if role == "targets" else ROLES[2:]:
            self._signers(root, one)
        self._write("root", Metadata(root), {**before, **after})
        self._publish(root, targets if role == "targets" else None, snapshot, timestamp)

    def expiring(self) -> list[str]:
        """What is soon to be signed again by hand, in words."""
        root, targets, _, _ = self._read()
        how = {
            "root": "publish --rotate root renews it",
            "targets": "publishing any bundle again renews it",
        }
        return [
            f"{role} expires on {signed.expires:%Y-%m-%d}; {how[role]}"
            for role, signed in (("root", root.signed), ("targets", targets.signed))
            if signed.expires - self._now < SOON
        ]

    def _publish(
        self,
        root: Root,
        targets: Metadata[Targets] | None,
        snapshot: Metadata[Snapshot],
        timestamp: Metadata[Timestamp],
    ) -> None:
        """Sign `targets`, if it has changed, and the rest; in the order in which they name each other."""
        if targets is not None:
            snapshot.signed.meta["targets.json"] = self._write("targets", targets, self._signers(root, "targets"))
        timestamp.signed.snapshot_meta = self._write("snapshot", snapshot, self._signers(root, "snapshot"))
        self._write("timestamp", timestamp, self._signers(root, "timestamp"))

    def _write(self, role: RoleName, metadata: Metadata[Any], signers: Mapping[str, CryptoSigner]) -> MetaFile:
        """The next version of it. Raises UserError."""
        from tuf.api.metadata import MetaFile

        signed = metadata.signed
        signed.version += 1
        signed.expires = self._now + LIFE[role]
        metadata.signatures.clear()
        for signer in signers.values():
            metadata.sign(signer, append=True)
        data = metadata.to_bytes()
        if len(data) > MAX_METADATA_BYTES:
            raise UserError(f"repository {self.folder}: {role} has {len(data)} bytes, more than clients take")
        name = "timestamp.json" if role == "timestamp" else f"{signed.version}.{role}.json"
        try:
            replace_file(DISK, self._metadata / name, data)
        except OSError as error:
            raise UserError(f"repository {self.folder}: {name} cannot be written ({error.strerror})") from None
        return MetaFile.from_data(signed.version, data, ["sha256"])

    def _root(self) -> Metadata[Root]:
        from tuf.api.metadata import Metadata, Root

        names = (_VERSION.match(path.name) for path in self._metadata.glob("*.root.json"))
        versions = [int(found[1]) for found in names if found]
        if not versions:
            raise UserError(f"repository {self.folder}: is not there; check --repo")
        return Metadata[Root].from_file(str(self._metadata / f"{max(versions)}.root.json"))

    def _read(self) -> tuple[Metadata[Root], Metadata[Targets], Metadata[Snapshot], Metadata[Timestamp]]:
        """The present state. Raises UserError."""
        from tuf.api.exceptions import RepositoryError, StorageError
        from tuf.api.metadata import Metadata, Snapshot, Targets, Timestamp

        try:
            timestamp = Metadata[Timestamp].from_file(str(self._metadata / "timestamp.json"))
            version = timestamp.signed.snapshot_meta.version
            snapshot = Metadata[Snapshot].from_file(str(self._metadata / f"{version}.snapshot.json"))
            version = snapshot.signed.meta["targets.json"].version
            targets = Metadata[Targets].from_file(str(self._metadata / f"{version}.targets.json"))
            return self._root(), targets, snapshot, timestamp
        except (RepositoryError, StorageError, KeyError) as error:
            raise UserError(f"repository {self.folder}: its metadata cannot be read ({error})") from None

    def _new_key(self, role: RoleName) -> CryptoSigner:
        """Made, and kept before anything is signed with it."""
        from securesystemslib.signer import CryptoSigner

        signer = CryptoSigner.generate_ed25519()
        path = self._key_file(role, signer.public_key.keyid)
        try:
            # Created with its final mode: a secret is never readable by others, not even for a moment.
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(signer.private_bytes)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UserError(f"key {path}: cannot be written ({error.strerror})") from None
        return signer

    def _key_file(self, role: RoleName, keyid: str) -> Path:
        return self._keys / f"{role}-{keyid[:16]}.key"

    def _signers(self, root: Root, role: RoleName) -> dict[str, CryptoSigner]:
        """The signers of `role`, by the ids of their keys. Raises UserError, which never quotes a key."""
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
        from securesystemslib.exceptions import KeyMismatchError
        from securesystemslib.signer import CryptoSigner, SSlibKey

        signers = {}
        for keyid in root.roles[role].keyids:
            path = self._key_file(role, keyid)
            try:
                if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                    raise UserError(f"key {path}: others may read it; chmod 600 {path}, or rotate it if they have")
                secret = load_pem_private_key(read_plain(path, 64 << 10), password=None)
                public = root.keys[keyid]
                assert isinstance(public, SSlibKey)
                signers[keyid] = CryptoSigner(secret, public)
            except FileNotFoundError:
                raise UserError(f"key {path}: is not there; this needs the key of {role}") from None
            except (OSError, ValueError, TypeError, KeyMismatchError):
                raise UserError(f"key {path}: cannot be read as the key of {role}") from None
        return signers

    def _offers(self, targets: Metadata[Targets]) -> dict[str, Offer]:
        return {
            path.removeprefix(BUNDLES): msgspec.convert(target.custom, Offer)
            for path, target in targets.signed.targets.items()
            if path.startswith(BUNDLES)
        }

    def _refuse_two(self, digest: str, offer: Offer, offers: Mapping[str, Offer]) -> None:
        """A device must never have to choose between two of one version."""
        for other_digest, other in offers.items():
            if (
                other_digest != digest
                and other.name == offer.name
                and version_key(other.version) == version_key(offer.version)
                and _meet(other.machines, offer.machines)
                and _meet(other.compute, offer.compute)
            ):
                raise UserError(
                    f"publish: another {offer.name} {other.version} is offered for the same devices; raise the "
                    "version, or name other machines"
                )


_VERSION = re.compile(r"(\d{1,18})\.root\.json$")


def _meet(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether there may be a device that both are for; none named is all."""
    return not one or not other or bool(set(one) & set(other))
