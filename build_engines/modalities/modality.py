"""What the build asks of a modality: a kind of stream, the encoder that reads it, and how it goes bad.

Nothing here imports torch: a network is imported where it is made.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar

from msgspec import Struct

from build_engines.modalities.faults import Fault
from build_engines.pretrained.shelf import Origin
from build_engines.rows import Row
from calibration.moments import RawMessage

if TYPE_CHECKING:
    from torch import nn

Spec = TypeVar("Spec", bound=Struct)
Keys = TypeVar("Keys", bound=Struct)


class EncoderRecipe(Protocol):
    """What the keys of every encoder hold."""

    @property
    def streams(self) -> tuple[str, ...]:
        """The streams that it reads."""

    @property
    def aux(self) -> dict[str, int]:
        """Auxiliary label of this modality to its number of classes."""

    @property
    def aux_in_features(self) -> bool:
        """Let the auxiliary heads' probabilities be a part of the features."""


class Input(NamedTuple):
    """One tensor that an encoder reads."""

    layout: str
    """For people: axes and meaning, as the manifest says it."""
    monolith: str
    """What the monolith calls it."""


@dataclass(frozen=True)
class SampleRow:
    """A row of a table of labelled moments, as the layout `samples` gives it."""

    fields: Row
    field: str
    """That of the stream."""
    at_ns: int
    """Capture time of the moment."""
    path: Callable[[str], Path]
    """A file's name in the row to where it is. Raises UserError where there is none."""
    categories: Mapping[str, Mapping[str, float]]
    """Channel to the number that stands for each word of it."""


class Modality(ABC, Generic[Keys, Spec]):
    """A row of the table in `build_engines.modalities`. Stateless."""

    spec: ClassVar[type[Struct]]
    """The kind of stream that it is, by how a bundle declares one."""
    recipe: ClassVar[type[Struct]]
    """The keys of its encoder in `[model]`: an `EncoderRecipe`."""
    inputs: ClassVar[Mapping[str, Input]]
    """The stream's fields to what the encoder reads."""
    batched: ClassVar[bool] = False
    """Whether the encoder reads several streams of one form, one after the other as rows of a batch."""
    steady: ClassVar[bool] = False
    """Whether a device always has a message of any age: they come faster than recordings keep them."""
    field: ClassVar[str]
    """Where a row of the layout `samples` holds such a stream, unless the recipe's `dataset.fields` says otherwise."""
    shares_field: ClassVar[bool] = False
    """Whether several streams of this kind may take their messages from one row."""

    def problem(self, recipe: Keys) -> str | None:
        """What contradicts itself in the encoder's keys, or None."""
        return None

    def origin(self, recipe: Keys) -> Origin | None:
        """Where the encoder's pretrained network comes from; None where it has none. Raises UserError where it is not
        there."""
        return None

    def files(self, recipe: Keys) -> tuple[Path, ...]:
        """The files of one's own that the encoder is made of. Raises UserError for a broken one."""
        return ()

    @abstractmethod
    def network(self, recipe: Keys, spec: Spec, vocabulary: int, features: int) -> nn.Module:
        """The encoder: its fields' tensors to `features` values, and the logits of its auxiliary labels."""

    def layout(self, field: str, shape: tuple[int, ...]) -> str:
        """What the manifest says of an input of this shape."""
        return self.inputs[field].layout

    @abstractmethod
    def messages(self, name: str, spec: Spec, row: SampleRow) -> Iterator[RawMessage]:
        """What a row of the layout `samples` holds for the stream `name`. Raises UserError."""

    def fitted(self, spec: Spec, messages: Iterable[RawMessage]) -> Spec:
        """`spec` with what is fitted to the training split's messages. Raises UserError where there are none."""
        return spec

    @abstractmethod
    def faults(self, name: str, spec: Spec, tagged: bool) -> dict[str, Fault]:
        """What can befall the stream `name`, by name of the fault. `tagged`: its words have tags, and keep their
        number."""


AnyModality = Modality[Any, Any]
