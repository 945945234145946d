"""Partials that are done, kept under what they were made of: what was broken off goes on from there."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_runtime.errors import UserError

_DIGEST = hashlib.sha256().digest_size


@dataclass(frozen=True)
class Store:
    """A folder, on this machine or (a URL, by fsspec) in an object store. Any process; any thread."""

    place: str

    def get(self, key: str) -> bytes | None:
        """What was put under `key`; None where nothing was, or not all of it."""
        try:
            data = self._read(key)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._trouble(error) from None
        digest, body = data[:_DIGEST], data[_DIGEST:]
        return body if hashlib.sha256(body).digest() == digest else None

    def put(self, key: str, body: bytes) -> None:
        """Keep `body`, whole or not at all. Raises UserError where it cannot be kept."""
        try:
            self._write(key, hashlib.sha256(body).digest() + body)
        except OSError as error:
            raise self._trouble(error) from None

    def _read(self, key: str) -> bytes:
        if "://" in self.place:
            with _fsspec().open(f"{self.place.rstrip('/')}/{key}", "rb") as file:
                data: bytes = file.read()
            return data
        return (Path(self.place) / key).read_bytes()

    def _write(self, key: str, data: bytes) -> None:
        if "://" in self.place:  # an object is there whole or not at all; what is not, its digest tells
            with _fsspec().open(f"{self.place.rstrip('/')}/{key}", "wb", auto_mkdir=True) as file:
                file.write(data)
            return
        folder = Path(self.place)
        folder.mkdir(parents=True, exist_ok=True)
        fresh = folder / f"{key}.{os.getpid()}.new"
        fresh.write_bytes(data)
        fresh.replace(folder / key)

    def _trouble(self, error: OSError) -> UserError:
        return UserError(f"partials in {self.place}: {error.strerror or error}; check --work")


def _fsspec() -> Any:
    try:
        import fsspec
    except ModuleNotFoundError:
        raise UserError("a --work that is a URL needs fsspec; pip install 'edge-runtime[fleet]'") from None
    return fsspec
