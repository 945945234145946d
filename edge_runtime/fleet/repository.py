"""A TUF repository as one device sees it: what it offers now, and the files of one bundle, each held against what was
signed.

The client is python-tuf's. What the device has seen so far (against going back to older metadata) is kept in a folder
below the slots, and belongs to whom they belong.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edge_runtime.bundle import MANIFEST, MAX_FILE_BYTES
from edge_runtime.errors import UserError
from edge_runtime.fleet.offers import BUNDLES, FILES, Offer, unsafe_name

if TYPE_CHECKING:
    from tuf.api.metadata import TargetFile

log = logging.getLogger("edge_runtime")

METADATA, DOWNLOADS = "metadata", "downloads"
MAX_BYTES = 8 << 30
"""Of one bundle."""


class Repository:
    """At one URL, for one pull, by one thread."""

    def __init__(self, url: str, root: bytes, folder: Path) -> None:
        """`root` is the root metadata that this device trusts; `folder` is the client's own, made where it is missing.

        Raises UserError where `root` is none, or the folder cannot be used.
        """
        from tuf.ngclient import Updater, UpdaterConfig

        from edge_runtime.fleet.fetcher import Fetcher

        self._url = url
        self._folder = folder
        self._targets: dict[str, TargetFile] = {}
        with self._refusing():
            for name in (METADATA, DOWNLOADS):
                (folder / name).mkdir(parents=True, exist_ok=True)
            self._fetcher = Fetcher(folder / DOWNLOADS)
            base = url.rstrip("/")
            self._updater = Updater(
                str(folder / METADATA),
                f"{base}/metadata/",
                target_base_url=f"{base}/targets/",
                fetcher=self._fetcher,
                config=UpdaterConfig(max_root_rotations=1000),
                bootstrap=root,
            )

    @property
    def received(self) -> int:
        """Bytes that came over the network so far."""
        return self._fetcher.received

    def offers(self) -> dict[str, Offer]:
        """What it has now, by the digest of the manifest. Raises UserError where it must not be trusted."""
        from tuf.api.metadata import Metadata, Targets

        with self._refusing():
            self._updater.refresh()
            # What `refresh` has just verified and left there.
            current = Metadata[Targets].from_file(str(self._folder / METADATA / "targets.json")).signed
        self._targets = current.targets
        offers = {}
        for path, target in self._targets.items():
            digest = path.removeprefix(BUNDLES)
            if path.startswith(BUNDLES):
                try:
                    offers[digest] = self._offer(digest, target)
                except (msgspec.ValidationError, ValueError) as error:
                    log.warning(
                        "repository %s: target %s is no bundle that this runtime knows: %s", self._url, path, error
                    )
        return offers

    def fetch(self, digest: str, offer: Offer, have: Sequence[Path]) -> Path:
        """A folder with that bundle, whole as far as the repository is concerned: its own signature is another matter.

        A file that lies under the same name in one of the folders `have`, or came before the last attempt ended, is
        not fetched. Raises UserError; what has come by then is kept for the next attempt.
        """
        wanted = {MANIFEST: self._targets[BUNDLES + digest]}
        wanted |= {file: self._targets[FILES + sha256] for file, sha256 in offer.files.items()}
        folder = self._folder / DOWNLOADS / digest
        with self._refusing():
            self._make_room(folder, wanted)
            for file, target in wanted.items():
                place = folder / file
                if self._updater.find_cached_target(target, str(place)) is not None:
                    continue
                place.parent.mkdir(parents=True, exist_ok=True)
                known = (self._updater.find_cached_target(target, str(one / file)) for one in have)
                if (found := next((path for path in known if path is not None), None)) is not None:
                    shutil.copyfile(found, place)
                else:
                    self._updater.download_target(target, str(place))
        return folder

    def clear(self) -> None:
        """Remove what was fetched."""
        for entry in (self._folder / DOWNLOADS).iterdir():
            _remove(entry)

    def _offer(self, digest: str, target: TargetFile) -> Offer:
        offer = msgspec.convert(target.custom, Offer)
        if target.hashes.get("sha256") != digest:
            raise ValueError("its name is not its sha256")
        for file, sha256 in offer.files.items():
            if unsafe_name(file):
                raise ValueError(f"{file!r:.200} is no name of a file in it")
            if (other := self._targets.get(FILES + sha256)) is None or other.hashes.get("sha256") != sha256:
                raise ValueError(f"{file!r:.200} is not among the targets")
            if other.length > MAX_FILE_BYTES:
                raise ValueError(f"{file!r:.200} has {other.length} bytes, at most {MAX_FILE_BYTES} are allowed")
        return offer

    def _make_room(self, folder: Path, wanted: Mapping[str, TargetFile]) -> None:
        """Remove what other attempts have left, and see whether it all fits, here and once more in a slot."""
        for entry in (self._folder / DOWNLOADS).iterdir():
            if entry != folder:
                _remove(entry)
        folder.mkdir(exist_ok=True)
        for entry in [entry for entry in folder.rglob("*") if entry.is_symlink() or not entry.is_dir()]:
            if entry.is_symlink() or str(entry.relative_to(folder)) not in wanted:
                entry.unlink()  # or the bundle would have a file that nobody signed for
        size = sum(target.length for target in wanted.values())
        if size > MAX_BYTES:
            raise UserError(f"pull: the bundle has {size} bytes, at most {MAX_BYTES} are allowed")
        there = sum((folder / file).stat().st_size for file in wanted if (folder / file).is_file())
        if (free := shutil.disk_usage(folder).free) < 2 * size - there:
            raise UserError(
                f"pull: the bundle has {size / 1e6:.1f} MB, needed twice while it is installed; "
                f"{self._folder} has {free / 1e6:.1f} MB left"
            )

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """What is wrong with a repository, in one line."""
        from tuf.api import exceptions as tuf

        try:
            yield
        except tuf.ExpiredMetadataError as error:
            now = datetime.now(timezone.utc).isoformat(timespec="seconds")
            why = f"{error}: it was not renewed, or somebody keeps news back; here it is {now}, is that so?"
        except tuf.BadVersionNumberError as error:
            why = f"older metadata than was seen before, or not what its snapshot names ({error})"
        except tuf.UnsignedMetadataError as error:
            why = f"metadata that those it is from did not sign ({error})"
        except tuf.LengthOrHashMismatchError as error:
            why = f"a file is not the one that was signed ({error})"
        except tuf.DownloadLengthMismatchError as error:
            why = f"a file has no end ({error})"
        except tuf.SlowRetrievalError as error:
            why = f"too slow ({error}); try again"
        except (tuf.RepositoryError, tuf.DownloadError) as error:
            why = f"{error}"
        except OSError as error:
            raise UserError(f"pull: {self._folder} cannot be used ({error.strerror or error})") from None
        else:
            return
        raise UserError(f"repository {self._url}: {why}; nothing was installed") from None


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    else:
        entry.unlink()
