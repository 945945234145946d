"""What the run flow asks of a kind of stream. Each kind answers in a module of its own; `streams` is their table."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Generic, Literal, TypeVar

from msgspec import Struct

from edge_runtime.admit import Refusal
from edge_runtime.choose import newest_only
from edge_runtime.kinds.record import Time, schema_of
from edge_runtime.messages import Message, Slice, Tensors
from edge_runtime.tensors import DType

Spec = TypeVar("Spec", bound=Struct)
M = TypeVar("M", bound=Message)
R = TypeVar("R", bound=Struct)

Read = Callable[[str], bytes]
"""Name of a bundle's file to its verified bytes."""
Preprocess = Callable[[Slice], Tensors]
"""A stream's present slice to its tensors by field. Pure."""
Make = Callable[[str, int, int, "str | None"], Message]
"""Stream, number, capture time and the sender's mark to the message."""


class Partly(Struct, frozen=True):
    """A message is made of what could be used; `refused` says why the rest could not, by the name of the part."""

    make: Make
    refused: Mapping[str, Refusal]


Admit = Callable[[Any], "Make | Partly | Refusal"]
"""One stream's admission: what a sender gave, to the message it makes or why it is refused. May remember what came
before. Called by one thread at a time; of a kind whose `work_ns` is more than nothing, by several."""


class Field(Struct, frozen=True):
    """One tensor that a stream gives, [1, ...]."""

    dtype: DType
    shape: tuple[int, ...]
    likeness: Literal["picture", "readings", "exact"] = "exact"
    """By what two moments are nearly the same: how a picture looks, standardised values that are close, or equality."""


class Kind(ABC, Generic[Spec, M, R]):
    """One row of the table of kinds. Stateless; any thread."""

    spec: ClassVar[type[Struct]]
    """How a bundle declares such a stream."""
    message: ClassVar[type[Message]]
    content: ClassVar[tuple[type, ...]]
    """What senders may give: raw forms. The kind's own message is taken too, as from a recording."""
    record: ClassVar[type[Struct]]
    """Its form in recordings: has `seq`, `captured_ns` and perhaps `id`."""
    schema: ClassVar[str]
    """Name of that form's schema; old recordings are known by it."""
    keep: ClassVar[int] = 1
    """How many messages wait for the loop before the oldest is replaced (and counted)."""
    each_answered: ClassVar[bool] = False
    """As a trigger: every message gets a decision of its own; else the newest stands for all that wait."""
    pairs: ClassVar[bool] = False
    """Whether several such streams see the same moment, a little apart."""
    surplus: ClassVar[str] = "superseded"
    """Why a message was left out though its stream is present."""

    def files(self, spec: Spec) -> tuple[str, ...]:
        """Files that a bundle with such a stream must hold."""
        return ()

    def problems(self, spec: Spec) -> Iterator[str]:
        """What contradicts itself in `spec`."""
        return iter(())

    @abstractmethod
    def admission(self, spec: Spec) -> Admit:
        """The admission of one stream, its memory empty."""

    def work_ns(self, content: Any) -> int:
        """How long the admission of `content` may take, roughly, at a glance: what takes long goes another way."""
        return 0

    def choose(self, name: str, spec: Spec, messages: Sequence[Message], reference_ns: int, now_ns: int) -> Slice:
        """What alignment takes of `messages` (in order of capture time) for a decision at `reference_ns`. Pure."""
        return newest_only(name, spec, messages, reference_ns, now_ns)

    def reach_ns(self, spec: Spec) -> int | None:
        """How far behind the last messages considered a later decision may reach; None = the newest one is enough."""
        return None

    @abstractmethod
    def fields(self, spec: Spec) -> dict[str, Field]:
        """The tensors of such a stream by field, as `preprocessor` gives them."""

    @abstractmethod
    def preprocessor(self, spec: Spec, read: Read) -> Preprocess:
        """How a slice of this stream becomes tensors; `read` gives the bundle's files. Raises BundleError."""

    @abstractmethod
    def to_record(self, message: M, at: Time, jpeg_quality: int | None) -> R:
        """`message`, captured at wall time `at`, as it is recorded, without loss unless `jpeg_quality` is given."""

    @abstractmethod
    def to_message(self, stream: str, record: R) -> M:
        """What was recorded. Raises ValueError where it cannot be decoded."""

    def record_schema(self, spec: Spec, name: str) -> tuple[str, dict[str, Any]]:
        """Name and JSON Schema of the records of the stream `name`."""
        return self.schema, schema_of(self.record, self.schema)

    def unrecorded(self, message: M) -> M:
        """`message` without what only a recorder asks for."""
        return message

    def weight(self, message: M) -> int:
        """Bytes that `message` takes beyond some hundreds until it is recorded."""
        return 0

    def footprint(self, message: M) -> int:
        """Bytes of memory that `message` holds beyond some hundreds, decoded content included."""
        return self.weight(message)

    def encoded(self, message: M) -> bool:
        """Whether its record costs nothing to make and holds less memory than the message."""
        return False

    def fitted(self, spec: Spec, message: M) -> M | None:
        """A recorded message as far as the stream of a bundle can take it, or None. Raises ValueError where what was
        recorded is damaged."""
        return message

    @abstractmethod
    def detail(self, spec: Spec) -> str:
        """What people want to know of such a stream, in some words."""
