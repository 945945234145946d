"""The search against trying every sentence, with a language model that is drawn by chance."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.voice import beam
from edge_runtime.voice.beam import FAVOUR, PUNCTUATION, Found, Trie, search
from edge_runtime.voice.grammar import Grammar, GrammarError, spoken_forms
from edge_runtime.voice.pieces import END, START, Pieces
from tests.voice.test_pieces import written

LETTERS = ["▁", *"abcdeABCDE", ",", ".", "?", "!"]
PIECES = Pieces(written(["<unk>", "<s>", "</s>", "▁a", "▁b", "ab", "▁ab", "▁A", "▁B", *LETTERS]))
SENTENCES = ("a", "ab", "ab a", "b", "b a", "ba ab", "a b a", "c")


@pytest.fixture(autouse=True, scope="module")
def far() -> Iterator[None]:
    """What is followed is bounded by the width alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(beam, "REACH", 1e9)
        yield


class Chance:
    """What follows depends on all that was before, by a table that is drawn when it is asked for."""

    def __init__(self, seed: int, sharpness: float) -> None:
        self._seed, self._sharpness = seed, sharpness
        self._rows: list[tuple[int, ...]] = [()]
        self.asked = 0

    def of(self, before: tuple[int, ...]) -> np.ndarray:
        rng = np.random.default_rng([self._seed, len(before), *before])
        logits = rng.normal(size=len(PIECES)) * self._sharpness
        return (logits - np.log(np.exp(logits).sum())).astype(np.float32)

    def __call__(self, parents: Sequence[int], pieces: Sequence[int]) -> np.ndarray:
        self._rows = [(*self._rows[parent], piece) for parent, piece in zip(parents, pieces, strict=True)]
        self.asked += len(parents)
        return np.stack([self.of(row) for row in self._rows])


def probability(model: Chance, path: Sequence[int]) -> float:
    before: tuple[int, ...] = (START,)
    total = 0.0
    for piece in (*path, END):
        total += float(model.of(before)[piece])
        before = (*before, piece)
    return total


def punctuated(words: Sequence[Sequence[int]]) -> list[list[int]]:
    """Every way to put at most one mark behind each word."""
    marks = [[number] for mark in PUNCTUATION if (number := PIECES.id_of(mark)) is not None]
    paths: list[list[int]] = [[]]
    for word in words:
        paths = [[*path, *word, *mark] for path in paths for mark in ([], *marks)]
    return paths


def best_of_all(model: Chance, grammar: Grammar) -> dict[int, float]:
    found: dict[int, float] = {}
    for number, sentence in enumerate(grammar.sentences):
        for form in spoken_forms(sentence, grammar.spellings):
            for path in punctuated([PIECES.encode(word) for word in form.split()]):
                found[number] = max(found.get(number, -math.inf), probability(model, path) + FAVOUR * len(path))
    return found


@settings(max_examples=12)
@given(seed=st.integers(0, 10_000), sharpness=st.sampled_from([0.5, 2.0, 5.0]))
def test_a_wide_search_finds_what_trying_everything_finds(seed: int, sharpness: float) -> None:
    grammar = Grammar(SENTENCES)
    model = Chance(seed, sharpness)
    found = search(Trie(grammar, PIECES), model, 500, 30)
    everything = best_of_all(Chance(seed, sharpness), grammar)
    first, second = sorted(everything.values(), reverse=True)[:2]
    assert found is not None
    assert found.log_probability + FAVOUR * len(found.path) == pytest.approx(first, abs=1e-3)
    assert everything[found.sentence] == pytest.approx(first, abs=1e-3)
    assert found.margin == pytest.approx(first - second, abs=1e-3)
    assert probability(model, found.path) == pytest.approx(found.log_probability, abs=1e-3)


@settings(max_examples=12)
@given(seed=st.integers(0, 10_000))
def test_a_narrow_search_asks_for_less_and_tells_true_probabilities(seed: int) -> None:
    grammar, narrow, wide = Grammar(SENTENCES), Chance(seed, 3.0), Chance(seed, 3.0)
    found, best = search(Trie(grammar, PIECES), narrow, 2, 30), search(Trie(grammar, PIECES), wide, 500, 30)
    assert found is not None and best is not None
    assert narrow.asked < wide.asked
    worth, most = (one.log_probability + FAVOUR * len(one.path) for one in (found, best))
    assert worth <= most + 1e-3
    assert probability(narrow, found.path) == pytest.approx(found.log_probability, abs=1e-3)


def test_what_is_heard_freely_is_the_most_probable_piece_each_time_and_the_score_is_how_much_is_lost() -> None:
    grammar = Grammar(("ab a", "b"))
    said = [*PIECES.encode("ab"), PIECES.id_of(","), *PIECES.encode("a"), PIECES.id_of(".")]

    def step(parents: Sequence[int], pieces: Sequence[int]) -> np.ndarray:
        nonlocal rows
        rows = [(*rows[parent], piece) for parent, piece in zip(parents, pieces, strict=True)]
        out = np.full((len(rows), len(PIECES)), math.log(1e-6), np.float32)
        for number, row in enumerate(rows):
            place = len(row) - 1
            right = list(row[1:]) == said[:place]
            out[number, (*said, END)[min(place, len(said))] if right else END] = math.log(0.9)
        return out

    rows: list[tuple[int, ...]] = [()]
    found = search(Trie(grammar, PIECES), step, 4, 30)
    assert found is not None and found.sentence == 0 and list(found.path) == said
    assert found.log_probability == pytest.approx(5 * math.log(0.9), abs=1e-3)
    assert found.score == pytest.approx(0.0, abs=1e-6)
    rows = [()]
    foreign = search(Trie(Grammar(("b", "c")), PIECES), step, 4, 30)
    assert foreign is not None and foreign.score > 3


def test_a_mark_is_set_at_most_once_and_only_between_words() -> None:
    comma = PIECES.id_of(",")
    assert comma is not None

    def step(parents: Sequence[int], pieces: Sequence[int]) -> np.ndarray:
        out = np.full((len(parents), len(PIECES)), math.log(0.01), np.float32)
        out[:, comma] = math.log(0.5)
        return out

    found = search(Trie(Grammar(("ab a",)), PIECES), step, 50, 30)
    assert found is not None
    assert list(found.path).count(comma) <= 2 and found.path[0] != comma
    assert PIECES.decode(found.path).replace(",", "").replace("  ", " ").lower() == "ab a"


def test_no_sentence_is_as_short() -> None:
    assert search(Trie(Grammar(("a b a b a",)), PIECES), Chance(1, 1.0), 4, 3) is None


def test_one_sentence_alone_has_no_margin() -> None:
    found = search(Trie(Grammar(("a",)), PIECES), Chance(1, 1.0), 4, 9)
    assert isinstance(found, Found) and found.margin == math.inf


def test_what_cannot_be_heard_is_named() -> None:
    with pytest.raises(
        GrammarError, match="'zoo' cannot be heard: no piece for 'z'|'zoo' cannot be heard: no piece for 'Z'"
    ):
        Trie(Grammar(("a", "zoo")), PIECES)
