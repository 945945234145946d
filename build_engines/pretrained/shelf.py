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
        return f"{self.credit or self.network}, from {self.name}; licence {self.licence or 'not stated'}"

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
        raise UserError(f"file is {keys.file!r}, which is not there; give the pretrained weights' file")
    if keys.network not in networks:
        raise UserError(f"network is {keys.network!r}; weights can be read of {', '.join(networks)}")
    if keys.sha256:
        check_digest(path, keys.sha256, "give the file that the recipe means")
    texts = tuple(
        file.read_text(encoding="utf-8", errors="replace")
        for file in sorted(path.parent.iterdir())
        if file.is_file() and file.stem.upper() in ("LICENSE", "LICENCE", "NOTICE", "COPYING")
    )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Origin(keys.network, path, digest, path.name, licence_texts=texts)


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
    return None
