"""Word lists: what they say of a word, how words are drawn, and that an encoder learns them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from rich.console import Console

import build_engines
from build_engines.data.lexicon import Lexicon
from build_engines.data.ner import labels_of, prepare
from build_engines.data.tokenizer import train_tokenizer
from build_engines.modalities.text.recipe import TextRecipe, TokenizerRecipe
from build_engines.modalities.text.word_lists import NAME_TRAITS, TRAITS, WordLists, english
from build_engines.modalities.text.word_network import WordEncoder
from build_engines.model.lessons import Lessons
from build_engines.model.train import train
from build_engines.recipe import LexiconRecipe, Recipe, load_recipe
from edge_runtime.streams import TextStream
from edge_runtime.tokenizer import SentencePieceTokenizer

SPEC = TextStream(4, 1000, word_pieces=10)
COMMON = ("the", "of", "and", "house", "running", "water")
GIVEN = ("anna", "peter", "maria", "jorge")
CITIES = {"berlin": 3_600_000, "new york": 8_000_000, "oslo": 600_000, "york": 150_000}


def small_lists() -> WordLists:
    return WordLists(
        zipf={word: 7.0 - place / 2 for place, word in enumerate(COMMON)} | {"berlin": 4.2, "rare": 2.0},
        given={name: place for place, name in enumerate(GIVEN)},
        family={"berlin": 5000, "zzz": 50_000},
        cities=CITIES,
        city_words={"berlin": 3_600_000, "new": 8_000_000, "york": 8_000_000, "oslo": 600_000},
        countries=frozenset({"norway"}),
        states=frozenset({"ohio"}),
    )


def held(lists: WordLists, word: str) -> set[str]:
    return {name for name, value in zip(TRAITS, lists.traits([word])[0], strict=True) if value}


def test_traits_are_what_the_lists_say_whatever_the_capitals() -> None:
    lists = small_lists()
    places = {"city", "big city", "word of a city", "word of a big city"}
    assert (
        held(lists, "BERLIN")
        == {f"zipf {z:g}" for z in (2.5, 3, 3.5, 4)} | {"family name", "known family name"} | places
    )
    assert held(lists, "York") == places - {"big city"}
    assert held(lists, "new") == {"word of a city", "word of a big city"}
    assert held(lists, "Anna") == {"given name", "common given name"}
    assert held(lists, "Norway") == {"word of a country"}
    assert held(lists, "xyzzy") == set()


def test_rare_words_and_rare_names_are_not_learned() -> None:
    lists = small_lists()
    words = lists.words()
    assert words == sorted({*COMMON, *GIVEN, "berlin", "new", "york", "oslo", "norway", "ohio"})
    repeats = dict(zip(words, lists.repeats(words).tolist(), strict=True))
    assert repeats["the"] == 100
    assert repeats["anna"] == 3
    assert repeats["ohio"] == 1


def test_the_installed_lists_know_what_everybody_knows() -> None:
    lists = english()
    assert {"zipf 6"} <= held(lists, "the")
    assert {"given name", "common given name", "zipf 4"} <= held(lists, "Jennifer")
    assert {"common family name"} <= held(lists, "Smith")
    assert {"city", "big city"} <= held(lists, "Chicago")
    assert {"word of a state"} <= held(lists, "Ohio")
    assert {"word of a country"} <= held(lists, "Germany")
    assert not held(lists, "qzxvkw")
    assert 20_000 < len(lists.words()) < 200_000


@pytest.fixture(scope="module")
def tokenizer() -> bytes:
    return train_tokenizer(TokenizerRecipe(vocabulary=330, mark_capitals=True), small_lists().words() * 3)


def test_drawn_words_carry_their_own_traits_and_repeat_with_the_seed(tokenizer: bytes) -> None:
    lists = small_lists()
    lexicon = Lexicon(lists, tokenizer, SPEC, 1)
    drawn = lexicon.draw(400, np.random.default_rng(3))
    again = lexicon.draw(400, np.random.default_rng(3))
    assert np.array_equal(drawn.ids, again.ids)
    assert drawn.ids.shape == drawn.mask.shape == (400, 10)
    assert drawn.mask[:, 0].all()
    pieces = SentencePieceTokenizer(tokenizer).encode_words(lexicon.words)
    plain = {tuple(ids): word for word, ids in zip(lexicon.words, pieces, strict=True)}
    found = 0
    for ids, mask, traits in zip(drawn.ids, drawn.mask, drawn.traits, strict=True):
        word = plain.get(tuple(ids[: int(mask.sum())].tolist()))
        if word is not None:
            found += 1
            assert np.array_equal(traits, lists.traits([word])[0])
    assert 100 < found < 400  # the others have capitals, a # or other letters
    # Respelled words are nobody's: what is listed stays as it was for the next draw.
    assert np.array_equal(lexicon.traits, lists.traits(lexicon.words))


def test_an_encoder_learns_the_lists_and_puts_its_answer_into_the_word(tokenizer: bytes) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    lexicon = Lexicon(small_lists(), tokenizer, SPEC, 1)
    recipe = TextRecipe("text", kind="words", width=16, dropout=0.1, lexicon="english")
    encoder = WordEncoder(recipe, SPEC.max_tokens, SentencePieceTokenizer(tokenizer).size, 16).train()
    lessons = Lessons(LexiconRecipe(epochs=150, batch=16, learning_rate=1e-2, dropout=0.0), lexicon, encoder)
    assert lessons.steps == round(150 * len(lexicon.words) / 16)
    rng = np.random.default_rng(0)
    before = float(lessons.loss(256, rng).detach())
    for _ in range(lessons.steps):
        lessons.step(rng)
    assert encoder.dropout.p == 0.1
    encoder.eval()
    assert float(lessons.loss(256, rng).detach()) < 0.3 * before
    rows = SentencePieceTokenizer(tokenizer).encode_words(["anna", "house"])
    ids, mask = torch.zeros(2, 10, dtype=torch.int32), torch.zeros(2, 10)
    for row, pieces in enumerate(rows):
        ids[row, : len(pieces)], mask[row, : len(pieces)] = torch.tensor(pieces, dtype=torch.int32), 1.0
    given = encoder.trait_logits(ids, mask)[:, NAME_TRAITS]
    assert given[0] > 0 > given[1]
    told = encoder._spelled(ids, mask)
    with torch.no_grad():
        encoder.known.weight.zero_()
    assert not torch.allclose(told, encoder._spelled(ids, mask))


def test_without_a_lexicon_the_encoder_has_no_more_weights() -> None:
    names = dict(WordEncoder(TextRecipe("text", kind="words", width=8), 4, 10, 4).named_parameters())
    assert not [name for name in names if name.startswith(("traits", "known"))]


def test_training_learns_the_lists_first_and_repeats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("build_engines.data.ner.english", small_lists)  # the real ones take seconds to cut
    data = tmp_path / "small.conll"
    data.write_text("\n\n".join(["Anna B-person\nwent O\nto O\nOslo B-location"] * 40))
    recipe, digest = load_recipe(Path(build_engines.__file__).parent / "recipes" / "ner_words.toml")
    assert isinstance(recipe, Recipe)
    assert recipe.model.text is not None
    model = replace(recipe.model, text=replace(recipe.model.text, width=16))
    plan = replace(recipe.train, epochs=1, lexicon=replace(recipe.train.lexicon, epochs=300.0))
    recipe = replace(
        recipe, labels=labels_of(data), model=model, train=plan, tokenizer=replace(recipe.tokenizer, vocabulary=330)
    )
    prepared = prepare(recipe, data, tmp_path)
    log = io.StringIO()
    first = train(recipe, digest, prepared, Console(file=log))
    assert prepared.lexicon is not None
    steps = round(300 * len(prepared.lexicon.words) / plan.lexicon.batch)
    assert f"word lists: {steps} steps" in log.getvalue()
    again = train(recipe, digest, prepared, Console(file=io.StringIO()))
    assert [value.tolist() for value in first.model.state_dict().values()] == [
        value.tolist() for value in again.model.state_dict().values()
    ]
    # What was learned is kept: training goes on from it without the lists coming first.
    log = io.StringIO()
    train(recipe, digest, prepared, Console(file=log), first)
    assert "word lists" not in log.getvalue()
