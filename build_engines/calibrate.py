"""The stage `calibrate`: choose, check, collect, write."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import onnx
from onnx import ModelProto

from build_engines.job import Job
from build_engines.line import calibration_moments, evaluation_moments
from build_engines.quantise import Site, prepare, sites
from build_engines.recipe import BuildRecipe
from calibration.fit import refuse_misfit
from calibration.ranges import RangesFile, TensorRange, collect, tensor_ranges, write_ranges
from calibration.samples import CalibrationSample, read_samples, stage_feeds
from calibration.select import Signature, choose, refuse_leak, signature
from edge_runtime.bundle import Bundle
from edge_runtime.infer.onnxruntime_engine import OnnxRuntimeEngine
from edge_runtime.messages import Tensors

RANGES = "ranges.json"


def prepared_graphs(bundle: Bundle) -> dict[str, ModelProto]:
    """Stage to its FP32 graph, ready to be looked at."""
    return {
        stage.name: prepare(onnx.load_from_string(bundle.read(stage.files["fp32"]))) for stage in bundle.manifest.stages
    }


def quantisable(recipe: BuildRecipe, graphs: Mapping[str, ModelProto]) -> dict[str, list[Site]]:
    """Stage to the operators that the recipe allows to be quantised."""
    rules = recipe.quantise
    return {
        name: [
            site
            for site in sites(graphs[name], rules.attention_products)
            if f"{name}/{site.block}" not in rules.exclude
        ]
        for name in rules.stages
    }


def calibrate(job: Job, bundle: Bundle, folder: Path) -> None:
    """Write ranges.json and coverage.md into `folder`. Raises GateRefused if the set does not stand for the field."""
    recipe = job.recipe
    everything = [signature(i, one) for i, one in enumerate(read_samples(bundle, calibration_moments(job, bundle)))]
    chosen = choose(everything, recipe.calibrate.samples, recipe.seed)
    evaluation = [signature(i, one) for i, one in enumerate(read_samples(bundle, evaluation_moments(job, bundle)))]
    refuse_leak(chosen, evaluation)
    # As many moments of the evaluation split, chosen by the same rule: like is compared with like.
    likewise = choose(evaluation, recipe.calibrate.samples, recipe.seed)
    samples = _take(read_samples(bundle, calibration_moments(job, bundle)), chosen)
    others = _take(read_samples(bundle, evaluation_moments(job, bundle)), likewise)
    graphs = prepared_graphs(bundle)
    wanted = quantisable(recipe, graphs)
    ranges: dict[str, dict[str, TensorRange]] = {}
    fed, fed_others = StageInputs(bundle, samples), StageInputs(bundle, others)
    for name, found in wanted.items():
        tensors = list(dict.fromkeys(tensor for site in found for tensor in site.activations))
        observed = collect(graphs[name], partial(fed.of, name), tensors)
        seen = collect(graphs[name], partial(fed_others.of, name), tensors)
        apart = refuse_misfit(name, observed, seen)
        ranges[name] = tensor_ranges(observed, recipe.quantise.methods)
        job.console.print(
            f"calibrate: {name}: {len(tensors)} activations over {len(samples)} moments, "
            f"at most {apart:.2f} from the evaluation split's",
            highlight=False,
        )
    folder.mkdir(parents=True, exist_ok=True)
    digests = {
        stage.name: bundle.manifest.files[stage.files["fp32"]]
        for stage in bundle.manifest.stages
        if stage.name in wanted
    }
    data = hashlib.sha256("".join(one.digest for one in chosen).encode()).hexdigest()
    write_ranges(folder / RANGES, RangesFile(1, digests, data, tuple(one.id for one in chosen), ranges))
    (folder / "coverage.md").write_text(coverage(everything, chosen, evaluation), encoding="utf-8")


class StageInputs:
    """Every stage's inputs for the same samples, computed by the FP32 stages before it. One thread."""

    def __init__(self, bundle: Bundle, samples: Sequence[CalibrationSample]) -> None:
        self._bundle = bundle
        self._samples = samples
        self._outputs: dict[str, list[Tensors]] = {}
        self._stages = {stage.name: stage for stage in bundle.manifest.stages}

    def of(self, name: str) -> Iterator[tuple[str, Tensors]]:
        """Each sample's id and the inputs of the stage `name`, where the device would run it."""
        stage = self._stages[name]
        before = [source.split(":")[1] for item in stage.inputs for source in item.sources if source[:6] == "stage:"]
        for other in before:
            if other not in self._outputs:
                self._outputs[other] = list(self._run(other))
        for index, sample in enumerate(self._samples):
            if stage.streams and not any(source.split(":")[1] in sample.present for source in stage.streams):
                continue
            yield sample.id, stage_feeds(stage, sample, {other: self._outputs[other][index] for other in before})

    def _run(self, name: str) -> Iterator[Tensors]:
        stage = self._stages[name]
        specs = [item.spec for item in stage.inputs]
        with OnnxRuntimeEngine(name, "fp32", self._bundle.read(stage.files["fp32"]), specs, stage.outputs) as engine:
            for sample in self._samples:
                yield engine.run(stage_feeds(stage, sample, {}))


def _take(samples: Iterable[CalibrationSample], chosen: Sequence[Signature]) -> list[CalibrationSample]:
    wanted = {one.index for one in chosen}
    return [sample for index, sample in enumerate(samples) if index in wanted]


def coverage(everything: Sequence[Signature], chosen: Sequence[Signature], evaluation: Sequence[Signature]) -> str:
    """Markdown: how often each label and condition occurs in the whole, among the chosen, and where it is judged."""
    lines = ["# Calibration set", "", f"{len(chosen)} moments of {len(everything)}, none of which is evaluated.", ""]
    keys: dict[str, Callable[[Signature], str]] = {
        "label": lambda one: one.label,
        "condition": lambda one: one.condition or "(none given)",
    }
    for title, key in keys.items():
        counts = [Counter(key(one) for one in part) for part in (everything, chosen, evaluation)]
        lines += [f"| {title} | all | chosen | evaluated |", "| --- | ---: | ---: | ---: |"]
        lines += [
            f"| {name} | {' | '.join(str(count[name]) for count in counts)} |" for name in sorted(set().union(*counts))
        ]
        lines.append("")
    return "\n".join(lines)
