"""Build an engine from a verified ONNX graph; the same calls for TensorRT 10.3 to 11 and TensorRT-RTX 1.x.

Networks are strongly typed: the graph itself says where FP16 and INT8 are used (explicit quantise and dequantise
nodes), so that no calibrator and no precision flag exists. TensorRT-RTX also builds for GPUs that are not here.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from edge_runtime.errors import BundleError, ConfigError, EngineError
from edge_runtime.infer.tensorrt.library import Flavour, Library, is_harmless

WORKSPACE_BYTES = 256 << 20
"""Scratch memory that the fastest kernels may ask for."""
WEIGHT_COPIES = 3
"""In a build the weights exist as parsed, as optimised and as written."""
MIN_FREE_BYTES = 64 << 20
"""What a build takes besides weights and scratch memory."""
QUANTISE_OPS = ("QuantizeLinear", "DequantizeLinear")
MIN_PLAN_OF_WEIGHTS = 0.8
MIN_QUANTISED_PLAN_OF_WEIGHTS = 0.2
"""Smallest plan, in bytes of the graph's weights; FP32 weights under quantise nodes are kept in a quarter of that."""
MAX_PLAN_OF_WEIGHTS = 3.0
MAX_KERNEL_BYTES = 4 << 20
MAX_KERNEL_BYTES_PER_LAYER = 64 << 10
"""Largest plan: weights in more than one layout, and kernel code (seen: 0.4 MB, and 10 to 20 kB per layer)."""

Progress = Callable[[float, str], None]
"""Takes the part done (0 to 1) and what is being done."""


@dataclass(frozen=True)
class Built:
    """An engine as bytes, and what building it showed."""

    plan: bytes
    """The engine, serialised. Executable code: load it only from where nobody else can write."""
    seconds: float
    layers: int
    """Layers of the network after parsing."""
    quantise_layers: int
    """Quantise and dequantise layers among them."""
    warnings: tuple[str, ...]
    """What parser and builder warned of, the known harmless things left out."""
    flavour: Flavour
    version: str
    compute: tuple[str, ...]
    """Compute capabilities it was built for; empty: this machine's GPU (TensorRT), or all that RTX serves."""
    timing_cache: bytes
    """Kernel timings for the next build; empty where the flavour keeps none."""


def build_engine(
    library: Library,
    model: bytes,
    *,
    name: str = "graph",
    compute: Sequence[str] = (),
    workspace_bytes: int = WORKSPACE_BYTES,
    free_device_bytes: int | None = None,
    timing_cache: bytes = b"",
    progress: Progress | None = None,
) -> Built:
    """Build an engine from `model` (ONNX bytes of fixed shapes).

    `compute`: capabilities to build for without such a GPU ("8.6"; TensorRT-RTX only); empty for the GPU at hand,
    whose free memory is then given in `free_device_bytes`. With a GPU: in the thread that has its context.

    Raises BundleError for a graph that TensorRT does not take (names the node), ConfigError for a target it does not
    know, EngineError if there is too little memory or the build fails (with the reason from its log).
    """
    capabilities = _capabilities(library, compute)
    weights = graph_facts(model, name).weight_bytes
    workspace_bytes = _fitting_workspace(name, weights, workspace_bytes, free_device_bytes)
    module = library.module
    start = time.perf_counter()
    with library.messages.collect() as warnings:
        try:
            builder = module.Builder(library.messages.logger)
        except TypeError:  # how the binding says that the library gave it nothing
            raise EngineError(f"{name}: {library} cannot build here ({_reason(warnings)})") from None
        network = builder.create_network(_strongly_typed(module))
        parser = module.OnnxParser(network, library.messages.logger)
        if not parser.parse(model):
            raise BundleError(f"{name}: {library} cannot take its graph: {_parse_error(parser)}")
        config = builder.create_builder_config()
        config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, workspace_bytes)
        config.profiling_verbosity = module.ProfilingVerbosity.DETAILED
        if capabilities:
            config.num_compute_capabilities = len(capabilities)
            for index, capability in enumerate(capabilities):
                config.set_compute_capability(capability, index)
        # RTX times nothing at build time; asking it for a cache would make it look for a GPU.
        timings = None if library.is_rtx else config.create_timing_cache(timing_cache)
        if timings is not None:
            config.set_timing_cache(timings, False)
        if progress is not None and hasattr(module, "IProgressMonitor"):
            config.progress_monitor = _monitor(module, progress)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise EngineError(f"{name}: {library} failed to build its engine ({_reason(warnings)})")
        kinds = [network.get_layer(index).type for index in range(network.num_layers)]
        return Built(
            plan=bytes(plan),
            seconds=time.perf_counter() - start,
            layers=len(kinds),
            quantise_layers=sum(kind in (module.LayerType.QUANTIZE, module.LayerType.DEQUANTIZE) for kind in kinds),
            warnings=tuple(dict.fromkeys(_one_line(text) for text in warnings if not is_harmless(text))),
            flavour=library.flavour,
            version=library.version,
            compute=tuple(compute),
            timing_cache=bytes(timings.serialize()) if timings is not None else b"",
        )


JETSONS = {"8.7": "Jetson Orin", "10.1": "Jetson Thor up to CUDA 12", "11.0": "Jetson Thor"}
"""Compute capabilities of the boards (https://developer.nvidia.com/cuda-gpus)."""


def known_compute(library: Library) -> tuple[str, ...]:
    """The compute capabilities that `library` builds for without having such a GPU, lowest first."""
    members = getattr(getattr(library.module, "ComputeCapability", None), "__members__", {})
    matches = [re.fullmatch(r"SM(\d+)(\d)", name) for name in members]
    return tuple(f"{match[1]}.{match[2]}" for match in matches if match)


@dataclass(frozen=True)
class GraphFacts:
    """What an engine is measured against."""

    weight_bytes: int
    quantise_nodes: int
    """Quantise and dequantise nodes."""


def graph_facts(model: bytes, name: str = "graph") -> GraphFacts:
    """Count what is in an ONNX graph (given as bytes). Raises BundleError if it is none."""
    import onnx  # slow to import, and only builds need it

    try:
        graph = onnx.load_from_string(model).graph
    except Exception as error:  # protobuf's own family of types
        raise BundleError(f"{name}: not an ONNX graph ({_one_line(str(error))}); rebuild the bundle") from None
    if not graph.output:
        raise BundleError(f"{name}: its ONNX graph has no output; rebuild the bundle")
    tensors = [*graph.initializer, *(a.t for node in graph.node if node.op_type == "Constant" for a in node.attribute)]
    return GraphFacts(
        weight_bytes=sum(tensor.ByteSize() for tensor in tensors),
        quantise_nodes=sum(node.op_type in QUANTISE_OPS for node in graph.node),
    )


def problems(built: Built, facts: GraphFacts) -> tuple[str, ...]:
    """What is suspicious about an engine built from a graph of these `facts`, in words; empty if nothing is."""
    suspicions = [f"unexpected warning: {text}" for text in built.warnings]
    if built.quantise_layers < facts.quantise_nodes:
        suspicions.append(
            f"only {built.quantise_layers} of the graph's {facts.quantise_nodes} quantise and dequantise nodes "
            "are in the network: part of it would not run in INT8"
        )
    least = MIN_QUANTISED_PLAN_OF_WEIGHTS if facts.quantise_nodes else MIN_PLAN_OF_WEIGHTS
    smallest = int(least * facts.weight_bytes)
    kernels = MAX_KERNEL_BYTES + MAX_KERNEL_BYTES_PER_LAYER * built.layers
    largest = int(MAX_PLAN_OF_WEIGHTS * facts.weight_bytes) + kernels
    size = len(built.plan)
    if not smallest <= size <= largest:
        suspicions.append(
            f"the engine has {size} bytes, expected {smallest} to {largest} for {facts.weight_bytes} bytes of weights"
        )
    return tuple(suspicions)


def _capabilities(library: Library, compute: Sequence[str]) -> list[Any]:
    targets = known_compute(library)
    if compute and not targets:
        raise ConfigError(
            f"compute {', '.join(compute)}: {library} builds for the GPU at hand only; "
            "tensorrt_rtx builds for GPUs that are not here"
        )
    for target in compute:
        if target not in targets:
            board = f" ({JETSONS[target]})" if target in JETSONS else ""
            raise ConfigError(
                f"compute {target!r}{board}: {library} builds ahead of time for {', '.join(targets)}; "
                "leave it out, the device builds its own engine"
            )
    return [getattr(library.module.ComputeCapability, "SM" + target.replace(".", "")) for target in compute]


def _fitting_workspace(name: str, weights: int, workspace: int, free_device_bytes: int | None) -> int:
    """As many of the `workspace` bytes as memory has room for. Raises EngineError where none would do."""
    needed = WEIGHT_COPIES * weights + MIN_FREE_BYTES
    free = {"host": os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")}
    if free_device_bytes is not None:
        free["device"] = free_device_bytes
    for where, available in free.items():
        if available < needed:
            raise EngineError(
                f"{name}: building its engine takes about {needed >> 20} MiB of {where} memory, "
                f"{available >> 20} MiB are free; stop other programs, or install a bundle whose "
                "engines are compiled ahead of time"
            )
    return min(workspace, free.get("device", free["host"]) - WEIGHT_COPIES * weights)


def _strongly_typed(module: Any) -> int:
    flag = getattr(module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 1 << int(flag) if flag is not None else 0


def _parse_error(parser: Any) -> str:
    if not parser.num_errors:
        return "the parser gives no reason"
    error = parser.get_error(0)
    lines = [line for line in str(error.desc()).splitlines() if line.strip() and not is_harmless(line)]
    # The line of the library that was called says more than the parser's "Invalid Node".
    message = next((line for line in lines if "Error Code" in line), lines[0] if lines else "no reason given")
    detail = "TensorRT has no such operator" if "Plugin not found" in message else _plain(message)
    if int(error.node()) < 0:
        return detail
    # Both came with 10.0; an older parser has the number only.
    kind = error.node_operator() if hasattr(error, "node_operator") else "node"
    node = error.node_name() if hasattr(error, "node_name") else ""
    return f"{kind} node {node or error.node()!r}: {detail}"


def _reason(messages: Sequence[str]) -> str:
    reasons = [text for text in messages if not is_harmless(text)] or messages
    return _plain(reasons[-1]) if reasons else "its log gives no reason"


def _plain(text: str) -> str:
    """A message of the library without its source files: "I::f: Error Code 4: Kind (WHAT. In g at file:1)" is WHAT."""
    return re.sub(r"^.*?Error Code \d+: [^(]*\((.*?)(?:\.? In \w+ at \S+)?\)$", r"\1", _one_line(text))


def _one_line(text: str) -> str:
    return " ".join(text.split())[:400]


def _monitor(module: Any, progress: Progress) -> Any:
    class Monitor(module.IProgressMonitor):  # type: ignore[misc]  # the module is only known now
        """Phases nest: a phase that starts belongs to the current step of its parent."""

        def __init__(self) -> None:
            module.IProgressMonitor.__init__(self)
            self._phases: dict[str, tuple[str | None, int, int]] = {}
            """Running phases: parent, number of steps, steps done."""
            self._furthest = 0.0

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._phases[phase_name] = (parent_phase, max(1, num_steps), 0)
            self._tell(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self._phases:
                parent, steps, _done = self._phases[phase_name]
                self._phases[phase_name] = (parent, steps, min(steps, step + 1))
                self._tell(phase_name)
            return True

        def phase_finish(self, phase_name: str) -> None:
            if self._phases.pop(phase_name, (None, 1, 0))[0] is None and not self._phases:
                self._furthest = 1.0
                progress(1.0, phase_name)

        def _tell(self, phase_name: str) -> None:
            part, name = 0.0, phase_name
            while name in self._phases:
                parent, steps, done = self._phases[name]
                part = min(1.0, (done + part) / steps)
                if parent is None:
                    break
                name = parent
            self._furthest = max(self._furthest, part)
            progress(self._furthest, phase_name)

    return Monitor()
