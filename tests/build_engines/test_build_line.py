"""The whole line by its command: recipe and data to a bundle that the device opens, and its evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from build_engines.cli import main
from edge_runtime.bundle import open_bundle
from edge_runtime.pipeline import Pipeline


def _call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["build-engines", *map(str, arguments)])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture(scope="module")
def built(recipe_file: Path, world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        code = _call(patch, "run", recipe_file, "--data", world, "--out", folder / "out", "--work", folder / "work")
    assert code == 0
    return folder


def test_the_bundle_opens_and_lists_everything(built: Path) -> None:
    bundle = open_bundle(built / "out" / "tiny", allow_unsigned=True)
    manifest = bundle.manifest
    assert bundle.signed_by is None
    assert manifest.presence == ("camera.front", "text", "sensors")
    assert {stage.name for stage in manifest.stages} == {"vision", "text", "sensors", "fusion"}
    assert {"report/evaluation.json", "report/evaluation.md", "tokenizer.model"} <= set(manifest.files)
    assert manifest.figures["f1_macro"] > 0.8
    report = json.loads(bundle.read("report/evaluation.json"))
    assert report["scores"]["count"] == 128
    assert len(report["modalities"]) == 7
    assert report["modalities"]["camera.front + text + sensors"]["f1_macro"] > max(
        report["modalities"][name]["f1_macro"] for name in manifest.presence
    )
    Pipeline(bundle).close()


def test_no_weights_are_pickled(built: Path) -> None:
    names = {path.suffix for path in (built / "work" / "tiny").rglob("*") if path.is_file()}
    assert not names & {".pt", ".pth", ".pkl", ".joblib"}


def test_evaluate_writes_scores_and_every_decision(
    built: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores, lines = tmp_path / "scores.json", tmp_path / "decisions.jsonl"
    arguments = ("evaluate", "--bundle", built / "out" / "tiny", "--data", world, "--allow-unsigned")
    assert _call(monkeypatch, *arguments, "--json", scores, "--predictions", lines) == 0
    decisions = [json.loads(line) for line in lines.read_text().splitlines()]
    assert len(decisions) == json.loads(scores.read_text())["scores"]["count"] == 128
    assert all(one["source"] == "model" for one in decisions)
    right = sum(one["label"] == one["truth"] for one in decisions) / len(decisions)
    assert right == pytest.approx(json.loads(scores.read_text())["scores"]["accuracy"])


def test_a_dropped_required_stream_gives_safe_decisions_and_text_its_own_truth(
    built: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = tmp_path / "decisions.jsonl"
    arguments = ("evaluate", "--bundle", built / "out" / "tiny", "--data", world, "--allow-unsigned")
    assert _call(monkeypatch, *arguments, "--drop", "camera", "--predictions", lines) == 0
    assert {json.loads(line)["source"] for line in lines.read_text().splitlines()} == {"safe"}
    assert _call(monkeypatch, *arguments, "--drop", "text", "--predictions", lines) == 0
    decisions = [json.loads(line) for line in lines.read_text().splitlines()]
    assert "three" not in {one["truth"] for one in decisions}


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--split", "nowhere"), 2),
        (("--drop", "lidar"), 2),
        (("--layout", "moon"), 2),
        (("--no-such-option",), 2),
    ],
)
def test_mistakes_are_one_line(
    built: Path,
    world: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    code: int,
) -> None:
    base = ("evaluate", "--bundle", built / "out" / "tiny", "--data", world, "--allow-unsigned")
    assert _call(monkeypatch, *base, *arguments) == code
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_an_unsigned_bundle_needs_the_flag(built: Path, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _call(monkeypatch, "evaluate", "--bundle", built / "out" / "tiny", "--data", world) == 2


def test_a_missed_gate_exits_3(
    built: Path, recipe_file: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = tmp_path / "strict.toml"
    strict.write_text(recipe_file.read_text() + "\n[gate]\nmacro_f1 = 0.9999\naccuracy = 0.9999\n")
    code = _call(
        monkeypatch,
        "run",
        strict,
        "--data",
        world,
        "--out",
        tmp_path,
        "--work",
        built / "work",
        "--from",
        "bundle",
    )
    scores = json.loads((tmp_path / "tiny" / "report" / "evaluation.json").read_text())["scores"]
    assert code == (3 if scores["f1_macro"] < 0.9999 else 0)


def test_a_folder_that_is_no_bundle_is_not_replaced(
    built: Path, recipe_file: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "thesis.txt").write_text("precious")
    arguments = ("run", recipe_file, "--data", world, "--out", tmp_path, "--work", built / "work")
    assert _call(monkeypatch, *arguments, "--from", "bundle", "--to", "bundle") == 2
    assert (tmp_path / "tiny" / "thesis.txt").read_text() == "precious"
