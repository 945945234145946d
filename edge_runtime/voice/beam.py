"""Which sentence of a grammar was said: a beam search over the trie of all that may be (Ney et al. 1992, "Improvements
in beam search for 10000-word continuous speech recognition"), beside what is heard without a grammar."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_runtime.voice.grammar import Grammar, GrammarError, spoken_forms
from edge_runtime.voice.pieces import END, START, Pieces

MAX_NODES = 400_000
REACH = 12.0
"""What is less probable than the best by more than this (natural logarithm) is followed no further."""
FAVOUR = 0.7
"""What each piece counts for: without it a sentence that is a part of another one is heard in its place, in noise above
all. Known as insertion bonus, or penalty, in speech recognition."""
PUNCTUATION = (",", ".", "?", "!")
"""Between words and at the end, whoever hears a sentence may set one; the grammar does not say which."""

LogProbabilities = NDArray[np.float32]
Step = Callable[[Sequence[int], Sequence[int]], LogProbabilities]
"""Rows of the step before, each with the piece that it goes on with, to the log-probabilities [rows, pieces] of what
comes next. The first call is ((0,), (START,))."""


class Node:
    """A place in the trie."""

    __slots__ = ("between", "children", "height", "nodes", "pieces", "sentence")

    def __init__(self) -> None:
        self.children: dict[int, Node] = {}
        self.sentence = -1
        """Number of the sentence that ends here, or -1."""
        self.between = False
        """Whether a word ends here."""
        self.pieces: NDArray[np.int64] = np.empty(0, np.int64)
        self.nodes: tuple[Node, ...] = ()
        self.height = 0
        """Pieces to the farthest end below, each with a mark behind it."""


class Trie:
    """All spoken forms of a grammar's sentences, as pieces. Any thread."""

    def __init__(self, grammar: Grammar, pieces: Pieces) -> None:
        """Raises GrammarError where it is too large, or a sentence has a character that cannot be heard."""
        self.root = Node()
        self.sentences = grammar.sentences
        self.punctuation = [number for mark in PUNCTUATION if (number := pieces.id_of(mark)) is not None]
        nodes = 1
        made = [self.root]
        for number, sentence in enumerate(grammar.sentences):
            for form in spoken_forms(sentence, grammar.spellings):
                try:
                    path = pieces.encode(form)
                except ValueError as error:
                    raise GrammarError(f"grammar: {sentence!r} cannot be heard: {error}") from None
                node = self.root
                for piece in path:
                    if piece not in node.children:
                        node.children[piece] = Node()
                        made.append(node.children[piece])
                        nodes += 1
                    node = node.children[piece]
                if node.sentence < 0:
                    node.sentence = number
            if nodes > MAX_NODES:
                raise GrammarError(f"grammar: {len(grammar.sentences)} sentences are too many; leave some out")
        for node in reversed(made):  # what is below a node was made after it
            node.height = max((2 + child.height for child in node.children.values()), default=1)
            node.pieces = np.fromiter(node.children, np.int64, len(node.children))
            node.nodes = tuple(node.children.values())
            node.between = node.sentence >= 0 or any(pieces.starts_word(piece) for piece in node.children)
        self.starts_word = frozenset(piece for node in made for piece in node.children if pieces.starts_word(piece))


class Found(NamedTuple):
    """What a search has found. Logarithms are natural ones."""

    sentence: int
    """Its number in the grammar."""
    path: tuple[int, ...]
    """Its pieces as they were heard, marks left out."""
    log_probability: float
    """Of the path and its end."""
    margin: float
    """By how much it is more probable than the next sentence, each piece favoured by FAVOUR; infinite where none was
    left to compare with."""
    free: float
    """Log-probability of what is heard without a grammar, by always taking the most probable piece."""

    @property
    def score(self) -> float:
        """By how much a piece is less probable under the grammar than without it, on average; 0 = no less."""
        return max(0.0, self.free - self.log_probability) / (len(self.path) + 1)


class _Row(NamedTuple):
    log_probability: float
    node: Node
    path: tuple[int, ...]
    marked: bool
    """Whether the last piece was punctuation."""

    @property
    def worth(self) -> float:
        return self.log_probability + FAVOUR * len(self.path)


class _End(NamedTuple):
    worth: float
    log_probability: float
    path: tuple[int, ...]


_Finished = dict[int, _End]
"""The best end of each sentence."""


def search(trie: Trie, step: Step, width: int, longest: int) -> Found | None:
    """The most probable sentence, each piece favoured by FAVOUR; None where none ends within `longest` pieces.

    The `width` most probable beginnings are followed. Deterministic for the same `step`.
    """
    alive = [_Row(0.0, trie.root, (), False)]
    finished: _Finished = {}
    free: float = 0.0
    free_piece, free_row = START, 0
    free_ends = False
    rows = step((0,), (START,))
    at = [0]  # of `alive`, its place in `rows`
    for _ in range(longest):
        if not free_ends:
            free_piece = int(rows[free_row].argmax())
            free += float(rows[free_row, free_piece])
            free_ends = free_piece == END
        best = _go_on(trie, alive, at, rows, width, finished)
        if _decided(best, finished):
            best = []
        alive = [row for row, _ in best]
        # What is heard freely only matters as long as it can be more probable than what was found.
        heard = max(finished.values()).log_probability if finished else -math.inf
        wanted = not free_ends and free > heard
        if not alive and not wanted:
            break
        parents = [place for _, place in best]
        last = [row.path[-1] for row in alive]
        at = list(range(len(alive)))
        if wanted:
            parents.append(free_row)
            last.append(free_piece)
            free_row = len(alive)
        rows = step(parents, last)
        if not wanted:
            free_ends = True
    if not finished:
        return None
    ranked = sorted(finished.items(), key=lambda entry: (-entry[1].worth, entry[0]))
    sentence, best_end = ranked[0]
    margin = best_end.worth - ranked[1][1].worth if len(ranked) > 1 else math.inf
    return Found(sentence, best_end.path, best_end.log_probability, margin, free)


def _go_on(
    trie: Trie,
    alive: Sequence[_Row],
    at: Sequence[int],
    rows: LogProbabilities,
    width: int,
    finished: _Finished,
) -> list[tuple[_Row, int]]:
    """The `width` best ways on, each with its row in `rows`; what ends here goes into `finished`."""
    ways: list[tuple[float, int, _Row, int]] = []
    count = 0
    for row, place in zip(alive, at, strict=True):
        node, probabilities = row.node, rows[place]
        if node.sentence >= 0:
            last = float(probabilities[END])
            end = _End(row.worth + last, row.log_probability + last, row.path)
            finished[node.sentence] = max(end, finished.get(node.sentence, end))
        onward = row.log_probability + probabilities[node.pieces]
        for probability, piece, child in _children(trie, row, onward):
            count += 1
            ways.append((probability, -count, _Row(probability, child, (*row.path, piece), False), place))
        if node.between and not row.marked and row.path:
            for piece in trie.punctuation:
                count += 1
                probability = row.log_probability + float(probabilities[piece])
                ways.append((probability, -count, _Row(probability, node, (*row.path, piece), True), place))
    best = heapq.nlargest(width, ways, lambda way: way[:2])
    top = max([end.worth for end in finished.values()] + [row.worth for _, _, row, _ in best[:1]], default=0.0)
    return [(row, place) for _, _, row, place in best if row.worth >= top - REACH]


def _children(trie: Trie, row: _Row, onward: LogProbabilities) -> Iterable[tuple[float, int, Node]]:
    for probability, piece, child in zip(onward.tolist(), row.node.pieces.tolist(), row.node.nodes, strict=True):
        if not row.marked or piece in trie.starts_word:
            yield probability, piece, child


def _decided(alive: Sequence[tuple[_Row, int]], finished: _Finished) -> bool:
    """Whether nothing alive can still become the best sentence or the next one: a path only gets less probable, and
    cannot be favoured for more pieces than are left below it."""
    if len(finished) < 2 or not alive:
        return not alive
    second = sorted((end.worth for end in finished.values()), reverse=True)[1]
    return second >= max(row.worth + FAVOUR * row.node.height for row, _ in alive)
