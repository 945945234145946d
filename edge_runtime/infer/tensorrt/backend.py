"""TensorRT on this machine's GPU: the device and library that a bundle's engines share, and where engines come from.

In this order: compiled ahead of time and shipped in the bundle, if it fits exactly; the cache; built from the graph.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edge_runtime.config import EngineConfig
from edge_runtime.cuda import CudaDevice, CudaError, CudaUnavailable, open_cuda
from edge_runtime.errors import EngineError
from edge_runtime.infer.engine import Backend, Compiled
from edge_runtime.infer.tensorrt.build import WORKSPACE_BYTES, build_engine, known_compute
from edge_runtime.infer.tensorrt.cache import EngineCache, EngineKey, default_folder
from edge_runtime.infer.tensorrt.engine import TensorRTEngine
from edge_runtime.infer.tensorrt.library import Library, load_library
from edge_runtime.notify import Notifier
from edge_runtime.tensors import TensorSpec

log = logging.getLogger("edge_runtime.infer")

LOG_INTERVAL_S = 5.0
NOTIFY_INTERVAL_S = 1.0
EXTEND_S = 60


class TensorRTBackend(Backend):
    """Engines on one GPU. Thread: the one that opened the device."""

    name = "tensorrt"

    def __init__(self, library: Library, device: CudaDevice, cache: EngineCache) -> None:
        """Takes the device over: `close` closes it."""
        self._library = library
        self._device = device
        self._cache = cache
        self._info = device.info()
        self._runtime: Any = library.module.Runtime(library.messages.logger)

    @classmethod
    def open(cls, settings: EngineConfig) -> TensorRTBackend:
        """With this machine's GPU and library, whichever they are.

        Raises UserError that says which of driver, GPU, CUDA bindings, TensorRT or cache folder cannot be used.
        """
        _check_driver()
        library = load_library()
        cache = EngineCache(Path(settings.cache) if settings.cache else default_folder())
        device = open_cuda(settings.cuda)
        try:
            backend = cls(library, device, cache)
        except BaseException:
            device.close()
            raise
        log.info("engines run on %s", backend.description)
        return backend

    @property
    def description(self) -> str:
        """Library, GPU and the way to it, in words."""
        return f"{self._library} ({self._info.name}, compute {self._info.compute}, {self._device.name})"

    def open_engine(
        self,
        name: str,
        precision: str,
        model: bytes,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        ahead_of_time: Sequence[Compiled] = (),
    ) -> TensorRTEngine:
        """See Backend. The first time on a device this builds, which may take minutes: said in the log and to systemd.

        Raises as `build_engine` and TensorRTEngine.
        """
        key = self._key(model, (*inputs, *outputs))

        def open_plan(plan: bytes) -> TensorRTEngine:
            return TensorRTEngine(
                name,
                precision,
                inputs,
                outputs,
                plan,
                library=self._library,
                runtime=self._runtime,
                device=self._device,
                kernels=self._cache.load(key, "kernels") or b"",
                keep_kernels=lambda data: self._cache.store(key, "kernels", data),
            )

        candidates: list[tuple[str, Callable[[], bytes | None]]] = [
            *((f"bundle's {engine.file.file}", engine.read) for engine in ahead_of_time if self._fits(engine, key)),
            ("cached", lambda: self._cache.load(key, "engine")),
        ]
        for origin, read in candidates:
            plan = read()
            if plan is None:
                continue
            try:
                return open_plan(plan)
            except CudaError:
                raise  # another engine would meet the same device
            except EngineError as error:
                log.warning("stage %s: the %s engine does not open (%s); building it anew", name, origin, error)
                self._cache.discard(key, "kernels")
        return open_plan(self._build(name, precision, model, key))

    def close(self) -> None:
        """Close the device. Harmless when called again."""
        self._runtime = None
        try:
            self._device.close()
        except CudaError as error:
            log.warning("while closing the GPU: %s", error)

    def _key(self, model: bytes, specs: Sequence[TensorSpec]) -> EngineKey:
        return EngineKey(
            flavour=self._library.flavour,
            version=self._library.version,
            gpu=self._info.name,
            compute=self._info.compute,
            driver=self._info.driver,
            onnx_sha256=hashlib.sha256(model).hexdigest(),
            shapes={spec.name: spec.shape for spec in specs},
            flags={"workspace_bytes": WORKSPACE_BYTES},
        )

    def _fits(self, engine: Compiled, key: EngineKey) -> bool:
        file = engine.file
        made_by = (file.flavour, file.version, file.onnx_sha256)
        return made_by == (key.flavour, key.version, key.onnx_sha256) and key.compute in file.compute

    def _build(self, name: str, precision: str, model: bytes, key: EngineKey) -> bytes:
        log.info("stage %s: building its %s engine for %s with %s", name, precision, key.gpu, self._library)
        targets = known_compute(self._library)
        built = build_engine(
            self._library,
            model,
            name=f"stage {name}",
            # Without a target RTX leaves out GPUs older than Ampere.
            compute=(key.compute,) if key.compute in targets else (),
            free_device_bytes=self._device.free_bytes(),
            timing_cache=self._cache.load(key.any_graph(), "timings") or b"",
            progress=_BuildReport(name),
        )
        for warning in built.warnings:
            log.warning("stage %s: %s", name, warning)
        log.info("stage %s: built in %.1f s, %.1f MB", name, built.seconds, len(built.plan) / 1e6)
        self._cache.store(key, "engine", built.plan, built.seconds)
        if built.timing_cache:
            self._cache.store(key.any_graph(), "timings", built.timing_cache)
        return built.plan


class _BuildReport:
    """Progress of a build for whoever waits: the log, and systemd, which would otherwise give up on the service."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._next_log = time.monotonic() + LOG_INTERVAL_S
        self._next_notice = 0.0

    def __call__(self, part: float, phase: str) -> None:
        now = time.monotonic()
        if now >= self._next_log:
            self._next_log = now + LOG_INTERVAL_S
            log.info("stage %s: %.0f %% built (%s)", self._name, 100 * part, phase)
        if now >= self._next_notice:
            self._next_notice = now + NOTIFY_INTERVAL_S
            notifier = Notifier()
            # Not the watchdog's: it watches the loop only, which may decide beside the build, or hang.
            notifier.send(f"EXTEND_TIMEOUT_USEC={EXTEND_S * 1_000_000}")
            notifier.status(f"building engine {self._name}, {100 * part:.0f} %")
            notifier.close()


def _check_driver() -> None:
    """The cheapest question first: most machines without a GPU have no driver, and need load nothing else."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        raise CudaUnavailable("the NVIDIA driver (libcuda.so.1) is not installed on this machine") from None
