"""What trains: a GPU where torch sees one, unless the recipe says otherwise; processors give what they gave."""

from __future__ import annotations

import io
from typing import Any

import msgspec
import pytest
import torch
from rich.console import Console

from build_engines.data.datasets import Prepared
from build_engines.model.device import device_of, on_gpu
from build_engines.model.train import Trained, train
from build_engines.recipe import Recipe
from edge_runtime.errors import UserError


def with_plan(recipe: Recipe, **changes: Any) -> Recipe:
    return msgspec.structs.replace(recipe, train=msgspec.structs.replace(recipe.train, **changes))


def trained(recipe: Recipe, prepared: Prepared, device: str) -> Trained:
    return train(with_plan(recipe, device=device, epochs=1), "0" * 64, prepared, Console(file=io.StringIO()))


@pytest.mark.parametrize(
    ("wanted", "seen", "used"),
    [
        ("auto", False, "cpu"),
        ("auto", True, "cuda"),
        ("cpu", True, "cpu"),
        ("cpu", False, "cpu"),
        ("cuda", True, "cuda"),
    ],
)
def test_a_gpu_trains_where_torch_sees_one(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, wanted: str, seen: bool, used: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: seen)
    plan = with_plan(recipe, device=wanted)
    assert device_of(plan).type == used
    assert on_gpu(plan) == (used == "cuda")


def test_a_gpu_that_is_asked_for_and_not_there_is_one_line(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="train.device is 'cuda', but torch sees no GPU"):
        device_of(with_plan(recipe, device="cuda"))


def test_without_a_gpu_all_is_as_on_the_processor(recipe: Recipe, prepared: Prepared) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    auto, cpu = (trained(recipe, prepared, device) for device in ("auto", "cpu"))
    assert auto.record.device == cpu.record.device == "cpu"
    assert auto.record.epochs == cpu.record.epochs
    for name, value in auto.model.state_dict().items():
        assert torch.equal(value, cpu.model.state_dict()[name]), name


def test_a_gpu_learns_the_same_and_leaves_the_weights_on_the_processor(recipe: Recipe, prepared: Prepared) -> None:
    if not torch.cuda.is_available():
        pytest.skip("torch sees no GPU")
    found = trained(recipe, prepared, "cuda")
    assert found.record.device == "cuda"
    assert {value.device.type for value in found.model.state_dict().values()} == {"cpu"}
    here = trained(recipe, prepared, "cpu")
    assert found.record.epochs[-1].loss == pytest.approx(here.record.epochs[-1].loss, abs=0.2)
