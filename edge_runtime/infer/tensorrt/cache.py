"""Engines on disk, each under the digest of everything that makes it valid.

An engine is executable code, and so is what TensorRT-RTX compiles from it. Both are kept where only this user can
write, and their digests are checked before anything is loaded. Whatever does not fit is as good as not there: the
caller builds anew.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from edge_runtime.errors import ConfigError
from edge_runtime.infer.tensorrt.library import Flavour
from edge_runtime.trusted_path import why_replaceable

log = logging.getLogger("edge_runtime.infer.tensorrt")

MAX_BYTES = 2 << 30
"""Kept in all; what was not used for longest goes first."""
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH

Kind = Literal["engine", "kernels", "timings"]
"""An engine; what TensorRT-RTX compiled of it for this GPU; TensorRT's timings of kernels."""


class EngineKey(Struct, frozen=True):
    """Everything that makes an engine valid. A device that differs in any of it builds its own."""

    flavour: Flavour
    version: str
    gpu: str
    compute: str
    driver: int
    """The CUDA version that the driver serves, e.g. 12060."""
    onnx_sha256: str = ""
    shapes: dict[str, tuple[int, ...]] = {}
    """Tensor to shape."""
    flags: dict[str, int] = {}
    """Settings of the build."""

    @property
    def digest(self) -> str:
        """sha256 (hex) over all of it."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()

    def any_graph(self) -> EngineKey:
        """The key of what all graphs share (kernel timings)."""
        return EngineKey(self.flavour, self.version, self.gpu, self.compute, self.driver)


class Entry(Struct, frozen=True):
    """What stands beside every file, for people and for the check."""

    key: EngineKey
    sha256: str
    bytes: int
    seconds: float
    """How long it took to make."""


class EngineCache:
    """A folder of engines. Any thread; several processes may share it."""

    def __init__(self, folder: Path) -> None:
        """Make the folder if need be. Raises ConfigError if it cannot be used, or others could plant engines in it.

        They could by writing in it, or by putting a folder of theirs in its place through one above it.
        """
        self.folder = folder
        try:
            _make_private(folder)
            status, replaceable = folder.stat(), why_replaceable(folder)
        except OSError as error:
            raise ConfigError(f"engine.cache {folder}: {error.strerror}; name another folder") from None
        if status.st_uid != os.geteuid() or status.st_mode & _OTHERS_MAY_WRITE:
            raise ConfigError(
                f"engine.cache {folder}: others may write there, and engines are executable code; "
                f"chown it to this user and chmod 700, or name another folder"
            )
        if replaceable is not None:
            raise ConfigError(f"engine.cache {folder}: {replaceable} (engines are executable code)")

    def load(self, key: EngineKey, kind: Kind) -> bytes | None:
        """The bytes kept for `key`; None if there are none, or not exactly those that were stored (logged)."""
        path = self._path(key, kind)
        try:
            entry = msgspec.json.decode(_read_own(_sidecar(path)), type=Entry)
            data = _read_own(path)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            log.warning("engine cache: %s cannot be used (%s); it is made anew", path, error)
            return None
        whole = hmac.compare_digest(hashlib.sha256(data).hexdigest(), entry.sha256)
        if not whole or entry.key != key:
            log.warning("engine cache: %s is not what was stored there; it is made anew", path)
            return None
        os.utime(path)
        return data

    def store(self, key: EngineKey, kind: Kind, data: bytes, seconds: float = 0.0) -> None:
        """Keep `data`, whole or not at all. A folder that takes nothing more is logged; the caller loses only time."""
        path = self._path(key, kind)
        entry = Entry(key, hashlib.sha256(data).hexdigest(), len(data), round(seconds, 3))
        try:
            # A crash in between leaves a file that its sidecar does not vouch for: not used.
            _write_whole(path, data)
            _write_whole(_sidecar(path), msgspec.json.format(msgspec.json.encode(entry), indent=2) + b"\n")
            self._prune(path)
        except OSError as error:
            log.warning("engine cache: cannot keep %s (%s)", path, error)

    def discard(self, key: EngineKey, kind: Kind) -> None:
        """Forget what is kept for `key`, as when it turns out not to load."""
        path = self._path(key, kind)
        _sidecar(path).unlink(missing_ok=True)
        path.unlink(missing_ok=True)

    def _path(self, key: EngineKey, kind: Kind) -> Path:
        return self.folder / f"{key.digest[:32]}.{kind}"

    def _prune(self, newest: Path) -> None:
        files = [(entry.stat(), entry) for entry in self.folder.iterdir() if entry.suffix != ".json"]
        total = sum(info.st_size for info, _ in files)
        for info, path in sorted(files, key=lambda pair: pair[0].st_mtime):
            if total <= MAX_BYTES:
                return
            if path != newest:
                _sidecar(path).unlink(missing_ok=True)
                path.unlink(missing_ok=True)
                total -= info.st_size


def default_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """systemd's cache directory for a service, else the user's. Raises ConfigError where there is neither."""
    service = environment.get("CACHE_DIRECTORY", "").partition(":")[0]
    if service:
        return Path(service) / "engines"
    try:
        user = Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        raise ConfigError("engine.cache: this user has no home; name a folder for engines") from None
    return user / "edge-runtime" / "engines"


def _make_private(folder: Path) -> None:
    """`mkdir -p`, but what is made on the way is for this user only too, whatever the umask. Raises OSError."""
    for missing in reversed([above for above in (folder, *folder.parents) if not above.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)
    folder.mkdir(exist_ok=True)  # raises where a file is in the way


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _read_own(path: Path) -> bytes:
    """A file's bytes, if it is a regular one that nobody else could have written. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & _OTHERS_MAY_WRITE:
            raise PermissionError("others may have written it")
        return file.read()


def _write_whole(path: Path, data: bytes) -> None:
    descriptor, fresh = tempfile.mkstemp(dir=path.parent, prefix=".")  # made with mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        Path(fresh).replace(path)
    except BaseException:
        Path(fresh).unlink(missing_ok=True)
        raise
