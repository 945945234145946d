"""The networks that can be had, and where a recipe's one comes from: an installed package, or a file of one's own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from build_engines.pretrained.packages import check_digest, find_package
from build_engines.pretrained.recipe import PretrainedKeys
from edge_runtime.errors import UserError

GRAPH = "graph"
"""What a network is called that comes as a file of its own."""
APACHE = "Apache-2.0.txt"
"""The text of that licence, kept here, for packages that name it and do not bring it."""


class Shipped(NamedTuple):
    """A network as a package ships it."""

    network: str
    """Which code reads the weights."""
    weights: str
    """The file, as the package's list of files spells it."""
    sha256: str
    licence: str
    """SPDX, of the weights."""
    credit: str
    """Whom to name."""
    licence_files: tuple[str, ...] = ()
    """Texts of the licence that lie elsewhere than beside the package's metadata: of the package, or `APACHE`."""


@dataclass(frozen=True)
class Origin:
    """A network's files, and what must be said of them."""

    network: str
    weights: Path
    sha256: str
    name: str
    """Package or file name."""
    licence: str = ""
    credit: str = ""
    licence_texts: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """Whom to name, and under which licence."""
        of = self.credit or (self.network if self.network != GRAPH else "a network of its own")
        return f"{of}, from {self.name}; licence {self.licence or 'not stated'}"

    @property
    def licence_text(self) -> str:
        """All that came with the weights; without any text, the licence's name."""
        rule = "\n\n" + "-" * 80 + "\n\n"
        return rule.join((f"{self.words}\n", *self.licence_texts))


def origin_of(keys: PretrainedKeys, shelf: Mapping[str, Shipped], networks: tuple[str, ...]) -> Origin:
    """Where the network of `keys` lies. `shelf`: package to what it ships; `networks`: names that `file` may be of.

    Raises UserError where it is not there, or is another than the pinned one.
    """
    if keys.package:
        if keys.package not in shelf:
            raise UserError(f"package is {keys.package!r}; known are {', '.join(shelf)}")
        shipped, package = shelf[keys.package], find_package(keys.package)
        weights = package.file(shipped.weights, shipped.sha256)
        own = Path(__file__).with_name(APACHE)
        more = (own if name == APACHE else package.file(name) for name in shipped.licence_files)
        files = (*package.licence_files, *more)
        texts = tuple(file.read_text(encoding="utf-8", errors="replace") for file in files)
        return Origin(shipped.network, weights, shipped.sha256, keys.package, shipped.licence, shipped.credit, texts)
    path = Path(keys.file)
    if not path.is_file():
        raise UserError(f"file is {keys.file!r}, which is not there; give the pretrained network's file")
    if path.suffix == ".pt2":
        raise UserError(
            f"file is {path.name}: torch.export.load unpickles what it reads; save the program as ONNX "
            "(torch.onnx.export) instead"
        )
    if holds_network(keys):
        if keys.network:
            raise UserError(f"network is {keys.network!r}, but {path.name} holds a network itself; leave it out")
    elif keys.network not in networks:
        raise UserError(
            f"network is {keys.network!r}; weights can be read of {', '.join(networks)}. A network of another kind is "
            "given as ONNX or TorchScript"
        )
    if keys.sha256:
        check_digest(path, keys.sha256, "give the file that the recipe means")
    total = hashlib.sha256()
    for file in network_files(keys):
        if str(file) != keys.licence_file:
            total.update(file.read_bytes())
    return Origin(keys.network or GRAPH, path, total.hexdigest(), path.name, keys.licence, "", _texts(keys))


def holds_network(keys: PretrainedKeys) -> bool:
    """Whether `file` is a network with its weights, ONNX or TorchScript, and not weights alone."""
    from build_engines.foreign.torchscript import is_torchscript

    return bool(keys.file) and (keys.file.endswith(".onnx") or is_torchscript(Path(keys.file)))


def network_files(keys: PretrainedKeys) -> tuple[Path, ...]:
    """`file`, the files that hold its weights where they are others, and the licence's text; those that are there.
    Raises UserError for a broken one."""
    path = Path(keys.file)
    if not keys.file or not path.is_file():
        return ()
    from build_engines.foreign.read import files_of

    files = files_of(path) if path.suffix == ".onnx" else [path]
    return tuple(files + ([Path(keys.licence_file)] if keys.licence_file else []))


def _texts(keys: PretrainedKeys) -> tuple[str, ...]:
    """What must go with `file`. Raises UserError."""
    if keys.licence_file:
        files = [Path(keys.licence_file)]
    else:
        beside = sorted(Path(keys.file).parent.iterdir())
        files = [
            file
            for file in beside
            if file.is_file() and file.stem.upper() in ("LICENSE", "LICENCE", "NOTICE", "COPYING")
        ]
    try:
        return tuple(file.read_text(encoding="utf-8", errors="replace") for file in files)
    except OSError as error:
        raise UserError(f"licence_file is {keys.licence_file!r}: cannot be read ({error.strerror})") from None


def problem_of(keys: PretrainedKeys, table: str, pretrained: bool) -> str | None:
    """What contradicts itself in `keys` of the table `table`, or None."""
    plain = PretrainedKeys()
    if not pretrained:
        given = [name for name in PretrainedKeys.__struct_fields__ if getattr(keys, name) != getattr(plain, name)]
        return f"{table}.{given[0]} is for kind = 'pretrained'; leave it out" if given else None
    if bool(keys.package) == bool(keys.file):
        return f"{table}: kind = 'pretrained' needs package = 'NAME==VERSION' or file = 'weights', one of them"
    if keys.package and (keys.network or keys.sha256):
        return f"{table}: network and sha256 are for file; the package is known"
    if keys.package and (keys.output or keys.licence or keys.licence_file):
        return f"{table}: output, licence and licence_file are for file; the package is known"
    return None
