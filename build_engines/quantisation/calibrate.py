"""The stage `calibrate`: choose, check, collect, write."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import onnx
from onnx import ModelProto

from build_engines.build import Build
from build_engines.data.moments import calibration_moments, evaluation_moments
from build_engines.quantisation.coverage import Coverage, as_markdown, plot
from build_engines.quantisation.engines import run_each
from build_engines.quantisation.quantise import Site, prepare, sites
from build_engines.recipe import BuildRecipe
from calibration.fit import refuse_misfit
from calibration.ranges import RangesFile, TensorRange, collect, tensor_ranges, write_ranges
from calibration.samples import CalibrationSample, stage_feeds
from calibration.select import (
    choose,
    narrowness,
    read_signed,
    refuse_near,
    without_doubles,
    without_evaluated,
)
from edge_runtime.bundle import Bundle, Stage
from edge_runtime.infer.feed import stages_fed
from edge_runtime.messages import Tensors
from edge_runtime.tensors import zeros

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


def calibrate(build: Build, bundle: Bundle, folder: Path) -> None:
    """Write ranges.json, coverage.md and coverage.png into `folder`.

    Raises GateRefused if the set does not stand for the field.
    """
    recipe = build.recipe
    everything, samples_read = read_signed(bundle, calibration_moments(build, bundle), build.work)
    evaluation, kept_others = read_signed(bundle, evaluation_moments(build, bundle), build.work)
    distinct, shared = without_evaluated(without_doubles(everything), evaluation, recipe.calibrate.duplicates)
    if shared:
        build.console.print(f"calibrate: {shared} moments are also evaluated; they are left out", highlight=False)
    chosen = choose(distinct, recipe.calibrate.samples, recipe.seed)
    for lack in narrowness(everything, chosen, evaluation):
        build.console.print(f"calibrate: [yellow]warning[/]: {lack}; ranges are those of what it saw", highlight=False)
    near = refuse_near(chosen, evaluation, recipe.calibrate.near_leak)
    # As many moments of the evaluation split, chosen by the same rule: like is compared with like.
    likewise = choose(evaluation, recipe.calibrate.samples, recipe.seed)
    samples, others = (
        samples_read.take(moment.index for moment in chosen),
        kept_others.take(moment.index for moment in likewise),
    )
    graphs = prepared_graphs(bundle)
    sites = quantisable(recipe, graphs)
    ranges: dict[str, dict[str, TensorRange]] = {}
    fed, fed_others = StageInputs(bundle, samples), StageInputs(bundle, others)
    for name, stage_sites in sites.items():
        tensors = list(dict.fromkeys(tensor for site in stage_sites for tensor in site.activations))
        observed = collect(graphs[name], partial(fed.of, name), tensors)
        seen = collect(graphs[name], partial(fed_others.of, name), tensors)
        apart = refuse_misfit(name, observed, seen)
        ranges[name] = tensor_ranges(observed, recipe.quantise.methods)
        build.console.print(
            f"calibrate: {name}: {len(tensors)} activations over {len(samples)} moments, "
            f"at most {apart:.2f} from the evaluation split's",
            highlight=False,
        )
    folder.mkdir(parents=True, exist_ok=True)
    digests = {
        stage.name: bundle.manifest.files[stage.files["fp32"]]
        for stage in bundle.manifest.stages
        if stage.name in sites
    }
    data = hashlib.sha256("".join(moment.digest for moment in chosen).encode()).hexdigest()
    write_ranges(folder / RANGES, RangesFile(1, digests, data, tuple(moment.id for moment in chosen), ranges))
    covered = Coverage(everything, distinct, chosen, evaluation, shared, near, bundle.manifest.streams_read)
    (folder / "coverage.md").write_text(as_markdown(covered), encoding="utf-8")
    (folder / "coverage.png").write_bytes(plot(covered))


def feeding_all(stages: Sequence[Stage], samples: Iterable[CalibrationSample], step: int) -> list[CalibrationSample]:
    """Every `step`-th of `samples`, and for a stage that none of those before feeds the first one that does: what is
    rare, as a spoken command, must be looked at too."""
    chosen: list[CalibrationSample] = []
    fed: set[str] = set()
    for index, sample in enumerate(samples):
        feeds = stages_fed(stages, sample.present)
        if index % step == 0 or not feeds <= fed:
            chosen.append(sample)
            fed |= feeds
    return chosen


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
        for index, sample in enumerate(self._samples):
            if name in stages_fed(self._stages.values(), sample.present):
                yield sample.id, self._feed(stage, index)

    def _feed(self, stage: Stage, index: int) -> Tensors:
        for other in stage.stages:
            if other not in self._outputs:
                self._outputs[other] = self._run(self._stages[other])
        return stage_feeds(stage, self._samples[index], {other: self._outputs[other][index] for other in stage.stages})

    def _run(self, stage: Stage) -> list[Tensors]:
        absent = {spec.name: zeros(spec) for spec in stage.outputs}
        model = self._bundle.read(stage.files["fp32"])
        runs = [stage.name in stages_fed(self._stages.values(), sample.present) for sample in self._samples]
        outputs = iter(
            run_each(stage, "fp32", model, (self._feed(stage, index) for index, fed in enumerate(runs) if fed))
        )
        return [next(outputs) if fed else absent for fed in runs]
