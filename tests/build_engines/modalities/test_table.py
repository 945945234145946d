"""Every kind of stream has its row in the build, and the row fits the device's."""

from __future__ import annotations

import msgspec
import pytest
import torch

from build_engines.modalities import MODALITIES, encoder_fields, modality_of
from build_engines.model.monolith import MONOLITH_NAMES
from build_engines.recipe import ModelRecipe
from edge_runtime.streams import KINDS
from tests.kinds.test_table import SPECS

ENCODERS = {"vision": ["camera"], "text": "text", "sensors": "sensors", "audio": "mic"}
VOCABULARY, FEATURES = 20, 8


def test_the_build_has_a_row_for_every_kind_and_keys_for_every_row() -> None:
    assert {row.spec for row in MODALITIES.values()} == {row.spec for row in KINDS}
    keys = {field.name for field in msgspec.structs.fields(ModelRecipe)} - {"features", "fusion"}
    assert keys == set(MODALITIES), "a row's keys are a field of ModelRecipe"
    assert list(ENCODERS) == list(MODALITIES), "each row is tried below"


def test_every_tensor_of_the_monolith_has_a_name_of_its_own() -> None:
    assert len(set(MONOLITH_NAMES.values())) == len(MONOLITH_NAMES)


@pytest.mark.parametrize("name", SPECS)
def test_a_row_names_the_fields_that_the_device_gives_and_its_network_reads_them(name: str) -> None:
    spec = SPECS[name]
    row = modality_of(spec)
    stage = next(stage for stage, other in MODALITIES.items() if other is row)
    fields = encoder_fields(spec)
    of_words = (*fields, "words", "starts", "letters")  # what a stream of sentences may give beside
    assert list(row.inputs) in (list(fields), list(of_words))
    for field, form in fields.items():
        assert row.layout(field, form.shape)
    assert row.faults(name, spec, False)

    key = "streams" if row.batched else "stream"
    recipe = msgspec.convert({key: ENCODERS[stage], "aux": {"kind": 3}}, row.recipe)
    assert recipe.streams == (name,) and row.problem(recipe) is None
    torch.manual_seed(0)
    network = row.network(recipe, spec, VOCABULARY, FEATURES).eval()
    features, aux = network(*(torch.zeros(form.shape, dtype=getattr(torch, form.dtype)) for form in fields.values()))
    assert (features.shape, aux["kind"].shape) == ((1, FEATURES), (1, 3))


def test_a_model_of_one_encoder_has_its_keys_and_no_others() -> None:
    encoders = {name: {("streams" if name == "vision" else "stream"): of} for name, of in ENCODERS.items()}
    model = msgspec.convert({"features": 8, "fusion": {"kind": "gated"}, **encoders}, ModelRecipe)
    for name in MODALITIES:
        alone = model.only(name)
        assert alone.encoders == {name: model.encoders[name]}
        read = msgspec.json.decode(msgspec.json.encode(alone), type=ModelRecipe)
        assert read == alone
