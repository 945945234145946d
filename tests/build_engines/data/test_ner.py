"""The layout of tagged sentences in all its forms, and the real data where that is there."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

import build_engines
from build_engines.data.ner import labels_of, prepare, read, sentences
from build_engines.data.ner_augment import SentenceAugmenter, Tagged, spans
from build_engines.recipe import WordsRecipe, load_recipe
from calibration.moments import replay
from edge_runtime.errors import UserError
from edge_runtime.messages import Utterance, words_of
from edge_runtime.streams import TextStream

ROOT = Path(build_engines.__file__).parents[1]
DATA = Path(os.environ.get("EDGE_RUNTIME_DATA", ROOT.parent / "shared" / "data")) / "text-ner"
needs_data = pytest.mark.skipif(
    not (DATA / "val").is_dir(), reason=f"no text-ner data at {DATA}; set EDGE_RUNTIME_DATA to its parent folder"
)
PUBLISHED = """-DOCSTART- -X- O O

EU NNP I-NP I-ORG
rejects VBZ I-VP O
German JJ I-NP I-MISC

Peter NNP I-NP I-PER
Blackburn NNP I-NP I-PER
Anna NNP I-NP B-PER
"""
STREAMS = {"text": TextStream(8, 1000, word_pieces=4)}


def test_conll_2003_as_published_becomes_iob2(tmp_path: Path) -> None:
    (tmp_path / "eng.train").write_text(PUBLISHED)
    first, second = sentences(tmp_path, "train")
    assert (first.words, first.tags) == (("EU", "rejects", "German"), ("B-ORG", "O", "B-MISC"))
    assert second.tags == ("B-PER", "I-PER", "B-PER")
    assert labels_of(tmp_path) == ("O", "B-MISC", "I-MISC", "B-ORG", "I-ORG", "B-PER", "I-PER")
    moments = list(read(tmp_path, "train", STREAMS))
    assert moments[1].messages[0].content.text == "Peter Blackburn Anna"
    assert (moments[1].label, moments[1].tags) == ("B-PER", second.tags)


@pytest.mark.parametrize(
    ("split", "name"), [("val", "testa.txt"), ("val", "dev.conll"), ("test", "eng.testb"), ("train", "train.bio")]
)
def test_a_split_s_file_may_have_any_of_its_usual_names(tmp_path: Path, split: str, name: str) -> None:
    (tmp_path / name).write_text("Oslo\tU-LOC\nis\tO\nthe\tB-LOC\nbig\tI-LOC\ncity\tL-LOC\n")
    assert [one.tags for one in sentences(tmp_path, split)] == [("B-LOC", "O", "B-LOC", "I-LOC", "I-LOC")]


def test_a_single_file_is_split_by_sentences_and_none_is_in_both(tmp_path: Path) -> None:
    file = tmp_path / "all.conll"
    file.write_text("\n\n".join(f"word{index} O" for index in range(23)))
    train, val = sentences(file, "train"), sentences(file, "val")
    assert [one.words[0] for one in val] == ["word4", "word9", "word14", "word19"]
    assert len(train) == 19
    assert not {one.id for one in train} & {one.id for one in val}


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfNew\tB-LOC\r\nYork\tI-LOC\r\n\r\nit\tO\r\n \t \r\n\r\n",
        b"New B-LOC\nYork\t \tI-LOC\n\t\nit  O\n\n\n\n",
        b"# sent_id = 1\n# text = New York\nNew\tB-LOC\nYork\tI-LOC\n\n#\nit\tO\n",
        b"-DOCSTART- O\n\nNew B-LOC\nYork I-LOC\n-DOCSTART- O\nit O",
        "New B-LOC\nYork I-LOC\n\nit O\n".encode("utf-16"),
        b"New _ B-LOC\rYork _ I-LOC\r\rit _ O\r",
    ],
)
def test_a_conll_file_as_tools_write_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "train.conll").write_bytes(content)
    found = [(one.words, one.tags) for one in sentences(tmp_path, "train")]
    assert found == [(("New", "York"), ("B-LOC", "I-LOC")), (("it",), ("O",))]


def test_signs_that_are_no_line_breaks_and_hashes_that_are_words_stay(tmp_path: Path) -> None:
    (tmp_path / "train.conll").write_text("#news O\na\u2028b B-X\n# O\n\x85c O\n", encoding="utf-8")
    (one,) = sentences(tmp_path, "train")
    assert (one.words, one.tags) == (("#news", "ab", "#", "c"), ("O", "B-X", "O", "O"))


def test_a_word_with_a_blank_is_kept_whole_between_tabs(tmp_path: Path) -> None:
    (tmp_path / "train.conll").write_text("New York\tB-LOC\nis\tO\n")
    (one,) = sentences(tmp_path, "train")
    assert one.words == ("NewYork", "is")


def test_a_json_sentence_without_an_id_has_its_line(tmp_path: Path) -> None:
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "samples.jsonl").write_text('\n{"Tokens": ["a"], "Tags": ["O"]}\n')
    assert [one.id for one in sentences(tmp_path, "val")] == ["samples:2"]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "line 1: it has 2 words and 1 tags"),
        ({"tokens": [], "tags": []}, "it has 0 words"),
        ({"tokens": ["a"], "tags": [3]}, "tags is .*a list of texts"),
        ({"tokens": "a b", "tags": ["O", "O"]}, "tokens is 'a b'"),
        ({"tokens": ["a"], "tags": ["LOC"]}, "the tag is 'LOC'"),
        ({"words": ["a"], "tags": ["O"]}, "no field 'tokens'; it has words, tags"),
    ],
)
def test_a_json_row_that_is_no_sentence_is_one_line(tmp_path: Path, row: dict[str, object], expected: str) -> None:
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "samples.jsonl").write_text(json.dumps(row))
    with pytest.raises(UserError, match=expected):
        sentences(tmp_path, "val")


def test_json_lines_and_words_that_the_device_would_part_or_refuse(tmp_path: Path) -> None:
    (tmp_path / "val").mkdir()
    row = {"id": "a", "tokens": ["New\u00a0York", "\u0007", "ok\u2028"], "tags": ["B-loc", "O", "O"]}
    (tmp_path / "val" / "samples.jsonl").write_text(json.dumps(row))
    (moment,) = read(tmp_path, "val", STREAMS)
    assert words_of(moment.messages[0].content.text) == ["NewYork", "\ufffd", "ok"]
    ((_, aligned),) = replay(STREAMS, [moment])
    assert aligned.slices["text"].present


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("word\n", "line 1 has one column"),
        ("word X-what\n", "line 1: the tag is 'X-what'"),
        ("a O\n# no tag\n", "line 2: the tag is 'tag'"),
        ("a\tO\n\tO\n", "line 2"),
        ("a O\n\udce9 O\n", "line 2 is not UTF-8"),
        ("\n\n", "holds no sentence"),
    ],
)
def test_what_is_no_tagged_text_is_told_in_one_line(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "train.txt").write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(UserError, match=expected):
        sentences(tmp_path, "train")


def test_a_missing_split_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="val/samples.jsonl, val.conll"):
        sentences(tmp_path, "val")


def test_augmented_sentences_keep_their_entities_types_and_their_tags_fit() -> None:
    train = [
        Tagged("a", ("Anna", "Berg", "saw", "Oslo"), ("B-PER", "I-PER", "O", "B-LOC")),
        Tagged("b", ("Omar", "left", "New", "York", "City"), ("B-PER", "O", "B-LOC", "I-LOC", "I-LOC")),
    ]
    augment = SentenceAugmenter(WordsRecipe(swap=0.7, respell=0.5, case=0.3), train)
    rng = np.random.default_rng(1)
    lengths, spelled = set(), set()
    for _ in range(200):
        made = augment(train[0], rng)
        assert len(made.words) == len(made.tags)
        assert [kind for _, _, kind in spans(made.tags)] == ["PER", "LOC"]
        assert all(word and not word.isspace() for word in made.words)
        lengths.add(len(made.words))
        spelled.add(made.words)
    assert lengths == {3, 4, 5, 6} and len(spelled) > 50
    assert SentenceAugmenter(WordsRecipe(), train)(train[1], rng) == train[1]


@needs_data
def test_training_sees_the_very_tensors_of_the_device() -> None:
    recipe, _ = load_recipe(ROOT / "build_engines" / "recipes" / "ner_words.toml")
    recipe = type(recipe)(
        **{name: getattr(recipe, name) for name in recipe.__struct_fields__} | {"labels": ("O", "B-x")}
    )
    prepared = prepare(recipe, DATA, DATA)  # type: ignore[arg-type]
    from edge_runtime.preprocess import text_tensors
    from edge_runtime.tokenizer import SentencePieceTokenizer

    assert prepared.tokenizer is not None
    tokenizer = SentencePieceTokenizer(prepared.tokenizer)
    replayed = replay(recipe.streams, read(DATA, "val", recipe.streams))
    batch = prepared.val[0]
    for row, (moment, aligned) in zip(range(64), replayed, strict=False):
        part = aligned.slices["text"]
        assert isinstance(part.newest, Utterance)
        assert len(words_of(part.newest.text)) == len(moment.tags)
        made = text_tensors(recipe.streams["text"], tokenizer, part.newest.text)
        ids, mask = batch.inputs["text"]
        assert (made["ids"][0] == ids[row]).all() and (made["mask"][0] == mask[row]).all()


@needs_data
def test_every_real_sentence_is_admitted_with_all_its_words() -> None:
    recipe, _ = load_recipe(ROOT / "build_engines" / "recipes" / "ner_words.toml")
    for split in ("train", "val"):
        for moment, aligned in replay(recipe.streams, read(DATA, split, recipe.streams)):
            newest = aligned.slices["text"].newest
            assert isinstance(newest, Utterance) and len(words_of(newest.text)) == len(moment.tags), moment.id
