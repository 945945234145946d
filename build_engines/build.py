"""One build, as every stage sees it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from build_engines.artefacts import digest
from build_engines.recipe import AnyRecipe
from edge_runtime.bundle import Bundle, open_bundle


@dataclass(frozen=True)
class Build:
    """The recipe, where its data, work and result lie, and where to report."""

    recipe: AnyRecipe
    recipe_digest: str
    data: Path
    work: Path
    bundle: Path
    """Where the signed bundle goes."""
    console: Console
    model: str
    """The FP32 bundle that calibration and all after it start from, below `work`."""
    key: Path | None = None
    """Private key to sign with; None = one of the work folder's own, made on first use."""
    with_engines: bool = True
    """Put the engines that were compiled ahead of time into the bundle."""
    _split_digests: dict[str, str] = field(default_factory=dict)

    def split_digest(self, split: str) -> str:
        """sha256 over the data folder's `split`, or over all the data where a split is no folder of its own."""
        if split not in self._split_digests:
            self._split_digests[split] = digest(self.data / split) or digest(self.data)
        return self._split_digests[split]


def model_bundle(build: Build) -> Bundle:
    """The FP32 bundle."""
    return open_bundle(build.work / build.model, allow_unsigned=True)
