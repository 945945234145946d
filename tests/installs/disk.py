"""A disk that stops after any step, and what a power cut would have left of it."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

from edge_runtime.durable import Disk


class Killed(BaseException):
    """The process was killed: nothing that catches errors sees it."""


@dataclass(eq=False)
class File:
    data: bytes
    synced: bytes | None = None
    """What is sure to be there after a power cut."""


@dataclass(eq=False)
class Folder:
    entries: dict[str, File | Folder] = field(default_factory=dict)
    synced: dict[str, File | Folder] = field(default_factory=dict)
    since: list[tuple[str | None, str | None, File | Folder | None]] = field(default_factory=list)
    """Changes that were not synced, each a name that went, one that came, and what bears it: a power cut leaves any of
    them, whatever became of those before."""

    def change(self, gone: str | None, come: str | None, node: File | Folder | None = None) -> None:
        self.since.append((gone, come, node))
        _change(self.entries, gone, come, node)


class FaultyDisk(Disk):
    """Works on `root`, and keeps account of what was synced. What is there at the beginning was.

    Step number `stop` (from 0) is not done, or half, and raises Killed.
    """

    def __init__(self, root: Path, stop: int | None = None) -> None:
        self.steps = 0
        self._root = root
        self._stop = stop
        self._tree = _read(root)

    def make_folder(self, path: Path) -> None:
        self._step()
        super().make_folder(path)
        self._enter(path, Folder())

    def write(self, path: Path, data: bytes) -> None:
        if self.steps == self._stop and len(data) > 1:
            super().write(path, data[: len(data) // 2])
            self._enter(path, File(data[: len(data) // 2]))
        self._step()
        super().write(path, data)
        self._enter(path, File(data))

    def sync(self, path: Path) -> None:
        self._step()
        node = self._node(path)
        if isinstance(node, File):
            node.synced = node.data
        else:
            node.synced, node.since = dict(node.entries), []

    def rename(self, old: Path, new: Path) -> None:
        self._step()
        super().rename(old, new)
        parent = self._folder(old.parent)
        parent.change(old.name, new.name, parent.entries[old.name])

    def remove(self, path: Path) -> None:
        self._step()
        super().remove(path)
        self._folder(path.parent).change(path.name, None)

    def after_a_power_cut(self, target: Path, chance: random.Random | None) -> Path:
        """What could be found then, at `target`: nothing that was not synced, or by `chance` some of it."""
        _write(self._tree, target, chance)
        return target

    def _step(self) -> None:
        if self.steps == self._stop:
            raise Killed
        self.steps += 1

    def _node(self, path: Path) -> File | Folder:
        node: File | Folder = self._tree
        for part in path.relative_to(self._root).parts:
            assert isinstance(node, Folder)
            node = node.entries[part]
        return node

    def _folder(self, path: Path) -> Folder:
        node = self._node(path)
        assert isinstance(node, Folder)
        return node

    def _enter(self, path: Path, node: File | Folder) -> None:
        self._folder(path.parent).change(None, path.name, node)


def _read(path: Path) -> Folder:
    entries: dict[str, File | Folder] = {
        entry.name: _read(entry) if entry.is_dir() else File(entry.read_bytes(), entry.read_bytes())
        for entry in path.iterdir()
    }
    return Folder(entries, dict(entries))


def _change(entries: dict[str, File | Folder], gone: str | None, come: str | None, node: File | Folder | None) -> None:
    if gone is not None:
        entries.pop(gone, None)
    if come is not None:
        assert node is not None
        entries[come] = node


def _write(folder: Folder, target: Path, chance: random.Random | None) -> None:
    target.mkdir(parents=True)
    entries = dict(folder.synced)
    if chance is not None:
        for change in folder.since:
            if chance.random() < 0.5:
                _change(entries, *change)
    for name, node in entries.items():
        if isinstance(node, Folder):
            _write(node, target / name, chance)
            continue
        data = node.synced
        if data is None:
            data = b"" if chance is None else node.data[: chance.randrange(len(node.data) + 1)]
        (target / name).write_bytes(data)
