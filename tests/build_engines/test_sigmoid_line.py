"""A sigmoid head through the whole line by its command: samples folder to a signed bundle, and its evaluation."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from build_engines.data.datasets import RECIPE_FILE, layout_for
from build_engines.heads import one_label_build
from build_engines.heads.training import SigmoidLoss, fit_thresholds, reached
from build_engines.thin import thin
from edge_runtime.bundle import Bundle, open_bundle
from edge_runtime.heads.policy import DecisionPolicy
from edge_runtime.heads.sigmoid import SigmoidHead
from edge_runtime.slots import Trial, stated_trial
from edge_runtime.voice.grammar import GRAMMAR, parse
from tests.build_engines.calling import call
from tests.build_engines.samples_folder import RECIPE, write_samples

SAID = "the patient (coughs|is well)"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ward")
    (folder / "ward.toml").write_text(f"grammar = '{SAID}'\n{RECIPE}\n[trial]\nlatency_ms = 250.0\nrate = 0.7\n")
    write_samples(folder / "data", "train", 120, 1)
    write_samples(folder / "data", "val", 60, 2)
    arguments = ("--data", folder / "data", "--out", folder / "out", "--work", folder / "work")
    with pytest.MonkeyPatch.context() as patch:
        assert call(patch, "run", folder / "ward.toml", *arguments) == 0
    return folder


@pytest.fixture(scope="module")
def bundle(built: Path) -> Bundle:
    return open_bundle(built / "out" / "ward", [built / "out" / "ward.pem"])


def test_the_bundle_says_what_its_head_is_and_where_it_decides(bundle: Bundle) -> None:
    manifest = bundle.manifest
    assert (manifest.head.kind, manifest.head.labels) == ("sigmoid", ("ill",))
    assert manifest.decision.safe_label == "undecided"
    assert 0 < manifest.decision.thresholds["ill"] < 1
    assert next(stage for stage in manifest.stages if stage.name == "fusion").outputs[0].shape == (1, 1)
    assert manifest.figures["f1_macro"] > 0.9


def test_the_trial_that_the_recipe_asks_for_goes_with_the_bundle_and_with_a_thin_one(
    bundle: Bundle, tmp_path: Path
) -> None:
    assert stated_trial(bundle) == Trial(latency_ms=250.0, rate=0.7)
    assert stated_trial(thin(bundle, "onnxruntime", "", False, tmp_path / "thin")) == Trial(latency_ms=250.0, rate=0.7)


def test_the_grammar_of_the_recipe_goes_with_the_bundle_and_with_a_thin_one(bundle: Bundle, tmp_path: Path) -> None:
    assert bundle.read(GRAMMAR).decode() == SAID
    assert thin(bundle, "onnxruntime", "", False, tmp_path / "thin").read(GRAMMAR).decode() == SAID


def test_a_grammar_can_be_made_of_the_sentences_that_are_trained_on(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (built / "ward.toml", "--data", built / "data", "--out", tmp_path / "said.txt")
    assert call(monkeypatch, "grammar", *arguments) == 0
    rows = (json.loads(line) for line in (built / "data" / "train" / "samples.jsonl").read_text().splitlines())
    said = {row["text"].lower() for row in rows if row.get("text") and row.get("lang") in (None, "en")}
    made = parse((tmp_path / "said.txt").read_text(), "here").sentences
    assert {sentence.lower() for sentence in made} == said and len(made) == len(said) > 1
    assert f"{len(said)} sentences" in capsys.readouterr().out
    assert call(monkeypatch, "grammar", *arguments) == 2, "what is there is kept"


def test_evaluate_needs_no_layout_for_a_held_out_split_elsewhere(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_samples(tmp_path / "elsewhere", "test", 40, 3)
    scores, lines = tmp_path / "scores.json", tmp_path / "decisions.jsonl"
    arguments = ("--bundle", built / "out" / "ward", "--data", tmp_path / "elsewhere", "--split", "test")
    options = ("--trusted-key", built / "out" / "ward.pem", "--json", scores, "--predictions", lines, "--ablate")
    assert call(monkeypatch, "evaluate", *arguments, *options) == 0
    found = json.loads(scores.read_text())
    assert set(found["scores"]["classes"]) == {"ill", "none"}
    assert found["scores"]["f1_macro"] > 0.9
    assert set(found["conditions"]) == {"PA", "AP"}
    decisions = [json.loads(line) for line in lines.read_text().splitlines()]
    assert {one["label"] for one in decisions} == {"ill", "none"}
    assert decisions[0]["cluster"] == "test 0"
    assert found["modalities"]["camera.front + text + sensors"]["f1_macro"] > 0.9


def test_the_recipe_in_the_bundle_is_whole_and_tells_nothing_of_the_machine(built: Path, bundle: Bundle) -> None:
    text = bundle.read(RECIPE_FILE).decode()
    found = json.loads(text)
    assert found["layout"] == "samples"
    assert found["dataset"]["values"] == {"0": "none", "1": "ill"}
    assert str(built) not in text
    layout = layout_for(bundle, built / "data", "val")
    assert layout.dataset.label == "finding.code"


def test_a_folder_of_another_layout_is_known_by_its_files(bundle: Bundle, world: Path) -> None:
    assert layout_for(bundle, world, "val").MARKER == "messages.jsonl"


def test_no_input_at_all_gives_the_safe_decision(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = tmp_path / "decisions.jsonl"
    arguments = ("--bundle", built / "out" / "ward", "--data", built / "data", "--allow-unsigned")
    drop = [word for kind in ("camera", "text", "sensors") for word in ("--drop", kind)]
    assert call(monkeypatch, "evaluate", *arguments, *drop, "--predictions", lines) == 0
    decisions = [json.loads(line) for line in lines.read_text().splitlines()]
    assert {(one["label"], one["source"]) for one in decisions} == {("undecided", "safe")}


def test_a_missing_picture_is_one_line(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(built / "data" / "val", tmp_path / "val")
    (tmp_path / "val" / "images" / "002.jpg").unlink()
    arguments = ("--bundle", built / "out" / "ward", "--data", tmp_path, "--allow-unsigned")
    assert call(monkeypatch, "evaluate", *arguments) == 2
    said = capsys.readouterr().err.strip()
    assert "002.jpg" in said.replace("\n", "")
    assert "Traceback" not in said


def test_loss_counts_rare_labels_more_and_none_as_the_absence_of_all() -> None:
    counts = np.array([10.0, 90.0])  # ill, none
    logits = torch.tensor([[0.0]])
    even = SigmoidLoss(counts, 0.0, 0.0)
    assert float(even(logits, torch.tensor([0]))) == pytest.approx(np.log(2))
    balanced = SigmoidLoss(counts, 1.0, 0.0)
    assert float(balanced(logits, torch.tensor([0]))) == pytest.approx(5 * np.log(2))
    assert float(balanced(logits, torch.tensor([1]))) == pytest.approx(np.log(2) / 1.8)
    assert reached(torch.tensor([[2.0, -1.0], [-1.0, -2.0]])).tolist() == [0, 2]


def test_temperature_and_threshold_of_a_sigmoid_head_are_found() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4000, 1, generator=generator) * 2
    ill = torch.rand(4000, generator=generator) < logits[:, 0].sigmoid()
    labels = torch.where(ill, 0, 1)
    head = SigmoidHead(("ill",), "stage:x:y")
    fitted = one_label_build(head).fitted(head, logits * 3, labels)
    assert fitted["temperature"] == pytest.approx(3.0, rel=0.15)
    shifted = torch.linspace(-4, 4, 400)[:, None]
    truth = torch.where(shifted[:, 0] > 1.0, 0, 1)
    found = fit_thresholds(shifted, truth, ("ill",), 1.0)["ill"]
    assert found == pytest.approx(1 / (1 + np.exp(-1.0)), abs=0.01)


def test_the_models_own_answer_uses_the_threshold() -> None:

    head = SigmoidHead(("a", "b"), "stage:fusion:logits")
    policy = DecisionPolicy("none", thresholds={"a": 0.9})
    assert one_label_build(head).label_of(head, policy, np.array([1.0, 0.5], np.float32)) == "b"
    assert one_label_build(head).label_of(head, policy, np.array([1.0, -0.5], np.float32)) == "none"
    assert one_label_build(head).label_of(head, policy, np.array([3.0, 0.5], np.float32)) == "a"


def test_a_model_that_costs_more_than_its_budget_is_refused_with_the_figure(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    work = tmp_path / "work"
    shutil.copytree(built / "work", work)
    (tmp_path / "ward.toml").write_text(RECIPE + "\n[budget]\nms = 1e-6\nsize_mb = 1000.0\n")
    arguments = ("--data", built / "data", "--out", tmp_path / "out", "--work", work)
    assert call(monkeypatch, "run", tmp_path / "ward.toml", *arguments) == 3
    said = capsys.readouterr()
    assert "ms on this machine; budget.ms is 1e-06" in said.err
    assert "train: nothing has changed since it last ran" in said.out, "a limit alone trains nothing again"
    assert not (tmp_path / "out").exists()
    assert (work / "ward" / "report" / "cost.json").is_file()
