"""What an engine is: one stage's graph, opened from verified bytes; named arrays in, named arrays out.

An engine knows tensors only: no labels, no streams, no model families. A back end is what the engines of one bundle
share: a device, a library.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import TypeVar

from edge_runtime.bundle import Bundle, EngineFile
from edge_runtime.errors import EngineError
from edge_runtime.messages import Tensors
from edge_runtime.tensors import TensorSpec, check

_Engine = TypeVar("_Engine", bound="Engine")
_Backend = TypeVar("_Backend", bound="Backend")


class Engine(ABC):
    """Opens in its constructor, runs, closes. All calls from the one inference thread that made it."""

    backend: str

    def __init__(self, name: str, precision: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
        self.name = name
        self.precision = precision
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self._closed = False
        self._started = False

    def run(self, tensors: Tensors) -> Tensors:
        """Outputs by name, as arrays that stay valid (not reused by the next run).

        Raises EngineError if an input is missing or does not meet its spec, the engine is closed, or the run fails.
        """
        self.start(tensors)
        return self.finish()

    def start(self, tensors: Tensors) -> None:
        """Begin a run, so that engines on a device work side by side. Raises EngineError as `run`."""
        if self._closed:
            raise EngineError(f"engine {self.name}: run after close")
        for spec in self.inputs:
            if spec.name not in tensors:
                raise EngineError(f"engine {self.name}: input {spec.name!r} is missing")
            check(spec, tensors[spec.name], f"engine {self.name}")
        self._start(tensors)
        self._started = True

    def finish(self) -> Tensors:
        """The outputs of the run begun last. Raises EngineError as `run`."""
        if self._closed or not self._started:
            raise EngineError(f"engine {self.name}: nothing was started")
        self._started = False
        return self._finish()

    def warm_up(self, tensors: Tensors, times: int = 3) -> None:
        """Run a few times so that the first real answer is not the slowest."""
        for _ in range(times):
            self.run(tensors)

    def close(self) -> None:
        """Free what the engine holds. Harmless when called again."""
        if not self._closed:
            self._closed = True
            self._close()

    def __enter__(self: _Engine) -> _Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def _start(self, tensors: Tensors) -> None: ...

    @abstractmethod
    def _finish(self) -> Tensors: ...

    @abstractmethod
    def _close(self) -> None: ...


@dataclass(frozen=True)
class Compiled:
    """An engine compiled ahead of time: for what, and how to get its verified bytes."""

    file: EngineFile
    read: Callable[[], bytes]


def compiled_for(bundle: Bundle, stage: str, precision: str) -> list[Compiled]:
    """The engines of `bundle` that were compiled ahead of time for this stage and precision."""
    return [
        Compiled(engine, partial(bundle.read, engine.file))
        for engine in bundle.manifest.engines
        if (engine.stage, engine.precision) == (stage, precision)
    ]


class Backend(ABC):
    """Opens engines that share it. Made, used and closed (after its engines) by the inference thread."""

    name: str
    """What the configuration and a bundle's precision plans call it."""

    @property
    def description(self) -> str:
        """What it runs on, for people."""
        return self.name

    @abstractmethod
    def open_engine(
        self,
        name: str,
        precision: str,
        model: bytes,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        ahead_of_time: Sequence[Compiled] = (),
    ) -> Engine:
        """Open `model` (ONNX bytes, already verified), or what was made of it ahead of time.

        Raises BundleError if the graph does not load or does not meet the specs, EngineError if the device fails.
        """

    @abstractmethod
    def close(self) -> None:
        """Free what the engines shared. Harmless when called again."""

    def __enter__(self: _Backend) -> _Backend:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
