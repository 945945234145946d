"""What the frozen parts of pretrained encoders make of training's inputs: computed once, kept on disk.

A row is kept under the digest of all that it depends on: the frozen weights, the input's bytes and, of a changed
picture, how it was changed. So whatever else a recipe changes, and in every fold of a cross-validation, it is found
again.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from build_engines.data.augment import Augmenter
from build_engines.modalities.layers import Encoded
from build_engines.modalities.pretrained_encoder import PretrainedEncoder
from build_engines.recipe import AugmentRecipe

KEY = 16
"""Bytes of a row's name."""
CHUNK = 16
"""Rows that go through a network at once, the last ones filled up: a row's values then never depend on those that
happened to be computed beside it."""


class RowFile:
    """Float32 rows of one shape by name, in two files that only grow. One process writes; others that find them taken
    remember their new rows while they run. One thread.
    """

    def __init__(self, stem: Path, shape: Sequence[int]) -> None:
        self._shape = tuple(shape)
        self._size = int(np.prod(shape)) * 4
        self._places: dict[bytes, int] = {}
        self._extra: dict[bytes, NDArray[np.float32]] = {}
        stem.parent.mkdir(parents=True, exist_ok=True)
        self._names, self._rows = (stem.with_name(stem.name + end).open("a+b") for end in (".names", ".rows"))
        self._writes = _locked(self._names)
        self._read_names()

    def _read_names(self) -> None:
        """A run that was broken off may have left half a row, or a row without its name: both go."""
        self._names.seek(0)
        names = self._names.read()
        count = min(len(names) // KEY, os.fstat(self._rows.fileno()).st_size // self._size)
        self._places = {names[place * KEY : (place + 1) * KEY]: place for place in range(count)}
        if self._writes:
            self._names.truncate(count * KEY)
            self._rows.truncate(count * self._size)
        self._count = count

    def __contains__(self, name: bytes) -> bool:
        return name in self._places or name in self._extra

    def get(self, names: Sequence[bytes]) -> NDArray[np.float32]:
        """The rows called `names`, which are all there, [n, ...]."""
        found = np.empty((len(names), *self._shape), np.float32)
        for row, name in enumerate(names):
            if name in self._extra:
                found[row] = self._extra[name]
            else:
                data = os.pread(self._rows.fileno(), self._size, self._places[name] * self._size)
                found[row] = np.frombuffer(data, np.float32).reshape(self._shape)
        return found

    def put(self, name: bytes, row: NDArray[np.float32]) -> None:
        """Keep a row that is not there yet."""
        if not self._writes:
            self._extra[name] = row
            return
        self._rows.write(np.ascontiguousarray(row, np.float32).tobytes())
        self._names.write(name)
        self._places[name] = self._count
        self._count += 1

    def flush(self) -> None:
        """What was put can be read from now on."""
        self._rows.flush()
        self._names.flush()

    def close(self) -> None:
        for file in (self._rows, self._names):
            file.close()


def _locked(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


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
        tensors = [torch.from_numpy(array) for array in inputs]
        if isinstance(encoder, PretrainedEncoder) and self.keeps(encoder):
            return encoder.finish(self._looked_up(stage, encoder, inputs), *tensors)
        encoded: Encoded = encoder(*tensors)
        return encoded

    def _looked_up(self, stage: str, encoder: PretrainedEncoder, inputs: Sequence[NDArray[np.generic]]) -> Tensor:
        """What the frozen part makes of `inputs`; where the encoder is in training, of one of the pictures' versions
        each."""
        pictures = stage == "vision"
        changed = pictures and encoder.training and encoder.views > 1 and self._augment.active
        views = self._rng.integers(encoder.views, size=len(inputs[0])) if changed else np.zeros(len(inputs[0]), int)
        weights = self._digest(stage, encoder)
        names = [self._name(weights, [array[row] for array in inputs], int(view)) for row, view in enumerate(views)]
        file = self._file(stage, weights, encoder, inputs)
        fresh = list({name: row for row, name in enumerate(names) if name not in file}.values())
        for start in range(0, len(fresh), CHUNK):
            rows = fresh[start : start + CHUNK]
            made = self._made(
                encoder, [array[rows] for array in inputs], [(names[row], int(views[row])) for row in rows]
            )
            for row, values in zip(rows, made, strict=True):
                file.put(names[row], values)
            file.flush()
        return torch.from_numpy(file.get(names))

    def _file(
        self, stage: str, weights: str, encoder: PretrainedEncoder, inputs: Sequence[NDArray[np.generic]]
    ) -> RowFile:
        """Where the rows of a stage lie; their form is that of a row of nothing."""
        if stage not in self._files:
            assert self._folder is not None
            shape = encoder.kept(*(torch.from_numpy(np.zeros_like(array[:1])) for array in inputs)).shape[1:]
            form = "x".join(map(str, shape))
            self._files[stage] = RowFile(self._folder / f"{stage}-{weights[:16]}-{form}", shape)
        return self._files[stage]

    def _made(
        self, encoder: PretrainedEncoder, inputs: Sequence[NDArray[np.generic]], versions: Sequence[tuple[bytes, int]]
    ) -> NDArray[np.float32]:
        """Up to `CHUNK` rows of `inputs`, changed where their version is not the first, through the frozen part."""
        count = len(versions)
        filled = [np.concatenate([array, np.zeros((CHUNK - count, *array.shape[1:]), array.dtype)]) for array in inputs]
        for row, (name, view) in enumerate(versions):
            if view:
                changed = self._augment.changed(filled[0][row], np.random.default_rng(list(name)))
                filled[0][row] = changed
        with torch.no_grad():
            kept = encoder.kept(*(torch.from_numpy(array) for array in filled))
        return kept[:count].numpy()

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
            total = hashlib.sha256(f"{encoder.origin.network} {len(list(encoder.unfrozen.children()))}".encode())
            for value in encoder.frozen.state_dict().values():
                total.update(value.numpy().tobytes())
            self._weights[stage] = total.hexdigest()
        return self._weights[stage]
