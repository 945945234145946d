"""Every way of fusing learns what no single modality knows, survives missing ones, and exports exactly."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from rich.console import Console

from build_engines.data.datasets import Batch, Prepared
from build_engines.model.export import MONOLITH_TOLERANCE, STAGE_TOLERANCE, export
from build_engines.model.train import Trained, encode, load_trained, save, train
from build_engines.recipe import Recipe
from edge_runtime.errors import UserError
from tests.build_engines.conftest import with_fusion

KINDS = ("concat", "weighted", "gated", "attention")


@pytest.fixture(scope="module", params=KINDS)
def trained(request: pytest.FixtureRequest, recipe: Recipe, prepared: Prepared) -> tuple[Recipe, Trained]:
    fused = with_fusion(recipe, request.param)
    return fused, train(fused, "0" * 64, prepared, Console(quiet=True))


def _accuracy(trained: Trained, batches: list[Batch], present: tuple[int, ...]) -> float:
    right = total = 0
    for batch in batches:
        presence = np.zeros_like(batch.presence)
        presence[:, present] = 1.0
        with torch.no_grad():
            logits = trained.model.fusion(encode(trained.model, batch)[0], torch.from_numpy(presence))
        right += int((logits.argmax(1).numpy() == batch.label).sum())
        total += len(batch.label)
    return right / total


def test_fused_beats_the_best_single_modality(trained: tuple[Recipe, Trained], prepared: Prepared) -> None:
    model = trained[1]
    whole = _accuracy(model, list(prepared.val), (0, 1, 2))
    best_single = max(_accuracy(model, list(prepared.val), (one,)) for one in range(3))
    assert whole >= 0.85
    assert whole > best_single + 0.15


def test_an_absent_modality_changes_nothing_but_through_its_token(
    trained: tuple[Recipe, Trained], prepared: Prepared
) -> None:
    model, batch = trained[1].model, prepared.val[0]
    features = encode(model, batch)[0].detach()
    for size in (1, 2):
        for gone in combinations(range(3), size):
            presence = torch.from_numpy(batch.presence.copy())
            presence[:, list(gone)] = 0.0
            changed = features.clone()
            changed[:, list(gone)] = 0.0
            with torch.no_grad():
                logits = model.fusion(features, presence)
                assert torch.equal(logits, model.fusion(changed, presence))
            assert torch.isfinite(logits).all()


def test_the_graphs_equal_torch_and_the_monolith(
    trained: tuple[Recipe, Trained], prepared: Prepared, tmp_path: Path
) -> None:
    recipe, result = trained
    save(recipe, result, prepared, tmp_path)
    again = load_trained(recipe, tmp_path)
    for name, value in result.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name])
    assert again.record == result.record
    equality = export(recipe, again, tmp_path)
    assert equality.samples == 32
    assert set(equality.stage_against_torch) == {"vision", "text", "sensors", "fusion"}
    assert max(equality.stage_against_torch.values()) <= STAGE_TOLERANCE
    assert equality.staged_against_monolith <= MONOLITH_TOLERANCE


def test_weights_of_another_model_are_refused(
    trained: tuple[Recipe, Trained], prepared: Prepared, tmp_path: Path
) -> None:
    recipe, result = trained
    save(recipe, result, prepared, tmp_path)
    wider = msgspec.structs.replace(recipe, model=msgspec.structs.replace(recipe.model, features=24))
    with pytest.raises(UserError, match="run the train stage again"):
        load_trained(wider, tmp_path)


@pytest.mark.parametrize("kind", ["transformer"])
@pytest.mark.parametrize("sensors", ["conv", "gru"])
def test_other_encoders_train_and_export(
    recipe: Recipe, prepared: Prepared, tmp_path: Path, kind: str, sensors: str
) -> None:
    raw = msgspec.to_builtins(recipe)
    raw["model"]["text"] |= {"kind": kind, "layers": 2, "heads": 2}
    raw["model"]["sensors"]["kind"] = sensors
    raw["model"]["vision"] |= {"pool": "grid", "aux": {"scene": 4}, "aux_in_features": True}
    raw["train"]["epochs"] = 2
    other = msgspec.convert(raw, Recipe)
    result = train(other, "0" * 64, prepared, Console(quiet=True))
    save(other, result, prepared, tmp_path)
    assert max(export(other, result, tmp_path).stage_against_torch.values()) <= STAGE_TOLERANCE
