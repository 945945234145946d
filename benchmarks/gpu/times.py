"""How long copies, launches and decisions take on this GPU, torch computing the graphs.

    python -m benchmarks.gpu.times --out DIR

Times are from the thread's own clock around a call and the wait for it, unless a figure says that CUDA events took it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.gpu.engine import BUNDLES, MakeLauncher, engines
from benchmarks.gpu.findings import Findings
from benchmarks.gpu.messages import moments as message_moments
from benchmarks.gpu.tensorrt import CUDA, moments
from benchmarks.gpu.torch_runtime import CudaLauncher, torch_engines
from edge_runtime.bundle import Bundle, open_bundle
from edge_runtime.bundles import bundle_path
from edge_runtime.config import EngineConfig
from edge_runtime.cuda import CudaChoice, CudaDevice, open_cuda
from edge_runtime.errors import EngineError, UserError
from edge_runtime.infer import ON_CPU
from edge_runtime.pipeline import Pipeline

SIZES = {"sensor window 4 kB": 4 << 10, "image 96x160 46 kB": 46_080, "image 1920x1080 6 MB": 1920 * 1080 * 3}
STEADY = 1.05
"""p99 over p50 of replayed CUDA graphs, at most."""
SKIP = 20
"""Runs at the start that are not counted."""


@click.command()
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True)
@click.option("--launches", default=10_000, show_default=True, type=click.IntRange(50))
@click.option("--decisions", default=1000, show_default=True, type=click.IntRange(50))
def main(out: Path, launches: int, decisions: int) -> None:
    """Measure on the GPU."""
    findings = Findings(out, "times")
    ways = usable(findings)
    bundles = [open_bundle(bundle_path(name), allow_unsigned=True) for name in BUNDLES]
    if ways:
        # The way without graphs, where all takes longest, comes last.
        measure(findings, ways[:1], CudaLauncher, launches, decisions, bundles)
        measure(findings, ways[1:], CudaLauncher, launches // 2, decisions // 2, bundles)


def usable(findings: Findings) -> list[CudaChoice]:
    """The ways to CUDA that open here; why another does not is kept as missing."""
    ways = []
    for cuda in CUDA:
        try:
            open_cuda(cuda).close()
            ways.append(cuda)
        except UserError as reason:
            findings.miss(f"{cuda}: {reason}")
    return ways


def measure(
    findings: Findings,
    ways: Sequence[CudaChoice],
    launcher: MakeLauncher,
    launches: int,
    decisions: int,
    bundles: Sequence[Bundle],
    precisions: Sequence[str] = ("fp32", "fp16"),
) -> None:
    """All that needs no process of its own."""
    for cuda in ways:
        with findings.step(f"copies, {cuda}"):
            copies(findings, cuda, launcher)
        for bundle in bundles:
            name = bundle.manifest.name
            with findings.step(f"launches, {cuda}, {name}"):
                launch_times(findings, bundle, cuda, launcher, launches, precisions)
            with findings.step(f"streams, {cuda}, {name}"):
                streams(findings, bundle, cuda, launcher, max(50, launches // 20), precisions[-1])
            with findings.step(f"back to back, {cuda}, {name}"):
                back_to_back(findings, bundle, cuda, launcher, decisions, precisions)


def copies(findings: Findings, cuda: CudaChoice, launcher: MakeLauncher, times: int = 300) -> None:
    """To the device and back from pinned and from ordinary memory; and a kernel that reads what was copied, or reads
    mapped host memory in place."""
    rows = []
    with open_cuda(cuda) as device, ExitStack() as cleanup:
        torch_launcher = launcher()
        cleanup.callback(torch_launcher.close)
        for size, nbytes in SIZES.items():
            for kind, step in _copy_steps(device, torch_launcher, nbytes):
                spent = [_spent_us(step) for _ in range(times)][SKIP:]
                rows.append([size, kind, *summary(spent)])
    findings.figure(f"copies, {cuda}, us [what, how, p50, p99, max]", rows)


def _copy_steps(device: CudaDevice, launcher: Any, nbytes: int) -> Iterator[tuple[str, Callable[[], None]]]:
    with device.scope() as scope:
        stream = scope.stream()
        pointer = scope.allocate(nbytes)
        pinned = scope.pinned((nbytes,), np.uint8).array
        pageable = np.empty(nbytes, np.uint8)
        pinned.fill(1)
        pageable.fill(1)
        there = launcher.view(pointer, (nbytes,), np.dtype(np.uint8))
        result = launcher.view(scope.allocate(nbytes), (nbytes,), np.dtype(np.uint8))

        def up(array: Any) -> Callable[[], None]:
            def step() -> None:
                device.upload(pointer, array, stream)
                device.synchronise(stream)

            return step

        def down(array: Any) -> Callable[[], None]:
            def step() -> None:
                device.download(array, pointer, stream)
                device.synchronise(stream)

            return step

        def copied() -> None:
            device.upload(pointer, pinned, stream)
            launcher.launch(stream, lambda: result.copy_(there))
            device.synchronise(stream)

        yield "up, pinned", up(pinned)
        yield "up, pageable", up(pageable)
        yield "down, pinned", down(pinned)
        yield "down, pageable", down(pageable)
        yield "up and read by a kernel", copied
        if device.info().can_map_host_memory:
            mapped = scope.pinned((nbytes,), np.uint8, mapped=True)
            mapped.array.fill(1)
            in_place = launcher.view(mapped.pointer, (nbytes,), np.dtype(np.uint8))

            def read_in_place() -> None:
                launcher.launch(stream, lambda: result.copy_(in_place))
                device.synchronise(stream)

            yield "mapped, read in place by a kernel", read_in_place


def launch_times(
    findings: Findings,
    bundle: Bundle,
    cuda: CudaChoice,
    launcher: MakeLauncher,
    launches: int,
    precisions: Sequence[str],
) -> None:
    """Arrays to arrays, with the CUDA graph and with the graph taken away, and the kernels alone, by CUDA events:
    `launches` runs of the first stage (a fifth where no graphs are), a twentieth of the others."""
    inputs = moments(bundle, 4)
    rows = []
    for precision in precisions:
        with engines(bundle, cuda, launcher, precision) as opened:
            for name, engine in opened.items():
                engine.warm_up(inputs[name][0])
                engine.time_engine(min(launches, 500))  # the clocks rise while it works
                first = name == next(iter(opened)) and precision == precisions[0]
                share = max(50, launches // (20 if not first else 1 if engine.launch_mode == "graph" else 5))
                for mode in ("graph", "enqueue") if engine.launch_mode == "graph" else ("enqueue",):
                    if mode == "enqueue":
                        engine.drop_graph()
                    on_device = [1e3 * ms for ms in engine.time_engine(min(share, 500))][SKIP:]
                    spent = []
                    for index in range(share):
                        start = time.perf_counter_ns()
                        engine.run(inputs[name][index % 4])
                        spent.append((time.perf_counter_ns() - start) / 1e3)
                    whole, kernels = summary(spent[SKIP:]), summary(on_device)
                    steady = kernels[1] / kernels[0]
                    rows.append([name, precision, mode, *whole, whole[1] / whole[0], *kernels[:2], steady])
                    if mode == "graph":
                        where = (
                            f"{bundle.manifest.name}, {cuda}: {name} {precision}, p99/p50 of graph replays by events"
                        )
                        findings.check(where, steady <= STEADY, f"{steady:.3f}, at most {STEADY}")
    columns = "[stage, precision, mode, p50, p99, max, p99/p50, kernels p50, kernels p99, kernels p99/p50]"
    findings.figure(f"launches, {bundle.manifest.name}, {cuda}, us {columns}", rows)


def streams(
    findings: Findings, bundle: Bundle, cuda: CudaChoice, launcher: MakeLauncher, times: int, precision: str
) -> None:
    """The stages that wait for nothing, one after the other against all started first, each on its own stream."""
    inputs = moments(bundle, 1)
    first = [item.name for item in bundle.manifest.stages if item.streams]
    with engines(bundle, cuda, launcher, precision) as opened:
        for name in first:
            opened[name].warm_up(inputs[name][0])

        def in_turn() -> None:
            for name in first:
                opened[name].run(inputs[name][0])

        def together() -> None:
            for name in first:
                opened[name].start(inputs[name][0])
            for name in first:
                opened[name].finish()

        one, several = [], []
        for _ in range(times):  # alternating: what disturbs one disturbs the other
            one.append(_spent_us(in_turn))
            several.append(_spent_us(together))
    figures = {"one after the other": summary(one[SKIP:]), "all started first": summary(several[SKIP:])}
    findings.figure(f"streams, {bundle.manifest.name}, {cuda}, us [p50, p99, max]", figures)


def back_to_back(
    findings: Findings,
    bundle: Bundle,
    cuda: CudaChoice,
    launcher: MakeLauncher,
    decisions: int,
    precisions: Sequence[str],
) -> None:
    """Decisions without a pause between them, ms: messages in, align to verdict; the CPU's engine beside the GPU's."""
    rows = {"cpu fp32": _decide_ms(bundle, ON_CPU, "fp32", decisions)}
    for precision in precisions:
        with torch_engines(cuda, launcher) as made:
            rows[f"{cuda} {precision}"] = _decide_ms(bundle, made.settings, precision, decisions)
    findings.figure(f"back to back, {bundle.manifest.name}, {cuda}, ms [p50, p99, max]", rows)


def _decide_ms(bundle: Bundle, settings: EngineConfig, precision: str, decisions: int) -> list[float]:
    pipeline = Pipeline(bundle, settings, plan={stage.name: precision for stage in bundle.manifest.stages})
    spent = []
    try:
        for now_ns, messages in message_moments(bundle, decisions + SKIP):
            start = time.perf_counter_ns()
            for message in messages:
                pipeline.add(message)
            outcome = pipeline.decide(now_ns, now_ns)
            spent.append((time.perf_counter_ns() - start) / 1e6)
            if outcome.inference.output is None:
                raise EngineError(outcome.inference.error or "no answer")
    finally:
        pipeline.close()
    return summary(spent[SKIP:])


def _spent_us(step: Callable[[], Any]) -> float:
    start = time.perf_counter_ns()
    step()
    return (time.perf_counter_ns() - start) / 1e3


def summary(values: Sequence[float]) -> list[float]:
    return [round(float(value), 4) for value in (*np.percentile(values, (50, 99)), max(values))]


if __name__ == "__main__":
    main()
