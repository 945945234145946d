"""What an engine is: one stage's graph, opened from verified bytes; named arrays in, named arrays out.

An engine knows tensors only: no labels, no streams, no model families.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import TracebackType

from edge_runtime.errors import EngineError
from edge_runtime.messages import Tensors
from edge_runtime.tensors import TensorSpec, check


class Engine(ABC):
    """Opens in its constructor, runs, closes. All calls from the one inference thread that made it."""

    backend: str

    def __init__(self, name: str, precision: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
        self.name = name
        self.precision = precision
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self._closed = False

    def run(self, tensors: Tensors) -> Tensors:
        """Outputs by name, as arrays that stay valid (not reused by the next run).

        Raises EngineError if an input is missing or does not meet its spec, the engine is closed, or the run fails.
        """
        if self._closed:
            raise EngineError(f"engine {self.name}: run after close")
        for spec in self.inputs:
            if spec.name not in tensors:
                raise EngineError(f"engine {self.name}: input {spec.name!r} is missing")
            check(spec, tensors[spec.name], f"engine {self.name}")
        return self._run(tensors)

    def warm_up(self, tensors: Tensors, times: int = 3) -> None:
        """Run a few times so that the first real answer is not the slowest."""
        for _ in range(times):
            self.run(tensors)

    def close(self) -> None:
        """Free what the engine holds. Harmless when called again."""
        if not self._closed:
            self._closed = True
            self._close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def _run(self, tensors: Tensors) -> Tensors: ...

    @abstractmethod
    def _close(self) -> None: ...
