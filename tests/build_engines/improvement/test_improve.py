"""The loop mends what was spoilt on purpose, and keeps nothing that the split does not prove."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from rich.console import Console
from sklearn.metrics import f1_score

from build_engines.improvement.improve import Loop
from build_engines.improvement.policy_fit import Answers, fitted_thresholds, out_of_fold_decisions, out_of_fold_losses
from build_engines.improvement.run import improve_build, improve_bundle
from build_engines.recipe import Recipe
from build_engines.run import make_build
from build_engines.stages.export import export_stage
from build_engines.stages.train import train_stage
from calibration.moments import LabelledSet
from edge_runtime.bundle import open_bundle
from edge_runtime.heads.policy import DecisionPolicy
from edge_runtime.heads.sigmoid import SigmoidHead
from edge_runtime.heads.softmax import SoftmaxHead
from tests import tiny
from tests.build_engines.evaluation.test_degrade import _moment

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def _answers(temperature: float = 1.0, count: int = 400, noise: float = 1.0) -> Answers:
    """Logits whose softmax at temperature 1 is the true chance of each label."""
    rng = np.random.default_rng(4)
    labels = ("a", "b", "c")
    logits = rng.normal(0, 2 * noise, (count, 3))
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    truth = tuple(labels[rng.choice(3, p=row)] for row in chances)
    names = tuple(str(i) for i in range(count))
    return Answers(SoftmaxHead(labels, "x"), DecisionPolicy("c", temperature=temperature), logits, truth, names, names)


def test_temperature_is_found_and_judged_where_it_was_not_fitted() -> None:
    answers = _answers()
    assert answers.fitted_temperature(np.arange(400)) == pytest.approx(1.0, abs=0.25)
    assert out_of_fold_losses(answers).mean() < answers.losses(4.0).mean() - 0.1
    assert abs(out_of_fold_losses(answers).mean() - answers.losses(1.0).mean()) < 0.01


def test_thresholds_that_win_by_luck_do_not_win_out_of_fold() -> None:
    gains = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        answers = replace(_answers(count=200), truth=tuple(rng.choice(["a", "b", "c"], 200)))
        before, fitted, outside = (
            f1_score(answers.truth, said, average="macro")
            for said in (
                answers.decided(1.0, {}),
                answers.decided(1.0, fitted_thresholds(answers, 1.0, np.arange(200), {})),
                out_of_fold_decisions(answers, 1.0, {}),
            )
        )
        gains.append((fitted - before, outside - before))
    inside, honest = np.mean(gains, axis=0)
    assert inside > 0.01
    assert honest < inside / 2


def test_a_sigmoid_head_s_threshold_is_moved_to_where_it_belongs() -> None:
    rng = np.random.default_rng(1)
    sick = rng.random(300) < 0.4
    logits = np.where(sick, -1.0, -3.0)[:, None] + rng.normal(0, 0.4, (300, 1))
    names = tuple(str(i) for i in range(300))
    truth = tuple("sick" if one else "none" for one in sick)
    answers = Answers(SigmoidHead(("sick",), "x"), DecisionPolicy("none"), logits, truth, names, names)
    assert set(answers.decided(1.0, {})) == {"none"}
    found = fitted_thresholds(answers, 1.0, np.arange(300), {})
    assert found["sick"] <= 0.3
    assert np.mean(answers.decided(1.0, found) == np.array(truth)) > 0.85


def _noisy() -> Iterator[LabelledSet]:
    """Moments of which every sixth has another label than its inputs say."""
    for index in range(96):
        moment = _moment(index)
        if index % 6 == 0:
            moment = replace(moment, label=tiny.LABELS[(index + 1) % 4])
        yield moment


def _loop(tmp_path: Path, temperature: float) -> Loop:
    policy = DecisionPolicy("stop", temperature=temperature)
    path = tiny.write_bundle(tmp_path / "tiny", policy=policy)
    return Loop(open_bundle(path, allow_unsigned=True), _noisy, "val")


def test_a_wrong_temperature_is_mended_in_a_new_bundle(tmp_path: Path) -> None:
    loop = _loop(tmp_path, 0.1)
    improve_bundle(loop, Console(quiet=True), tmp_path / "out")
    attempts = {one.step: one for one in loop.attempts}
    assert attempts["temperature"].kept and attempts["temperature"].gain.low > 0
    assert not attempts["thresholds"].kept
    mended = open_bundle(tmp_path / "out" / "bundle", allow_unsigned=True).manifest
    assert mended.decision.temperature > 0.5
    assert "temperature" in (tmp_path / "out" / "improve.md").read_text()
    assert any("nothing runs in a reduced precision" in note for note in loop.notes)


def test_a_right_temperature_is_left_alone_and_no_bundle_written(tmp_path: Path) -> None:
    first = _loop(tmp_path, 0.1)
    right = first.temperature()
    loop = _loop(tmp_path, right)
    improve_bundle(loop, Console(quiet=True), tmp_path / "out")
    assert not any(one.kept for one in loop.attempts)
    assert not (tmp_path / "out" / "bundle").exists()
    assert (tmp_path / "out" / "improve.toml").read_text() == ""


def test_a_stage_that_was_ruined_gets_its_precision_back(tmp_path: Path) -> None:
    """The FP16 file of the text stage is another graph: one that never finds the word."""
    path = tiny.write_bundle(tmp_path / "tiny")
    plain = open_bundle(path, allow_unsigned=True)
    from build_engines.write_bundle import write_bundle

    files = {name: plain.read(name) for name in plain.manifest.files}
    files["stages/text.fp16.onnx"] = tiny.text_graph(stop=10_000)
    stages = tuple(
        msgspec.structs.replace(one, files=one.files | {"fp16": "stages/text.fp16.onnx"}) if one.name == "text" else one
        for one in plain.manifest.stages
    )
    exact = plain.manifest.precision["default"]
    manifest = msgspec.structs.replace(
        plain.manifest, stages=stages, precision={"default": exact, "tensorrt": exact | {"text": "fp16"}}
    )
    loop = Loop(write_bundle(tmp_path / "ruined", manifest, files), _noisy, "val")
    loop.precision_plan()
    assert loop.attempts[0].what == "text fp16 -> fp32" and loop.attempts[0].kept
    assert loop.bundle.manifest.precision["tensorrt"]["text"] == "fp32"
    assert "stages = []" in loop.outcome().settings


def test_class_weights_that_starve_a_label_are_mended_from_the_recipe(
    recipe: Recipe, world: Path, tmp_path: Path
) -> None:
    plan = msgspec.structs.replace(recipe.train, epochs=6, class_weights={"two": 0.02, "three": 0.02})
    starved = msgspec.structs.replace(recipe, train=plan)
    build = make_build(starved, "0" * 64, world, tmp_path, tmp_path / "work", Console(quiet=True))
    train_stage(build)
    export_stage(build)
    generous = msgspec.structs.replace(plan, class_weights={"two": 25.0, "three": 25.0})
    build = make_build(
        msgspec.structs.replace(recipe, train=generous), "0" * 64, world, tmp_path, tmp_path / "work",
        Console(quiet=True),
    )  # fmt: skip
    improve_build(build, tmp_path / "out")
    settings = (tmp_path / "out" / "improve.toml").read_text()
    assert "class_weights" in settings
    assert tomllib.loads(settings)["train"]["class_weights"]["three"] >= 25.0
    assert (tmp_path / "out" / "bundle" / "manifest.json").is_file()
