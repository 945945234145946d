"""What the frozen parts of pretrained encoders make of training's inputs: computed once, kept on disk.

A row is kept under the digest of all that it depends on: the frozen weights, the input's bytes and, of a changed
picture, how it was changed. So whatever else a recipe changes, and in every fold of a cross-validation, it is found
again.
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from build_engines.data.augment import Augmenter
from build_engines.modalities.layers import Encoded
from build_engines.modalities.pretrained_encoder import PretrainedEncoder
from build_engines.model.device import device_in_use
from build_engines.recipe import AugmentRecipe

KEY = 16
"""Bytes of a row's name."""
CHUNK = 16
"""Rows that go through a network at once, the last ones filled up: a row's values then never depend on those that
happened to be computed beside it."""


class Version(NamedTuple):
    """A row of a batch as training sees it."""

    row: int
    view: int
    """0: as it is; else which of the changed ones."""


class RowFile:
    """Float32 rows of one shape by name, in two files that only grow. Several processes may read and write them at
    once, each in one thread.
    """

    def __init__(self, stem: Path, shape: Sequence[int]) -> None:
        self._shape = tuple(shape)
        self._size = int(np.prod(shape)) * 4
        self._places: dict[bytes, int] = {}
        stem.parent.mkdir(parents=True, exist_ok=True)
        self._names, self._rows = (stem.with_name(stem.name + end).open("a+b") for end in (".names", ".rows"))
        self.refresh()

    def refresh(self) -> None:
        """Learn of the rows that others have written since. A run that was broken off may have left half a row, or one
        without its name: neither counts."""
        sizes = (os.fstat(file.fileno()).st_size for file in (self._names, self._rows))
        known = len(self._places)
        count = min(size // unit for size, unit in zip(sizes, (KEY, self._size), strict=True))
        names = os.pread(self._names.fileno(), max(count - known, 0) * KEY, known * KEY)
        for place in range(known, known + len(names) // KEY):
            self._places[names[(place - known) * KEY : (place - known + 1) * KEY]] = place

    def __contains__(self, name: bytes) -> bool:
        return name in self._places

    def get(self, names: Sequence[bytes]) -> NDArray[np.float32]:
        """The rows called `names`, which are all there, [n, ...]."""
        found = np.empty((len(names), *self._shape), np.float32)
        for row, name in enumerate(names):
            data = os.pread(self._rows.fileno(), self._size, self._places[name] * self._size)
            found[row] = np.frombuffer(data, np.float32).reshape(self._shape)
        return found

    def put(self, rows: Mapping[bytes, NDArray[np.float32]]) -> None:
        """Keep the rows, by name, that nobody has written meanwhile. They can be read by all from now on."""
        fcntl.flock(self._names, fcntl.LOCK_EX)
        try:
            self.refresh()
            fresh = {name: row for name, row in rows.items() if name not in self._places}
            # What is torn goes first. A row before its name: a name that can be read has its row.
            for file, unit, parts in (
                (self._rows, self._size, [np.ascontiguousarray(row, np.float32).tobytes() for row in fresh.values()]),
                (self._names, KEY, list(fresh)),
            ):
                file.truncate(len(self._places) * unit)
                file.write(b"".join(parts))
                file.flush()
            self.refresh()
        finally:
            fcntl.flock(self._names, fcntl.LOCK_UN)

    def close(self) -> None:
        for file in (self._rows, self._names):
            file.close()


class KeptRows:
    """The rows of every pretrained encoder of a model, below one folder. One thread."""

    def __init__(self, folder: Path | None, plan: AugmentRecipe, seed: int) -> None:
        """Without a `folder` nothing is kept. `plan` and `seed`: how training changes pictures."""
        self._folder = folder
        self._augment = Augmenter(plan, seed)
        self._plan = msgspec.json.encode([plan, seed])
        self._rng = np.random.default_rng(seed)
        self._files: dict[str, RowFile] = {}
        self._weights: dict[str, str] = {}

    def keeps(self, encoder: nn.Module | None) -> bool:
        """Whether what the encoder's frozen part makes of an input is kept."""
        return self._folder is not None and isinstance(encoder, PretrainedEncoder) and encoder.views > 0

    def encode(self, stage: str, encoder: nn.Module, inputs: Sequence[NDArray[np.generic]]) -> Encoded:
        """What `encoder` makes of `inputs` [B, ...], its frozen part looked up where it is kept."""
        device = device_in_use(encoder)
        tensors = [torch.from_numpy(array).to(device) for array in inputs]
        if isinstance(encoder, PretrainedEncoder) and self.keeps(encoder):
            return encoder.finish(self._looked_up(stage, encoder, inputs).to(device), *tensors)
        encoded: Encoded = encoder(*tensors)
        return encoded

    def _looked_up(self, stage: str, encoder: PretrainedEncoder, inputs: Sequence[NDArray[np.generic]]) -> Tensor:
        """What the frozen part makes of `inputs`; where the encoder is in training, of one of the pictures' versions
        each."""
        pictures = stage == "vision"
        versions = encoder.views if pictures and encoder.training and self._augment.active else 1
        count = len(inputs[0])
        views = self._rng.integers(versions, size=count) if versions > 1 else np.zeros(count, int)
        weights = self._digest(stage, encoder)

        def name_of(version: Version) -> bytes:
            return self._name(weights, [array[version.row] for array in inputs], version.view)

        names = [name_of(Version(row, int(view))) for row, view in enumerate(views)]
        file = self._file(stage, weights, encoder, inputs)
        file.refresh()
        fresh = {name: Version(row, int(views[row])) for row, name in enumerate(names) if name not in file}
        # What fills a chunk up may as well be what a later epoch asks for.
        others = (Version(row, view) for row in range(count) for view in range(versions)) if fresh else ()
        for other in others:
            if len(fresh) % CHUNK == 0:
                break
            if (name := name_of(other)) not in file:
                fresh.setdefault(name, other)
        while chunk := dict(itertools.islice(fresh.items(), CHUNK)):
            file.put(self._made(encoder, inputs, chunk))
            fresh = {name: version for name, version in fresh.items() if name not in file}
        return torch.from_numpy(file.get(names))

    def _file(
        self, stage: str, weights: str, encoder: PretrainedEncoder, inputs: Sequence[NDArray[np.generic]]
    ) -> RowFile:
        """Where the rows of a stage lie; their form is that of a row of nothing."""
        if stage not in self._files:
            assert self._folder is not None
            device = device_in_use(encoder)
            shape = encoder.kept(*(torch.from_numpy(np.zeros_like(array[:1])).to(device) for array in inputs)).shape[1:]
            form = "x".join(map(str, shape))
            self._files[stage] = RowFile(self._folder / f"{stage}-{weights[:16]}-{form}", shape)
        return self._files[stage]

    def _made(
        self, encoder: PretrainedEncoder, inputs: Sequence[NDArray[np.generic]], chunk: Mapping[bytes, Version]
    ) -> dict[bytes, NDArray[np.float32]]:
        """Up to `CHUNK` versions of rows of `inputs` through the frozen part, by name."""
        rows = [version.row for version in chunk.values()]
        filled = [
            np.concatenate([array[rows], np.zeros((CHUNK - len(rows), *array.shape[1:]), array.dtype)])
            for array in inputs
        ]
        for place, (name, version) in enumerate(chunk.items()):
            if version.view:
                filled[0][place] = self._augment.changed(filled[0][place], np.random.default_rng(list(name)))
        device = device_in_use(encoder)
        with torch.no_grad():
            kept = encoder.kept(*(torch.from_numpy(array).to(device) for array in filled)).cpu()
        return dict(zip(chunk, kept[: len(rows)].numpy(), strict=True))

    def _name(self, weights: str, row: Sequence[NDArray[np.generic]], view: int) -> bytes:
        name = hashlib.blake2b(weights.encode(), digest_size=KEY)
        for array in row:
            name.update(f"{array.dtype.str}{array.shape}".encode())
            name.update(np.ascontiguousarray(array).data)
        if view:
            name.update(self._plan + bytes([view]))
        return name.digest()

    def _digest(self, stage: str, encoder: PretrainedEncoder) -> str:
        """Of the frozen weights and of the form of the rows, computed once."""
        if stage not in self._weights:
            self._weights[stage] = encoder.frozen_digest()
        return self._weights[stage]
