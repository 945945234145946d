"""The stage `quantise`: every stage's graphs in every precision, and the plan, with the evidence for both."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime
from onnx import ModelProto, TensorProto, helper

from build_engines.build import Build
from build_engines.data.moments import sensitivity_moments
from build_engines.graphs import tensor_types
from build_engines.progress import progress
from build_engines.quantisation.bank import Bank
from build_engines.quantisation.calibrate import RANGES, StageInputs, feeding_all, prepared_graphs, quantisable
from build_engines.quantisation.lint import refuse
from build_engines.quantisation.oracle import prove
from build_engines.quantisation.sensitivity import Examiner, Sensitivity, Subject
from calibration.ranges import read_ranges
from calibration.samples import CalibrationSample
from calibration.select import choose, read_signed
from edge_runtime.bundle import Bundle
from edge_runtime.errors import UserError
from edge_runtime.infer.onnxruntime_engine import session_options

PLAN = "plan.json"
OVERFLOW_MOMENTS = 16


def choose_plan(build: Build, bundle: Bundle, folder: Path) -> None:
    """Write `<stage>.<precision>.onnx` and plan.json into `folder`. Raises GateRefused for a graph that cannot ship."""
    recipe = build.recipe
    graphs = prepared_graphs(bundle)
    sites = quantisable(recipe, graphs)
    raw = {stage.name: bundle.read(stage.files["fp32"]) for stage in bundle.manifest.stages}
    ranges = read_ranges(build.work / "calibration" / RANGES, raw)
    samples = _samples(build, bundle)
    step = max(1, -(-len(samples) // OVERFLOW_MOMENTS))
    fed = StageInputs(bundle, feeding_all(bundle.manifest.stages, samples, step))
    subjects = [
        Subject(
            name,
            graph,
            sites.get(name, []),
            {method: ranges.thresholds(name, method) for method in recipe.quantise.methods},
            largest_values(graph, fed, name),
        )
        for name, graph in graphs.items()
    ]
    with progress(build.console, "quantise: variants tried") as advance:
        bank = Bank(bundle.manifest, samples, advance)
        plan = Examiner(bank, subjects, recipe.quantise, recipe.gate).examine()
    proofs = {
        subject.name: prove(subject.name, subject.graphs["int8"], [feeds for _, feeds in fed.of(subject.name)])
        for subject in subjects
        if "int8" in subject.graphs
    }
    plan = msgspec.structs.replace(plan, oracle=proofs)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for subject in subjects:
        for precision, data in subject.graphs.items():
            graph = ModelProto.FromString(data)
            refuse(graph, f"quantise: {subject.name} in {precision}", recipe.quantise.attention_products)
            if precision != "fp32":
                (folder / f"{subject.name}.{precision}.onnx").write_bytes(data)
    (folder / PLAN).write_bytes(msgspec.json.format(msgspec.json.encode(plan), indent=1) + b"\n")
    for name, proof in proofs.items():
        build.console.print(
            f"quantise: {name}: oracle: {proof.sites} sites exact within {proof.worst:.1e}", highlight=False
        )
    for line in plan.reasons:
        build.console.print(f"quantise: {line}", highlight=False)


def read_plan(folder: Path) -> Sensitivity:
    """What the stage left. Raises UserError."""
    try:
        return msgspec.json.decode((folder / PLAN).read_bytes(), type=Sensitivity)
    except (OSError, msgspec.DecodeError) as error:
        raise UserError(f"{folder / PLAN}: cannot be read ({error}); run the quantise stage") from None


def _samples(build: Build, bundle: Bundle) -> list[CalibrationSample]:
    """The moments that the sensitivity pass looks at: of every stratum of their split."""
    signatures, store = read_signed(bundle, sensitivity_moments(build, bundle), build.work)
    return store.take(moment.index for moment in choose(signatures, build.recipe.quantise.samples, build.recipe.seed))


def largest_values(model: ModelProto, fed: StageInputs, name: str) -> dict[str, float]:
    """Largest absolute value of every float tensor of stage `name` over a few moments: what FP16 must hold."""
    kinds = tensor_types(model)
    tensors = [out for node in model.graph.node for out in node.output if kinds.get(out) == TensorProto.FLOAT]
    watched = ModelProto()
    watched.CopyFrom(model)
    already = {value.name for value in model.graph.output}
    watched.graph.output.extend(helper.make_empty_tensor_value_info(out) for out in tensors if out not in already)
    session = onnxruntime.InferenceSession(
        watched.SerializeToString(), session_options(1), providers=["CPUExecutionProvider"]
    )
    largest: dict[str, float] = {}
    for _, inputs in fed.of(name):
        for tensor, value in zip(tensors, session.run(tensors, dict(inputs)), strict=True):
            # A mask's -1e9 may become the largest half: only what is measured, not what is switched off, must fit.
            values = np.abs(np.asarray(value))
            values = values[values < 1e8]
            largest[tensor] = max(largest.get(tensor, 0.0), float(values.max()) if values.size else 0.0)
    return largest
