"""Fusion helps where it must, and the comparison says so; where one modality suffices, it says that too."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
import torch
from rich.console import Console

from build_engines.comparison import classical as classical_module
from build_engines.comparison import frozen as frozen_module
from build_engines.comparison.compare import compare, modality_groups, only
from build_engines.comparison.contest import Contest
from build_engines.comparison.frozen import choose_weights, fit_fusion, simplex
from build_engines.heads.labelled import LabelPairs
from build_engines.model.fused import Fusion
from build_engines.recipe import FusionRecipe, Recipe, check
from build_engines.run import make_build
from edge_runtime.heads.softmax import SoftmaxHead
from tests.build_engines.conftest import NO, YES

EPISODES = 40

TWO = SoftmaxHead(("a", "b"), "stage:fusion:logits")


def write_split(folder: Path, seed: int, joint: bool) -> None:
    """Camera says bright or dark, sensors high or low. `joint`: the label is whether they differ; else the camera's."""
    rng = np.random.default_rng(seed)
    (folder / "frames").mkdir(parents=True)
    lines = []
    for index in range(EPISODES * 8):
        episode, step = divmod(index, 8)
        picture, reading, sentence = (rng.random(3) < 0.5).tolist()
        image = rng.integers(0, 90, (16, 16, 3)).astype(np.uint8) + np.uint8(120 * picture)
        name = f"frames/{index:04d}.jpg"
        (folder / name).write_bytes(cv2.imencode(".jpg", image)[1].tobytes())
        label = "yes" if (picture != reading if joint else picture) else "no"
        values = {"a_v": float(rng.normal()), "b_v": 3.0 * reading - 1.5 + float(rng.normal() * 0.2)}
        head = {"episode": episode, "t_s": 0.1 * step}
        lines += [
            head | {"stream": "sensors", "values": values},
            head | {"stream": "text", "text": (YES if sentence else NO)[int(rng.integers(3))]},
            head | {"stream": "camera.front", "frame": name, "label": label},
        ]
    (folder / "messages.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "summary.json").write_text("{}")


def binary(recipe: Recipe, name: str, epochs: int) -> Recipe:
    """The tiny recipe with two labels and without the position, of which these recordings have none."""
    raw = msgspec.to_builtins(recipe)
    raw |= {"name": name, "labels": ["no", "yes"]}
    raw["decision"]["safe_label"] = "no"
    del raw["streams"]["position"]
    raw["train"] |= {"epochs": epochs, "modality_dropout": {}}
    return msgspec.convert(raw, Recipe)


@pytest.mark.parametrize("joint", [True, False])
def test_fusion_helps_only_where_it_must(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, joint: bool
) -> None:
    monkeypatch.setattr(classical_module, "TREES", 15)
    monkeypatch.setattr(frozen_module, "FOLDS", 2)
    for split, seed in (("train", 1), ("val", 2)):
        write_split(tmp_path / "data" / split, seed, joint)
    build = make_build(
        binary(recipe, "tiny", 8), "0" * 64, tmp_path / "data", tmp_path, tmp_path / "work", Console(quiet=True)
    )
    found = compare(build, shared=True)
    rows = {row.name: row for row in found.rows}
    assert {"vision", "text", "sensors", "concat (the recipe's)", "weighted", "gated", "attention"} <= set(rows)
    assert {"classical vision", "classical, averaged", "classical, stacked"} <= set(rows)
    assert found.verdict.startswith("fusion helps" if joint else "fusion is not proven to help")
    if joint:
        assert found.duels[0].difference.low > 0.2 and found.duels[0].p_value < 0.01
        assert rows["vision"].figure.value < 0.7 < rows["concat (the recipe's)"].figure.value
    else:
        assert rows["vision"].figure.value > 0.9 and rows["classical vision"].figure.value > 0.9
        assert rows["sensors"].figure.value < 0.7
    assert sum(found.grid[0].weights.values()) == pytest.approx(1.0)
    assert [one.mean for one in found.grid] == sorted((one.mean for one in found.grid), reverse=True)
    assert all((row.ms is None) == (row.kind == "classical") for row in found.rows)
    # All its other stages take time too, and the very same graph is timed once.
    assert rows["vision"].ms < rows["concat (the recipe's)"].ms  # type: ignore[operator]
    assert {place.name for place in found.front} == {row.name for row in found.rows if row.ms is not None}
    assert not found.front[0].behind and found.front[0].bought is None
    files = found.files()
    page = files["compare.md"].decode()
    assert files["compare.png"][:4] == files["front.png"][:4] == b"\x89PNG"
    assert found.verdict in page and "## macro-F1 against time" in page and "(front.png)" in page


def test_a_modality_alone_is_trained_on_nothing_else(recipe: Recipe, prepared: object) -> None:
    assert modality_groups(recipe) == {"vision": [0], "text": [1], "sensors": [2]}
    alone, data = only(recipe, prepared, "sensors")  # type: ignore[arg-type]
    assert alone.modalities == ("sensors",)
    batch = next(iter(data.train.epoch(np.random.default_rng(0))))
    assert batch.presence.shape[1] == 1 and not batch.label_without


def test_cross_validation_gives_the_weight_to_what_knows(recipe: Recipe) -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 300)
    knows = torch.from_numpy((truth[:, None] * 2.0 - 1 + rng.normal(0, 0.6, (300, 4))).astype("f4"))
    noise = torch.from_numpy(rng.normal(0, 1, (300, 4)).astype("f4"))
    raw = msgspec.to_builtins(binary(recipe, "two", 1))
    del raw["model"]["text"]
    two = msgspec.convert(raw, Recipe)
    grid = choose_weights(
        two,
        torch.stack([noise, knows], dim=1),
        torch.ones(300, 2),
        torch.from_numpy(truth),
        [str(i) for i in range(300)],
    )
    assert len(grid) == 11
    assert grid[0].weights["sensors"] > 0
    blind = next(one for one in grid if one.weights["camera.front"] == 1.0)
    assert blind == grid[-1] and blind.mean < 0.65
    assert grid[0].mean > 0.9


def test_fixed_weights_are_used_and_not_learned(recipe: Recipe) -> None:
    fusion = FusionRecipe("weighted", 8, dropout=0.0)
    free, fixed = Fusion(fusion, 2, 4, TWO), Fusion(fusion, 2, 4, TWO, (0.75, 0.25))
    assert free.weights == pytest.approx((0.5, 0.5)) and fixed.weights == pytest.approx((0.75, 0.25))
    assert "alpha" in dict(free.named_parameters()) and "alpha" not in dict(fixed.named_parameters())
    only_first = Fusion(fusion, 2, 4, TWO, (1.0, 0.0)).eval()
    features = torch.randn(5, 2, 4)
    other = features.clone()
    other[:, 1] = 0.0
    assert torch.equal(only_first(features, torch.ones(5, 2)), only_first(other, torch.ones(5, 2)))
    truth = torch.tensor([0, 1, 0, 1, 0])
    fitted = fit_fusion(binary(recipe, "x", 1), fusion, features, torch.ones(5, 2), truth, (0.6, 0.4))
    assert fitted.weights == pytest.approx((0.6, 0.4))


@pytest.mark.parametrize(
    ("kind", "weights"),
    [("concat", {"camera.front": 1.0, "text": 1.0, "sensors": 1.0}), ("weighted", {"text": 1.0}),
     ("weighted", {"camera.front": 0.0, "text": 0.0, "sensors": 0.0})],
)  # fmt: skip
def test_weights_that_make_no_sense_are_refused(recipe: Recipe, kind: str, weights: dict[str, float]) -> None:
    fusion = msgspec.convert({"kind": kind, "weights": weights}, FusionRecipe)
    wrong = msgspec.structs.replace(recipe, model=msgspec.structs.replace(recipe.model, fusion=fusion))
    assert "model.fusion.weights" in (check(wrong) or "")


def test_the_grid_lies_on_the_simplex() -> None:
    for count, size in ((2, 11), (3, 21)):
        points = simplex(count)
        assert len(points) == len(set(points)) == size
        assert all(sum(point) == pytest.approx(1.0) for point in points)


def test_a_duel_is_won_only_beyond_luck() -> None:
    truth = ["a", "b"] * 100
    groups = [str(index) for index in range(200)]
    contest = Contest(groups, 0)
    for name, kind, said in (
        ("good", "fusion", truth),
        ("nearly", "single", [*truth[:199], "a"]),
        ("bad", "single", ["a"] * 200),
    ):
        contest.add(name, kind, LabelPairs(truth, said, ("a", "b"), groups))
    assert "good beats bad" in contest.duel("good", "bad").words
    assert "not proven better" in contest.duel("good", "nearly").words
    assert contest.best("single").name == "nearly"  # type: ignore[union-attr]
