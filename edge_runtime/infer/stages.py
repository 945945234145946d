"""The stage graph: run each stage only when what it reads has changed.

Features are cached per stage under a key made of the identities of all messages behind them. Equal keys mean equal
inputs, so a cached feature is the very array that running again would give. A cache dies with its engine.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Hashable, Mapping
from functools import partial
from types import MappingProxyType

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_runtime.bundle import Bundle, Stage
from edge_runtime.config import EngineConfig
from edge_runtime.errors import EngineError, UserError
from edge_runtime.infer import ON_CPU, open_backend
from edge_runtime.infer.engine import Backend, Engine, compiled_for
from edge_runtime.infer.feed import feed, presence_tensor, stages_fed
from edge_runtime.infer.outside import refuse_outside
from edge_runtime.messages import AlignedSet, Inference, Slice, Tensor, Tensors
from edge_runtime.tensor_source import TensorSource
from edge_runtime.tensors import zeros

log = logging.getLogger("edge_runtime.infer")

SliceTensors = Callable[[str, Slice], Tensors]
"""Stream name and its present slice to the slice's tensors by field: see `streams.preprocessors`."""

_ABSENT: Hashable = ("absent",)


class StageGraph:
    """A bundle's stages, opened and warm. One inference thread makes it, runs it and closes it."""

    def __init__(
        self,
        bundle: Bundle,
        tensors_of: SliceTensors,
        settings: EngineConfig = ON_CPU,
        cache: bool = True,
        plan: Mapping[str, str] | None = None,
    ) -> None:
        """`plan` (stage to precision) instead of the manifest's, as when the build compares precisions."""
        manifest = bundle.manifest
        self._plan = plan
        self._bundle = bundle
        self._tensors_of = tensors_of
        self._settings = settings
        self._cpu_settings = msgspec.structs.replace(settings, backend="onnxruntime")
        self._use_cache = cache
        self._stages = manifest.stages
        self._presence = manifest.presence
        self._output = manifest.head.source
        self._side = {side.name: side.head.source for side in manifest.side_heads}
        self._backend: Backend | None = None
        self._engines: dict[str, Engine] = {}
        self._cached: dict[str, tuple[Hashable, Tensors]] = {}
        self._fields: dict[str, tuple[Hashable, Tensors]] = {}
        self._absent = {stage.name: {out.name: zeros(out) for out in stage.outputs} for stage in self._stages}
        self._sources = {stage.name: stage.sources for stage in self._stages}
        self._followers = frozenset(stage.name for stage in self._stages if stage.stages)
        self._fed: dict[frozenset[str], frozenset[str]] = {}
        self.open()

    @property
    def backends(self) -> Mapping[str, str]:
        """Stage to back end."""
        return {name: engine.backend for name, engine in self._engines.items()}

    @property
    def precisions(self) -> Mapping[str, str]:
        """Stage to precision."""
        return {name: engine.precision for name, engine in self._engines.items()}

    def open(self, on_cpu: bool = False) -> None:
        """Open and warm up every engine; also the way back after an engine failed.

        `on_cpu`: with ONNX Runtime, whatever the settings say. Raises UserError or EngineError.
        """
        self.close()
        backend = open_backend(self._cpu_settings if on_cpu else self._settings)
        try:
            self._open_engines(backend)
        except (EngineError, UserError) as error:
            if backend.name == "onnxruntime" or not self._settings.falls_back:
                raise
            log.warning("engines run on ONNX Runtime (CPU): %s", error)
            self._open_engines(open_backend(self._cpu_settings))

    def _open_engines(self, backend: Backend) -> None:
        self._backend = backend
        plan = self._bundle.plan(backend.name) if self._plan is None else self._plan
        try:
            for stage in self._stages:
                precision = plan[stage.name]
                model = self._bundle.read(stage.files[precision])
                refuse_outside(model, stage.name)
                inputs = [item.spec for item in stage.inputs]
                compiled = compiled_for(self._bundle, stage.name, precision)
                engine = backend.open_engine(stage.name, precision, model, inputs, stage.outputs, compiled)
                self._engines[stage.name] = engine
                engine.warm_up({spec.name: zeros(spec) for spec in inputs})
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close all engines and forget all features. Harmless when called again."""
        for engine in self._engines.values():
            engine.close()
        self._engines.clear()
        if self._backend is not None:
            self._backend.close()
            self._backend = None
        self.forget()

    def forget(self) -> None:
        """Drop all cached features. Needed when message numbers start over."""
        self._cached.clear()
        self._fields.clear()

    def run(self, aligned: AlignedSet) -> Inference:
        """Every head's raw values for `aligned`, with the time each stage took. Raises EngineError.

        Stages that do not wait for one another run side by side where the back end can; a stage's time is then what
        its start and the waiting for its end took.
        """
        if not self._engines:
            raise EngineError("stage graph: run while closed")
        keys: dict[str, Hashable] = {}
        outputs: dict[str, Tensors] = {}
        stage_ns: dict[str, int] = {}
        preprocess_ns = 0
        running: list[str] = []

        def finish() -> None:
            for name in running:
                start = time.perf_counter_ns()
                outputs[name] = self._engines[name].finish()
                stage_ns[name] += time.perf_counter_ns() - start
                self._cached[name] = (keys[name], outputs[name])
            running.clear()

        fed = self._stages_fed(aligned)
        for stage in self._stages:
            stage_ns[stage.name] = 0
            if stage.name not in fed:
                keys[stage.name] = _ABSENT
                outputs[stage.name] = self._absent[stage.name]
                continue
            key = keys[stage.name] = self._key(stage, aligned, keys)
            cached = self._cached.get(stage.name)
            if cached is not None and cached[0] == key and self._use_cache:
                outputs[stage.name] = cached[1]
            else:
                if running and stage.name in self._followers:
                    finish()
                start = time.perf_counter_ns()
                tensors = feed(stage, partial(self._tensor, aligned, outputs))
                ready = time.perf_counter_ns()
                self._engines[stage.name].start(tensors)
                running.append(stage.name)
                stage_ns[stage.name] = time.perf_counter_ns() - ready
                preprocess_ns += ready - start
        finish()

        def raw(source: TensorSource) -> NDArray[np.float32]:
            return np.asarray(outputs[source.name][source.field], dtype=np.float32)

        side = MappingProxyType({name: raw(source) for name, source in self._side.items()})
        given = MappingProxyType({name: outputs[name] for name in fed})
        return Inference(raw(self._output), MappingProxyType(stage_ns), preprocess_ns, side=side, outputs=given)

    def prefetch(self, aligned: AlignedSet, streams: Collection[str]) -> None:
        """Prepare now the tensors of `streams`, and run the stages that read nothing else, so that the next `run` finds
        them ready.

        Changes when they are computed, never what they are: features are kept under the identity of their messages.
        Raises EngineError.
        """
        for name in streams:
            if aligned.slices[name].present:
                self._tensors_once(name, aligned.slices[name])
        fed = self._stages_fed(aligned)
        for stage in self._stages:
            if stage.name not in fed or not all(
                source.kind == "stream" and source.name in streams for source in self._sources[stage.name]
            ):
                continue
            key = self._key(stage, aligned, {})
            cached = self._cached.get(stage.name)
            if cached is None or cached[0] != key:
                tensors = feed(stage, partial(self._tensor, aligned, {}))
                self._cached[stage.name] = (key, self._engines[stage.name].run(tensors))

    def _stages_fed(self, aligned: AlignedSet) -> frozenset[str]:
        present = frozenset(name for name, part in aligned.slices.items() if part.present)
        fed = self._fed.get(present)
        if fed is None:
            fed = self._fed[present] = stages_fed(self._stages, present)
        return fed

    def _key(self, stage: Stage, aligned: AlignedSet, keys: Mapping[str, Hashable]) -> Hashable:
        """Identity of all that `stage` reads."""
        return tuple(self._source_key(source, aligned, keys) for source in self._sources[stage.name])

    def _source_key(self, source: TensorSource, aligned: AlignedSet, keys: Mapping[str, Hashable]) -> Hashable:
        if source.kind == "presence":
            return tuple(aligned.slices[name].present for name in self._presence)
        if source.kind == "stage":
            return keys[source.name]
        part = aligned.slices[source.name]
        return (source.name, part.key) if part.present else _ABSENT

    def _tensor(self, aligned: AlignedSet, outputs: Mapping[str, Tensors], source: TensorSource) -> Tensor | None:
        if source.kind == "presence":
            return presence_tensor(self._presence, aligned)
        if source.kind == "stage":
            return outputs[source.name][source.field]
        part = aligned.slices[source.name]
        return self._tensors_once(source.name, part)[source.field] if part.present else None

    def _tensors_once(self, stream: str, part: Slice) -> Tensors:
        """One slice may feed several inputs (ids and mask), and several decisions: preprocess it once."""
        cached = self._fields.get(stream)
        if cached is None or cached[0] != part.key or not self._use_cache:
            cached = (part.key, self._tensors_of(stream, part))
            self._fields[stream] = cached
        return cached[1]
