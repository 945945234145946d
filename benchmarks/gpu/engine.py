"""The device's engine code on a real GPU without TensorRT: stage graphs run by torch on our pointers and streams.

    python -m benchmarks.gpu.engine --out DIR

Every proof compares with ONNX Runtime on the CPU, or with what the engine itself said before. Each takes a `Launcher`,
so that the tests drive the same code on the driver double.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
import numpy as np

from benchmarks.gpu.findings import Findings
from benchmarks.gpu.messages import moments as message_moments
from benchmarks.gpu.tensorrt import CUDA, error, graphs, moments, opening, run_on_cpu
from benchmarks.gpu.torch_graph import TorchGraph
from benchmarks.gpu.torch_runtime import CudaLauncher, Launcher, TorchBackend, torch_engines
from edge_runtime.bundle import Bundle, open_bundle
from edge_runtime.bundles import bundle_path
from edge_runtime.config import EngineConfig
from edge_runtime.cuda import CudaChoice, open_cuda
from edge_runtime.errors import EngineError, UserError
from edge_runtime.infer.tensorrt.engine import TensorRTEngine
from edge_runtime.messages import Tensors
from edge_runtime.pipeline import Outcome, Pipeline

BUNDLES = ("shipped:home", "shipped:vehicle")
LIMITS = {"fp32": 1e-4, "fp16": 5e-3}
"""Largest error of a stage over its largest answer. A quantised value may fall to either side of a step, so that INT8
is reported and not judged."""
LOGITS = {"fp32": 1e-3, "fp16": 1e-2}
"""The same for the logits of a whole decision."""
MakeLauncher = Callable[[], Launcher]


@click.command()
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True)
@click.option("--decisions", default=300, show_default=True, type=click.IntRange(10), help="Decisions of staged runs.")
def main(out: Path, decisions: int) -> None:
    """Prove the engine code on the GPU, with torch as its library."""
    findings = Findings(out, "engine")
    translation(findings)
    for cuda in CUDA:
        try:
            open_cuda(cuda).close()
        except UserError as reason:
            findings.miss(f"{cuda}: {reason}")
            continue
        for name in BUNDLES:
            prove(open_bundle(bundle_path(name), allow_unsigned=True), cuda, CudaLauncher, findings, decisions)
        with findings.step(f"{cuda}: a lost device"):
            lost_device(findings, cuda)


def prove(
    bundle: Bundle,
    cuda: CudaChoice,
    launcher: MakeLauncher,
    findings: Findings,
    decisions: int,
    precisions: Sequence[str] = ("fp32", "fp16", "int8"),
    launches: int = 200,
) -> None:
    """All proofs on one bundle through one way to CUDA. Each stands alone: one that fails does not end the others."""
    where = f"{bundle.manifest.name}, {cuda}"
    with findings.step(f"{where}: stages agree with the CPU"):
        agreement(bundle, cuda, launcher, findings, precisions)
    with findings.step(f"{where}: replay"):
        replay(bundle, cuda, launcher, findings, launches)
    for title, proof in (
        ("side by side", side_by_side),
        ("in flight", in_flight),
        ("reopening", reopening),
    ):
        with findings.step(f"{where}: {title}"):
            proof(bundle, cuda, launcher, findings)
    for precision in (one for one in precisions if one in LOGITS):
        with findings.step(f"{where}: staged, {precision}"):
            staged(bundle, cuda, launcher, findings, precision, decisions)
    with findings.step(f"{where}: a run that fails"):
        failing_run(bundle, cuda, launcher, findings)


def translation(findings: Findings) -> None:
    """Every shipped graph, translated and run by torch on the CPU, against ONNX Runtime."""
    import torch

    rows = []
    for name in BUNDLES:
        bundle = open_bundle(bundle_path(name), allow_unsigned=True)
        inputs = moments(bundle, 8)
        for stage, precision, model in graphs(bundle):
            graph = TorchGraph(model, torch.device("cpu"))
            answers = [_on_cpu(graph, tensors) for tensors in inputs[stage.name]]
            reference = run_on_cpu(stage, precision, model, inputs[stage.name])
            absolute, relative = error(answers, reference)
            rows.append([bundle.manifest.name, stage.name, precision, absolute, relative])
            if precision in LIMITS:
                title = f"translation of {bundle.manifest.name} {stage.name} {precision}, CPU"
                findings.check(title, relative <= LIMITS[precision], f"error {relative:.1e}")
    findings.figure("translation on the CPU [bundle, stage, precision, largest error, over the largest answer]", rows)


def _on_cpu(graph: TorchGraph, tensors: Tensors) -> Tensors:
    import torch

    answers = graph({name: torch.from_numpy(np.array(value)) for name, value in tensors.items()})
    return {name: value.numpy() for name, value in answers.items()}


@contextmanager
def engines(
    bundle: Bundle, cuda: CudaChoice, launcher: MakeLauncher, precision: str = "fp32"
) -> Iterator[dict[str, TensorRTEngine]]:
    """Every stage's engine in that precision, not warmed up, on one device."""
    with TorchBackend(open_cuda(cuda), launcher) as backend:
        opened: dict[str, TensorRTEngine] = {}
        try:
            for stage, this, model in graphs(bundle):
                if this == precision:
                    opened[stage.name] = backend.open_engine(*opening(stage, precision, model))
            yield opened
        finally:
            for engine in opened.values():
                engine.close()


def agreement(
    bundle: Bundle, cuda: CudaChoice, launcher: MakeLauncher, findings: Findings, precisions: Sequence[str]
) -> None:
    """Each stage in each precision against the same graph in ONNX Runtime; largest error over 16 inputs."""
    inputs = moments(bundle, 16)
    rows = []
    with TorchBackend(open_cuda(cuda), launcher) as backend:
        for stage, precision, model in graphs(bundle):
            if precision not in precisions:
                continue
            with backend.open_engine(*opening(stage, precision, model)) as engine:
                engine.warm_up(inputs[stage.name][0])
                answers = [engine.run(tensors) for tensors in inputs[stage.name]]
                mode = engine.launch_mode
            absolute, relative = error(answers, run_on_cpu(stage, precision, model, inputs[stage.name]))
            rows.append([stage.name, precision, mode, absolute, relative])
            if precision in LIMITS:
                title = f"{bundle.manifest.name}, {cuda}: {stage.name} {precision} agrees with the CPU"
                findings.check(title, relative <= LIMITS[precision], f"error {relative:.1e}, {mode}")
    columns = "[stage, precision, launch, largest error, over the largest answer]"
    findings.figure(f"agreement, {bundle.manifest.name}, {cuda} {columns}", rows)


def replay(bundle: Bundle, cuda: CudaChoice, launcher: MakeLauncher, findings: Findings, times: int) -> None:
    """Before and after capture, and on every replay, the same input gives the same bits."""
    inputs = moments(bundle, 2)
    with engines(bundle, cuda, launcher) as opened:
        for name, engine in opened.items():
            first, second = inputs[name]
            plain = [engine.run(first), engine.run(second)]
            engine.warm_up(first)
            same = all(_equal(engine.run((first, second)[index % 2]), plain[index % 2]) for index in range(times))
            where = f"{bundle.manifest.name}, {cuda}: {name}"
            findings.check(f"{where}: {times} launches give the bits of the first", same, engine.launch_mode)
            graph_wanted = cuda == "cuda-python"
            captured = engine.launch_mode == "graph"
            findings.check(f"{where}: a CUDA graph is captured", captured == graph_wanted, engine.launch_mode)


def side_by_side(bundle: Bundle, cuda: CudaChoice, launcher: MakeLauncher, findings: Findings, times: int = 50) -> None:
    """Engines started together, each on its own stream, give the bits that each gives alone."""
    inputs = moments(bundle, 4)
    with engines(bundle, cuda, launcher) as opened:
        for name, engine in opened.items():
            engine.warm_up(inputs[name][0])
        alone = {name: [engine.run(tensors) for tensors in inputs[name]] for name, engine in opened.items()}
        same = True
        for index in range(times):
            turn = index % 4
            names = list(opened) if index % 2 else list(reversed(opened))
            for name in names:
                opened[name].start(inputs[name][turn])
            same &= all(_equal(opened[name].finish(), alone[name][turn]) for name in opened)
    findings.check(f"{bundle.manifest.name}, {cuda}: engines side by side give the bits of each alone", same)


def in_flight(bundle: Bundle, cuda: CudaChoice, launcher: MakeLauncher, findings: Findings) -> None:
    """A run that nobody fetched neither spoils the next one nor keeps an engine from closing."""
    inputs = moments(bundle, 2)
    same = True
    with engines(bundle, cuda, launcher) as opened:
        for name, engine in opened.items():
            engine.warm_up(inputs[name][0])
            expected = engine.run(inputs[name][1])
            engine.start(inputs[name][0])
            same &= _equal(engine.run(inputs[name][1]), expected)
            engine.start(inputs[name][0])  # closed in flight
    findings.check(f"{bundle.manifest.name}, {cuda}: an answer nobody fetched spoils nothing", same)


def reopening(bundle: Bundle, cuda: CudaChoice, launcher: MakeLauncher, findings: Findings, times: int = 8) -> None:
    """Device and engines opened again and again: the same bits, and no memory lost."""
    inputs = moments(bundle, 1)
    answers: list[dict[str, Tensors]] = []
    free: list[int] = []
    for _ in range(times):
        with engines(bundle, cuda, launcher) as opened:
            for name, engine in opened.items():
                engine.warm_up(inputs[name][0])
            answers.append({name: engine.run(inputs[name][0]) for name, engine in opened.items()})
        with open_cuda(cuda) as device:
            free.append(device.free_bytes())
    where = f"{bundle.manifest.name}, {cuda}"
    same = all(_equal(one[name], answers[0][name]) for one in answers[1:] for name in one)
    findings.check(f"{where}: {times} openings give the same bits", same)
    # The first two fill what libraries keep for good (their code, their workspaces).
    lost_mib = (free[1] - min(free[2:])) / 2**20
    findings.check(f"{where}: no memory is lost by reopening", lost_mib <= 4, f"{lost_mib:.1f} MiB over {times - 2}")


def staged(
    bundle: Bundle,
    cuda: CudaChoice,
    launcher: MakeLauncher,
    findings: Findings,
    precision: str,
    decisions: int,
) -> None:
    """The whole pipeline beside the CPU's on the same messages: labels, logits, and which stages ran at all."""
    if not all(precision in stage.files for stage in bundle.manifest.stages):
        return
    plan = {stage.name: precision for stage in bundle.manifest.stages}
    worst, differ, labels, runs = 0.0, 0, 0, 0
    with torch_engines(cuda, launcher) as made, _pipelines(bundle, made.settings, plan) as (here, there):
        for index, (now_ns, messages) in enumerate(message_moments(bundle, decisions)):
            for message in messages:
                here.add(message)
                there.add(message)
            if index % 3 == 0:
                here.prefetch(now_ns)
                there.prefetch(now_ns)
            one, other = here.decide(now_ns, now_ns), there.decide(now_ns, now_ns)
            worst = max(worst, _relative(_logits(one), _logits(other)))
            labels += one.verdict.label != other.verdict.label
            differ += _ran(one) != _ran(other)
            runs += len(_ran(one))
    where = f"{bundle.manifest.name}, {cuda}, {precision}"
    findings.check(f"{where}: logits of {decisions} decisions", worst <= LOGITS[precision], f"error {worst:.1e}")
    findings.check(f"{where}: labels", labels == 0, f"{labels} of {decisions} differ")
    saved = 1 - runs / (decisions * len(plan))
    findings.check(f"{where}: the same stages ran as on the CPU", differ == 0 and saved > 0, f"{saved:.0%} saved")


@contextmanager
def _pipelines(bundle: Bundle, settings: EngineConfig, plan: Mapping[str, str]) -> Iterator[tuple[Pipeline, Pipeline]]:
    """On the GPU and on the CPU."""
    here = Pipeline(bundle, settings, plan=plan)
    there = Pipeline(bundle, plan=plan)
    try:
        yield here, there
    finally:
        here.close()
        there.close()


def failing_run(bundle: Bundle, cuda: CudaChoice, launcher: MakeLauncher, findings: Findings, at: int = 10) -> None:
    """A stage that fails while others are in flight: the safe decision, then the model again, with the same answers."""
    stage = [item.name for item in bundle.manifest.stages if item.streams][-1]
    with torch_engines(cuda, launcher) as made:
        whole = _outcomes(bundle, made.settings, lambda index: None)

        def fail(index: int) -> None:
            if index == at:
                made.backends[-1].break_engine(stage)

        broken = _outcomes(bundle, made.settings, fail)
    where = f"{bundle.manifest.name}, {cuda}: {stage} fails"
    verdict = broken[at].verdict
    said = verdict.source == "safe" and "engine" in (verdict.reason or "")
    findings.check(f"{where}: the decision is the safe one", said, verdict.reason or "no reason")
    after = list(zip(broken[at + 1 :], whole[at + 1 :], strict=True))
    same = all(_equal({"logits": _logits(one)}, {"logits": _logits(other)}) for one, other in after)
    findings.check(f"{where}: reopened, it answers as if nothing had been", same, f"{len(after)} decisions")


def _outcomes(bundle: Bundle, settings: EngineConfig, before: Callable[[int], None]) -> list[Outcome]:
    """30 decisions with new input for every stage, so that all stages run each time."""
    pipeline = Pipeline(bundle, settings)
    outcomes = []
    try:
        for index, (now_ns, messages) in enumerate(message_moments(bundle, 30, every=True)):
            for message in messages:
                pipeline.add(message)
            before(index)
            outcomes.append(pipeline.decide(now_ns, now_ns))
    finally:
        pipeline.close()
    return outcomes


def lost_device(findings: Findings, cuda: CudaChoice) -> None:
    """A kernel that writes where no memory is takes the device from its process: in a process of its own."""
    line = [sys.executable, "-m", "benchmarks.gpu.lost_device", cuda]
    result = subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)
    if result.returncode:
        raise EngineError((result.stderr.strip().splitlines() or ["no answer"])[-1])
    told = json.loads(result.stdout.splitlines()[-1])
    findings.check(f"{cuda}: a lost device is told as such", told["lost"], told["reason"])
    findings.check(f"{cuda}: the CPU takes over where that is allowed", told["backend"] == "onnxruntime", told["label"])


def _ran(outcome: Outcome) -> tuple[str, ...]:
    return tuple(name for name, spent in outcome.inference.stage_ns.items() if spent)


def _logits(outcome: Outcome) -> np.ndarray:
    if outcome.inference.output is None:
        raise EngineError(f"no answer: {outcome.inference.error or outcome.verdict.reason}")
    return outcome.inference.output


def _relative(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).max() / max(float(np.abs(other).max()), 1e-6))


def _equal(one: Tensors, other: Tensors) -> bool:
    return all(np.array_equal(one[name], other[name]) for name in other)


if __name__ == "__main__":
    main()
