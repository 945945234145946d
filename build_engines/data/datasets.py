"""Labelled data as the device would see it, and as training wants it.

A layout module gives two things: `read`, the labelled moments of a split as raw messages (what calibration and
evaluation feed through the device's own code), and `prepare`, the arrays for training, made with that same code.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, cast

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from build_engines.heads import build_of
from build_engines.heads.labelled import OneLabelBuild
from build_engines.pretrained.recipe import FILES
from build_engines.recipe import PLAIN_DATASET, AnyRecipe, BuildRecipe, DatasetRecipe, Recipe
from calibration.moments import LabelledSet
from edge_runtime.bundle import Bundle
from edge_runtime.errors import UserError
from edge_runtime.heads import Head
from edge_runtime.streams import StreamSpec

if TYPE_CHECKING:
    from build_engines.data.lexicon import Lexicon

Ints = NDArray[np.int64]
NO_WORD = -1
"""Label of a place in a tagged sentence's row where there is no word, or one whose tag the model does not know."""


class LayoutModule(Protocol):
    """What a layout module offers."""

    MARKER: str
    """Pattern of a file in a split's folder by which the layout is known."""

    def read(
        self, data: Path, split: str, streams: Mapping[str, StreamSpec], dataset: DatasetRecipe = ...
    ) -> Iterator[LabelledSet]:
        """The labelled moments of `split`, in time order within each group; `dataset` says what its fields mean."""
        ...

    def prepare(self, recipe: Recipe, data: Path, work: Path) -> Prepared:
        """Everything training needs; `work` may hold caches."""
        ...


LAYOUTS = {
    "home": "build_engines.data.home",
    "ner": "build_engines.data.ner",
    "samples": "build_engines.data.samples",
    "world": "build_engines.data.world",
    "images": "build_engines.data.images",
    "detection": "build_engines.data.detection",
    "recordings": "build_engines.data.recordings",
}
"""Name in a recipe (or `--layout`) to the module that reads it; where several markers fit, the first is meant."""
FOLDED = frozenset({"home", "samples", "images", "recordings"})
"""Layouts whose training split is parted into folds; of the world, as many new drives as are wanted can be recorded."""
RECIPE_FILE = "report/recipe.json"
"""In a bundle: the recipe it was built from, as it was understood."""


@dataclass(frozen=True)
class Layout:
    """A layout module, with what a recipe says of its fields."""

    module: LayoutModule
    dataset: DatasetRecipe = PLAIN_DATASET

    def __reduce__(self) -> tuple[Any, ...]:
        return _layout, (cast(ModuleType, self.module).__name__, self.dataset)

    @property
    def MARKER(self) -> str:  # noqa: N802  # the module's own name for it
        """Pattern of a file in a split's folder by which the layout is known."""
        return self.module.MARKER

    def read(self, data: Path, split: str, streams: Mapping[str, StreamSpec]) -> Iterator[LabelledSet]:
        """The labelled moments of `split`, in time order within each group. Raises UserError."""
        return self.module.read(data, split, streams, self.dataset)

    def prepare(self, recipe: Recipe, data: Path, work: Path) -> Prepared:
        """Everything training needs; `work` may hold caches. Raises UserError."""
        return replace(self.module.prepare(recipe, data, work), cache=work)


def _layout(module: str, dataset: DatasetRecipe) -> Layout:
    return Layout(cast(LayoutModule, importlib.import_module(module)), dataset)


def layout_named(name: str, dataset: DatasetRecipe = PLAIN_DATASET) -> Layout:
    """The layout called `name`. Raises UserError listing the names."""
    if name not in LAYOUTS:
        raise UserError(f"layout is {name!r}; there are {', '.join(LAYOUTS)}")
    return _layout(LAYOUTS[name], dataset)


def layout_of_recipe(recipe: BuildRecipe) -> Layout:
    """The layout that `recipe` names, with its dataset's settings."""
    return layout_named(recipe.layout, recipe.dataset)


def layout_of(data: Path, split: str) -> Layout:
    """The layout that `data`/`split` holds, by its marker file. Raises UserError."""
    for name in LAYOUTS:
        layout = layout_named(name)
        if next((data / split).glob(layout.MARKER), None) is not None:
            return layout
    markers = ", ".join(dict.fromkeys(layout_named(name).MARKER for name in LAYOUTS))
    raise UserError(
        f"data {data}: no split {split!r} of a known layout (looked for {markers}); check --data and --split"
    )


class Origin(Struct, frozen=True):
    """What `report/recipe.json` says of the data; the rest of it is for people."""

    layout: str
    dataset: DatasetRecipe = PLAIN_DATASET


def layout_for(bundle: Bundle, data: Path, split: str, name: str | None = None) -> Layout:
    """The layout to read `data`/`split` with for `bundle`: the one called `name`, else the one it was built from (if
    the folder holds such a split), else the one that the folder's files show. Raises UserError.
    """
    if name is None and (only := build_of(bundle.manifest.head).layout):
        return layout_named(only, _dataset_of(bundle))  # its files may lie in no split's folder
    if RECIPE_FILE not in bundle.manifest.files:
        return layout_named(name) if name else layout_of(data, split)
    origin = _origin(bundle)
    if name is None and next((data / split).glob(layout_named(origin.layout).MARKER), None) is None:
        return layout_of(data, split)
    return layout_named(name or origin.layout, origin.dataset)


def dataset_for(bundle: Bundle, layout: str, condition: str = "") -> DatasetRecipe:
    """What the fields of data in `layout` mean to `bundle`: as its recipe says, where it was built from such data, else
    what they are called. `condition`, where given, is the field that tells circumstances apart. Raises UserError."""
    plain = RECIPE_FILE not in bundle.manifest.files or _origin(bundle).layout != layout
    dataset = PLAIN_DATASET if plain else _origin(bundle).dataset
    return msgspec.structs.replace(dataset, condition=condition) if condition else dataset


def _dataset_of(bundle: Bundle) -> DatasetRecipe:
    return _origin(bundle).dataset if RECIPE_FILE in bundle.manifest.files else PLAIN_DATASET


def _origin(bundle: Bundle) -> Origin:
    """Raises UserError."""
    try:
        return msgspec.json.decode(bundle.read(RECIPE_FILE), type=Origin)
    except msgspec.DecodeError as error:
        raise UserError(
            f"bundle {bundle.path}: {RECIPE_FILE} is not of this version ({error}); build it again"
        ) from None


def recipe_json(recipe: AnyRecipe) -> bytes:
    """`recipe` as it was understood, without where things lie on this machine: what `report/recipe.json` holds."""
    document: dict[str, Any] = msgspec.to_builtins(recipe)
    document["data"] = ""
    document["calibrate"]["recordings"] = [Path(file).name for file in recipe.calibrate.recordings]
    if "mined" in document:
        document["mined"]["folders"] = [Path(folder).name for folder in document["mined"]["folders"]]
    for target in document["budget"]["targets"].values():
        target["measured"] = Path(target["measured"]).name
    for stage in document.get("onnx", {}).get("stages", ()):
        stage["file"] = Path(stage["file"]).name
    for keys in document.get("model", {}).values():
        for name in FILES if isinstance(keys, dict) else ():
            if keys.get(name):
                keys[name] = Path(keys[name]).name
    if tokenizer := document.get("onnx", {}).get("tokenizer"):
        document["onnx"]["tokenizer"] = Path(tokenizer).name
    return msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n"


Inputs = tuple[NDArray[Any], ...]


def in_step(inputs: Mapping[str, Inputs], count: int) -> dict[str, Ints]:
    """The rows of `count` pairs of which each is its own row in every modality."""
    return {name: np.arange(count) for name in inputs}


@dataclass(frozen=True, slots=True)
class Batch:
    """A training step's arrays. B rows of each modality are encoded; P pairs of rows are fused and judged."""

    inputs: Mapping[str, Inputs]
    """Encoder to what it reads, [B, ...] each: `vision` one array [B, cameras, H, W, 3] BGR; `text` ids and mask [B, L]
    ([B, W, P] where words are encoded one by one); `sensors` window and mask [B, T, C]; `audio` frames [B, T, M] and
    mask [B, T, 1]."""
    rows: Mapping[str, Ints]
    """Encoder to its row in each pair, [P]."""
    label: NDArray[np.generic]
    """[P] int64; [P, W] for a tagging head, `NO_WORD` beyond the sentence's end; [P, V] float32 of a regression one."""
    presence: NDArray[np.float32]
    """[P, n] in the recipe's order of modalities."""
    label_without: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)
    """Stream to the labels [P] that hold where it is dropped."""
    aux: Mapping[str, Ints] = field(default_factory=dict)
    """Auxiliary label to its class for each encoded row [B]."""
    side: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)
    """Name of a head beside the first to what is right, as `label`."""


class Source(Protocol):
    """Where batches come from."""

    counts: NDArray[np.float64]
    """How often each label occurs."""
    aux_counts: Mapping[str, NDArray[np.float64]]
    """The same for auxiliary labels."""
    side_counts: Mapping[str, NDArray[np.float64]]
    """The same for the heads beside the first."""
    steps: int
    """Batches in an epoch."""

    def epoch(self, rng: np.random.Generator) -> Iterator[Batch]:
        """One epoch's batches, drawn with `rng`."""
        ...


@dataclass(frozen=True)
class Fold:
    """A training split without some of its groups, and those."""

    train: Source
    judged: Sequence[Batch]
    """The moments of the groups left out, as of the validation split."""
    groups: tuple[str, ...]
    """The group of each of them."""


@dataclass(frozen=True)
class Prepared:
    """A layout's data, ready for training."""

    streams: dict[str, StreamSpec]
    """The recipe's streams with the channels' mean and deviation fitted to the training split."""
    tokenizer: bytes | None
    train: Source
    val: Sequence[Batch]
    """The validation split as pairs, everything present that was recorded."""
    digest: str
    """sha256 over the training split's files."""
    lexicon: Lexicon | None = None
    """Listed words that the text encoder learns too."""
    cache: Path | None = None
    """Folder for what is costly to make and may be made again: features of frozen encoders."""
    folds: Callable[[int, int], Sequence[Callable[[], Fold]]] | None = None
    """The training split in at most so many folds, drawn with a seed, each made when it is called for: every group is
    left out once. Empty where there are fewer than two groups; None for a layout that is not in `FOLDED`."""


def answer_names(recipe: Recipe) -> tuple[str, ...]:
    """The recipe's labels by number; a sigmoid head's are followed by the answer that none of them holds."""
    return names_of(recipe.output_head) or recipe.labels


def names_of(head: Head) -> tuple[str, ...]:
    """What a head that answers a moment with one label may say, by number; empty for other heads."""
    build = build_of(head)
    return build.names(head) if isinstance(build, OneLabelBuild) else ()


def digest_of(folder: Path) -> str:
    """sha256 (hex) over the names and bytes of all files below `folder`, in name order."""
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        total.update(f"{path.relative_to(folder).as_posix()}\0".encode())
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def read_file(path: Path) -> bytes:
    """A data file's bytes. Raises UserError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"data {path}: cannot be read ({error.strerror}); the data folder is incomplete") from None
