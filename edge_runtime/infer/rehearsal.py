"""A first decision on made-up inputs: whether a bundle's graphs fit its manifest, and each other, and its heads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.util import find_spec

import numpy as np

from edge_runtime.bundle import Bundle, stream_tensor_spec
from edge_runtime.decide import finite
from edge_runtime.errors import BundleError, EngineError
from edge_runtime.heads.policy import PolicyState
from edge_runtime.infer.onnxruntime_engine import OnnxRuntimeEngine
from edge_runtime.infer.stages import StageGraph
from edge_runtime.messages import AlignedSet, Slice, Tensor, Tensors
from edge_runtime.streams import TextStream, streams_of
from edge_runtime.tensors import zeros
from edge_runtime.tokenizer import FILES, load_tokenizer
from edge_runtime.voice.grammar import GRAMMAR, GrammarError, parse_bytes


def rehearse(bundle: Bundle) -> None:
    """Open every graph of every precision on the CPU, and let every head decide on made-up inputs: with all streams
    there, and with each alone that the device would decide on. Read its grammar, where it has one and this machine has
    what reads grammars.

    Raises BundleError (one line: which graph or head, what, and what to do).
    """
    for stage in bundle.manifest.stages:
        inputs = [item.spec for item in stage.inputs]
        for precision, file in stage.files.items():
            where = f"bundle {bundle.path}: stage {stage.name} in {precision}"
            try:
                with OnnxRuntimeEngine(stage.name, precision, bundle.read(file), inputs, stage.outputs) as engine:
                    engine.run({spec.name: zeros(spec) for spec in inputs})
            except EngineError as error:
                raise BundleError(f"{where}: does not run ({error}); rebuild the bundle") from None
    if GRAMMAR in bundle.manifest.files and find_spec("hassil") is not None:
        try:
            parse_bytes(bundle.read(GRAMMAR), f"of bundle {bundle.path}")
        except GrammarError as error:
            raise BundleError(f"{error}; rebuild the bundle") from None
    tensors = _made_up(bundle)
    graph = StageGraph(bundle, lambda stream, part: tensors[stream], cache=False)
    try:
        for present in _occasions(bundle):
            _decide(bundle, graph, present)
    finally:
        graph.close()


def _occasions(bundle: Bundle) -> Iterator[frozenset[str]]:
    """Sets of streams that are there."""
    streams = bundle.manifest.streams
    required = frozenset(name for name, spec in streams.items() if spec.required)
    yield frozenset(streams)
    for name in bundle.manifest.streams_read:
        if required <= {name}:
            yield frozenset({name})


def _decide(bundle: Bundle, graph: StageGraph, present: frozenset[str]) -> None:
    manifest = bundle.manifest
    slices = {name: Slice(name, name in present, key=name) for name in manifest.streams}
    where = f"bundle {bundle.path}: with {', '.join(sorted(present))}"
    try:
        inference = graph.run(AlignedSet(0, slices))
    except EngineError as error:
        raise BundleError(f"{where}: the stages do not run ({error}); rebuild the bundle") from None
    heads = {"head": (manifest.head, manifest.decision, inference.output)}
    heads |= {
        f"side head {side.name}": (side.head, side.decision, inference.side[side.name]) for side in manifest.side_heads
    }
    for name, (head, policy, output) in heads.items():
        if output is None or not finite(output):
            raise BundleError(
                f"{where}: {name} reads {head.output}, which is not finite; look for a division by zero in the graph"
            )
        if (problem := head.wrong(output[0])) is not None:
            raise BundleError(f"{where}: {name} reads {head.output}: {problem}")
        head.decide(policy, PolicyState(), output[0], None)


def _made_up(bundle: Bundle) -> Mapping[str, Tensors]:
    """Noise for every stream's tensors: pixels, pieces that the tokenizer knows, standardised readings; masks are 1."""
    rng = np.random.default_rng(0)
    manifest = bundle.manifest
    pieces = {
        name: load_tokenizer(spec.tokenizer, bundle.read(FILES[spec.tokenizer])).size
        for name, spec in streams_of(manifest.streams, TextStream).items()
    }
    tensors: dict[str, dict[str, Tensor]] = {name: {} for name in manifest.streams}
    for stage in manifest.stages:
        for source in stage.sources:
            spec = stream_tensor_spec(manifest.streams, source)
            if spec is None:
                continue
            if spec.dtype == "uint8":
                value: Tensor = rng.integers(0, 256, spec.shape, np.uint8)
            elif source.field == "ids":
                # The last piece is among them: a table that is too short for the tokenizer is found.
                value = np.full(spec.shape, pieces[source.name] - 1, np.int32)
            elif source.field == "types":
                value = np.zeros(spec.shape, np.int32)
            elif source.field == "mask":
                value = np.ones(spec.shape, np.float32)
            else:
                value = rng.normal(size=spec.shape).astype(np.float32)
            tensors[source.name][source.field] = value
    return tensors
