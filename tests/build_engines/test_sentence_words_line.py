"""A file in CoNLL's form through the line with a pretrained encoder of one's own: a small one, made here."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from rich.console import Console
from tokenizers import BertWordPieceTokenizer
from torch import nn

import build_engines
from build_engines.data.datasets import Prepared
from build_engines.data.ner import evaluated, labels_of, prepare, sentences
from build_engines.heads.tagging import report
from build_engines.modalities.text.bert import BertConfig, BertEncoder
from build_engines.modalities.text.sentence_words import SentenceWordEncoder
from build_engines.model.train import train
from build_engines.recipe import Recipe, WordsRecipe, load_recipe
from edge_runtime.bundle import open_bundle
from edge_runtime.errors import ConfigError
from edge_runtime.messages import Utterance
from edge_runtime.pipeline import Pipeline
from edge_runtime.specs import TextStream
from tests.build_engines.calling import call
from tests.build_engines.test_ner_line import FIRST, LAST, PLACES, RECIPE, write_conll

MARKS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
WORDS = (*FIRST, *LAST, *PLACES, "went", "flew", "drove", "to", "today", "again", ".")
LINE = (
    RECIPE.replace('"small-ner"', '"small-words"\nslim = true')
    .replace("word_pieces = 6", "word_pieces = 6\nsentence_pieces = 24")
    .replace('kind = "words"\nwidth = 32', 'kind = "pretrained"\nfile = "{file}"\nnetwork = "bert"\nunfreeze = 2')
    .replace("[tokenizer]\nvocabulary = 300\nkeep_case = true\n", "")
    .replace("epochs = 10", "epochs = 8")
    .replace('stages = ["text"]', 'stages = ["text"]\nmethods = ["minmax"]\nsamples = 16')
)


def write_bert(folder: Path) -> Path:
    """A small BERT with its tokenizer, which folds capitals, as transformers saves it: random weights."""
    from safetensors.torch import save_file

    from build_engines.modalities.text.bert import _their_names

    torch.manual_seed(0)
    letters = list("abcdefghijklmnopqrstuvwxyz.")
    pieces = [*MARKS, *letters, *(f"##{char}" for char in letters), *(word.lower() for word in WORDS[::2])]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    config = BertConfig(32, 2, 4, 64, len(vocabulary), 24)
    encoder = BertEncoder(config)
    for value in encoder.parameters():
        if value.ndim >= 2:
            nn.init.normal_(value, std=0.2)
    names = _their_names(2)
    folder.mkdir()
    save_file({names[name]: value for name, value in encoder.state_dict().items()}, folder / "model.safetensors")
    (folder / "config.json").write_bytes(msgspec.json.encode(config))
    (folder / "tokenizer.json").write_text(BertWordPieceTokenizer(vocabulary, lowercase=True).to_str())
    return folder / "model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("words")
    (folder / "recipe.toml").write_text(LINE.replace("{file}", str(write_bert(folder / "bert"))))
    write_conll(folder / "news.conll", 250)
    return folder


@pytest.fixture(scope="module")
def built(folder: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        places = ("--data", folder / "news.conll", "--out", folder / "out", "--work", folder / "work")
        assert call(patch, "run", folder / "recipe.toml", *places) == 0
    return folder


def _prepared(folder: Path, **changed: object) -> tuple[Recipe, Prepared]:
    recipe, _ = load_recipe(folder / "recipe.toml")
    assert isinstance(recipe, Recipe)
    train_plan = msgspec.structs.replace(recipe.train, epochs=1, **changed)
    recipe = msgspec.structs.replace(recipe, labels=labels_of(folder / "news.conll"), train=train_plan)
    return recipe, prepare(recipe, folder / "news.conll", folder)


def test_the_bundle_holds_the_encoder_s_own_tokenizer_and_tags_as_it_was_judged(built: Path) -> None:
    bundle = open_bundle(built / "out" / "small-words", [built / "out" / "small-words.pem"])
    assert bundle.read("tokenizer.json") == (built / "bert" / "tokenizer.json").read_bytes()
    assert "tokenizer.model" not in bundle.manifest.files
    assert [item.name for item in bundle.manifest.stages[0].inputs] == ["ids", "mask", "words", "starts", "letters"]
    # A slim bundle: the reduced plan's graphs alone, wherever it runs.
    plan = bundle.manifest.precision["default"]
    assert plan["text"] == "int8" and bundle.manifest.precision == {"default": plan}
    assert [list(stage.files) for stage in bundle.manifest.stages] == [["int8"], [plan["fusion"]]]
    graphs = {file for stage in bundle.manifest.stages for file in stage.files.values()}
    assert {name for name in bundle.manifest.files if name.endswith(".onnx")} == graphs
    judged = msgspec.json.decode(bundle.read("report/evaluation.json"))["tagging"]
    assert judged["spans_micro"]["f1"] > 0.95
    val = sentences(built / "news.conll", "val")
    pipeline = Pipeline(bundle)
    said = []
    for number, sentence in enumerate(val, 1):
        pipeline.add(Utterance("text", number, number, " ".join(sentence.words)))
        said.append(pipeline.decide(number, number).verdict.tags)
    pipeline.close()
    assert report([one.tags for one in val], said).micro.f1 == pytest.approx(judged["micro"]["f1"], abs=0.02)


def test_batches_hold_the_very_tensors_of_the_device_and_sentences_of_like_length(folder: Path) -> None:
    _, prepared = _prepared(folder, batch=8, words=WordsRecipe())
    from edge_runtime.preprocess import text_tensors
    from edge_runtime.tokenizer import HuggingFaceTokenizer

    assert prepared.tokenizer is not None
    tokenizer, spec = HuggingFaceTokenizer(prepared.tokenizer), prepared.streams["text"]
    val = sorted(sentences(folder / "news.conll", "val"), key=lambda one: len(one.words))
    fed = prepared.val[0].inputs["text"]
    for row, sentence in enumerate(val):
        made = text_tensors(spec, tokenizer, " ".join(sentence.words))  # type: ignore[arg-type]
        for values, name in zip(fed, ("ids", "mask", "words", "starts", "letters"), strict=True):
            there = values.shape[1]
            assert (made[name][0, :there] == values[row]).all() and not made[name][0, there:].any(), name
    batches = list(prepared.train.epoch(np.random.default_rng(0)))
    assert len(batches) == prepared.train.steps == 25
    seen = sum(int((batch.label >= 0).sum()) for batch in batches)
    assert seen == sum(len(one.words) for one in sentences(folder / "news.conll", "train"))
    masks = [batch.inputs["text"][1] for batch in batches]
    lengths = np.concatenate([mask.sum(1) for mask in masks])
    at_random = np.random.default_rng(0).permutation(lengths).reshape(-1, 8).max(1).sum() * 8
    filled, alike = lengths.sum(), sum(mask.size for mask in masks)
    assert filled < alike < filled + 0.5 * (at_random - filled)


def test_the_same_seed_and_threads_give_the_same_weights_and_what_is_frozen_stays(folder: Path) -> None:
    models = []
    for _ in range(2):
        recipe, prepared = _prepared(folder, threads=2, batch=64)
        models.append(train(recipe, "digest", prepared, Console(quiet=True)).model)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    first, second = (model.state_dict() for model in models)
    assert all(torch.equal(first[name], second[name]) for name in first)
    encoder = models[0].encoders["text"]
    assert isinstance(encoder, SentenceWordEncoder)
    from build_engines.modalities.text.bert import load_bert

    untouched = load_bert(folder / "bert").state_dict()
    learned = encoder.pretrained.state_dict()
    moved = {name.split(".")[0] for name in learned if not torch.equal(learned[name], untouched[name])}
    assert moved == {"layers"}


def test_the_evaluated_sentences_are_in_the_order_of_the_batches(folder: Path) -> None:
    recipe, prepared = _prepared(folder)
    labels = [[recipe.labels[at] for at in row if at >= 0] for batch in prepared.val for row in batch.label]
    assert labels == [list(one.tags) for one in evaluated(recipe, folder / "news.conll")]


def test_the_recipe_conll_reads_the_longest_sentence_of_its_corpus_and_is_slim() -> None:
    recipe, _ = load_recipe(Path(build_engines.__file__).parent / "recipes" / "conll.toml")
    assert isinstance(recipe, Recipe) and recipe.slim and recipe.train.threads == 2
    spec = recipe.streams["text"]
    assert isinstance(spec, TextStream) and spec.max_tokens >= 124


@pytest.mark.parametrize(
    ("wrong", "right", "expected"),
    [
        ("\nsentence_pieces = 24", "", "sentence_pieces is for a tagging head"),
        ("sentence_pieces = 24", "sentence_pieces = 9", "need at least 10"),
    ],
)
def test_what_does_not_belong_together_is_one_line(
    folder: Path, tmp_path: Path, wrong: str, right: str, expected: str
) -> None:
    text = (folder / "recipe.toml").read_text().replace(wrong, right)
    (tmp_path / "recipe.toml").write_text(text)
    with pytest.raises(ConfigError, match=expected):
        load_recipe(tmp_path / "recipe.toml")
