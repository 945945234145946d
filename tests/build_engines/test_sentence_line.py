"""Sentences through networks that others trained, from a recipe to the exported bundle: small ones, made here."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest

from build_engines.model.export import Equality
from build_engines.recipe import load_recipe
from edge_runtime.bundle import Bundle, open_bundle
from edge_runtime.errors import UserError
from edge_runtime.pipeline import Pipeline
from edge_runtime.tokenizer import load_tokenizer
from tests.build_engines.calling import call
from tests.build_engines.modalities.test_use import small_weights
from tests.build_engines.samples_folder import RECIPE, write_samples
from tests.build_engines.test_sentence_words_line import write_bert
from tests.tiny import tokenizer_model

TEXT = (
    'stream = "text"\nkind = "pretrained"\nfile = "{file}"\nnetwork = "{network}"\nunfreeze = {unfreeze}\n'
    "dropout = 0.0\n"
)
NETWORKS = {"bert": 0, "bert-unfrozen": 1, "use": 0}
"""Network to how many of its layers learn on."""


def write_use(folder: Path) -> Path:
    """A small universal sentence encoder with a tokenizer whose pieces are all in its table."""
    folder.mkdir()
    model = tokenizer_model()
    (folder / "sp.model").write_bytes(model)
    weights = small_weights()
    rows = -(-load_tokenizer("sentencepiece", model).size // 3)
    rng = np.random.default_rng(1)
    weights |= {f"q{chunk}": rng.integers(0, 256, (rows, 32)).astype(np.uint8) for chunk in (1, 2, 3)}
    np.savez(folder / "weights.npz", **weights)
    (folder / "LICENSE").write_text("Read it aloud.")
    return folder / "weights.npz"


def recipe_of(file: Path, network: str, unfreeze: int) -> str:
    keys = TEXT.format(file=file, network=network.partition("-")[0], unfreeze=unfreeze)
    text = re.sub(r'stream = "text"\nwidth = 8\ndropout = 0.0\ntoken_dropout = 0.0\n', keys, RECIPE)
    assert text != RECIPE
    text = text.replace("[tokenizer]\nvocabulary = 300\n", "")
    return re.sub(r"epochs = \d+", "epochs = 2", text)


@pytest.fixture(scope="module", params=NETWORKS)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    network = request.param
    folder = tmp_path_factory.mktemp(network)
    file = write_use(folder / "net") if network == "use" else write_bert(folder / "net")
    (folder / "ward.toml").write_text(recipe_of(file, network, NETWORKS[network]))
    for split, count, seed in (("train", 48, 1), ("val", 24, 2)):
        write_samples(folder / "data", split, count, seed)
    arguments = ("--data", folder / "data", "--out", folder / "out", "--work", folder / "work", "--to", "export")
    with pytest.MonkeyPatch.context() as patch:
        assert call(patch, "run", folder / "ward.toml", *arguments) == 0
    return folder, network


def bundle_of(folder: Path) -> Bundle:
    return open_bundle(folder / "work" / "ward" / "train" / "model", allow_unsigned=True)


def test_the_frozen_part_is_proven_kept_and_credited(built: tuple[Path, str]) -> None:
    folder, network = built
    bundle = bundle_of(folder)
    equality = msgspec.json.decode(bundle.read("report/equality.json"), type=Equality)
    assert 0.9999 <= equality.pretrained["text"] <= 1.00001
    (rows,) = (folder / "work" / "ward" / "cache").glob("text-*.rows")
    assert rows.stat().st_size > 0
    assert "licence not stated" in bundle.read("licences/text.txt").decode()
    assert len(bundle.manifest.training["text_pretrained_sha256"]) == 64
    if network == "use":
        assert "Read it aloud." in bundle.read("licences/text.txt").decode()


def test_the_device_reads_with_the_network_s_own_tokenizer(built: tuple[Path, str]) -> None:
    folder, network = built
    bundle = bundle_of(folder)
    kind, name = ("sentencepiece", "sp.model") if network == "use" else ("huggingface", "tokenizer.json")
    spec = bundle.manifest.streams["text"]
    assert spec.tokenizer == kind  # type: ignore[union-attr]
    file = "tokenizer.model" if kind == "sentencepiece" else "tokenizer.json"
    assert bundle.read(file) == (folder / "net" / name).read_bytes()
    with closing(Pipeline(bundle)) as pipeline:
        answers = [pipeline.predict({"text": said}).verdict.probabilities["ill"] for said in ("stop", "go on then")]
    assert all(0 < answer < 1 for answer in answers) and answers[0] != answers[1]


def test_what_does_not_fit_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_samples(tmp_path / "data", "train", 24, 1)
    write_samples(tmp_path / "data", "val", 24, 2)
    bert, use = write_bert(tmp_path / "bert"), write_use(tmp_path / "use")
    arguments = ("--data", tmp_path / "data", "--work", tmp_path / "work", "--to", "train")
    for text, why in (
        (recipe_of(bert, "bert", 3), "model.text.unfreeze is 3; the network has 2 layers"),
        (recipe_of(use, "use", 1), "this network's table is in INT8 and cannot learn"),
        (
            recipe_of(bert, "bert", 0).replace("tokens = 8", "tokens = 25"),
            "max_tokens is 25; the network reads 24",
        ),
    ):
        (tmp_path / "ward.toml").write_text(text)
        assert call(monkeypatch, "run", tmp_path / "ward.toml", *arguments) == 2
        assert why in capsys.readouterr().err


def test_a_recipe_of_another_network_is_refused(tmp_path: Path) -> None:
    write_bert(tmp_path / "net")
    (tmp_path / "ward.toml").write_text(recipe_of(tmp_path / "net" / "model.safetensors", "gpt", 0))
    recipe, _ = load_recipe(tmp_path / "ward.toml")
    from build_engines.modalities.text.shelf import own_tokenizer

    with pytest.raises(UserError, match="network is 'gpt'; weights can be read of bert, use"):
        own_tokenizer(recipe.model.text)  # type: ignore[union-attr]
