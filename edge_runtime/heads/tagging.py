"""A tag for every word of a sentence: slots, names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from edge_runtime.heads.kind import HeadKind
from edge_runtime.heads.labels import label_problems, softmax
from edge_runtime.heads.policy import DecisionPolicy, Inputs, PolicyState, Step
from edge_runtime.messages import Utterance, Verdict, words_of
from edge_runtime.streams import StreamSpec, TextStream


class TaggingHead(HeadKind, frozen=True, tag="tagging"):
    """A tag per word, IOB2. `output` is [1, W, labels] logits, a row per word of the text stream that has
    `word_pieces`; the first label is the outside tag.
    """

    settings: ClassVar[frozenset[str]] = frozenset({"safe_label", "temperature"})
    per_word: ClassVar[bool] = True
    labels: tuple[str, ...]
    output: str
    """`stage:<stage>:<output>`"""

    @property
    def summary(self) -> str:
        return ", ".join(self.labels)

    def shape(self, streams: Mapping[str, StreamSpec]) -> tuple[int, ...] | None:
        tagged = tagged_stream(streams)
        return None if tagged is None else (1, tagged[1].max_tokens, len(self.labels))

    def problems(self, policy: DecisionPolicy, streams: Mapping[str, StreamSpec]) -> Iterator[str]:
        yield from label_problems(self.labels, policy)
        if tagged_stream(streams) is None:
            yield "a tagging head needs exactly one text stream with word_pieces: a tag belongs to a word"

    def decide(
        self, policy: DecisionPolicy, state: PolicyState, output: NDArray[np.float32], inputs: Inputs | None
    ) -> Step:
        """Exactly one tag for each of the sentence's words, of which the model reads the first W: together the most
        probable ones that IOB2 allows.

        What it does not read is outside, and the reason says so. The label is the most frequent tag but the outside
        one; the confidence is the mean over the words read of their tag's probability. Without `inputs` every row is
        a word.
        """
        words = len(output) if inputs is None else _words_in(inputs)
        read = softmax(output, policy.temperature)[:words]
        outside = self.labels[0]
        path = best_path(output[:words], self.labels)
        best = [self.labels[index] for index in path]
        tags = (*best, *[outside] * (words - len(best)))
        named = [tag for tag in tags if tag != outside]
        label = max(sorted(set(named)), key=named.count) if named else outside
        reason = f"only the first {len(best)} of {words} words were read" if len(best) < words else None
        confidence = float(read[np.arange(len(path)), path].mean()) if best else 0.0
        return Verdict(label, confidence, {}, "model", reason, tags), PolicyState()


def tagged_stream(streams: Mapping[str, StreamSpec]) -> tuple[str, TextStream] | None:
    """Name and spec of the one text stream that is read word by word; None where there is not exactly one."""
    candidates = [(name, spec) for name, spec in streams.items() if isinstance(spec, TextStream) and spec.word_pieces]
    return candidates[0] if len(candidates) == 1 else None


def _words_in(inputs: Inputs) -> int:
    """Words in the sentence, be they more than the model reads or fewer; 0 where there is none."""
    tagged = tagged_stream(inputs.streams)
    sentence = None if tagged is None else inputs.aligned.slices[tagged[0]].newest
    return len(words_of(sentence.text)) if isinstance(sentence, Utterance) else 0


def best_path(logits: NDArray[np.float32], labels: tuple[str, ...]) -> NDArray[np.int64]:
    """Numbers of the tags [W] whose logits [W, labels] have the largest sum of all that IOB2 allows: an inside tag
    follows only the beginning or the inside of its kind. (Words are independent given the sentence, so that this is
    the most probable of all allowed taggings; Viterbi 1967.)

    A kind without a beginning tag among `labels` may be inside anywhere. A word's largest logit counts where all those
    of a sentence are allowed.
    """
    greedy: NDArray[np.int64] = logits.argmax(axis=-1) if len(logits) else np.zeros(0, np.int64)
    follows, opens = _allowed(labels)
    if not len(greedy) or (opens[greedy[0]] and follows[greedy[:-1], greedy[1:]].all()):
        return greedy
    never = np.where(follows, 0.0, -np.inf)
    reached = np.where(opens, logits[0].astype(np.float64), -np.inf)
    came_from = np.zeros(logits.shape, np.int64)
    for place in range(1, len(logits)):
        ways = reached[:, None] + never
        came_from[place] = ways.argmax(axis=0)
        reached = ways.max(axis=0) + logits[place]
    path = np.empty(len(logits), np.int64)
    path[-1] = reached.argmax()
    for place in range(len(logits) - 1, 0, -1):
        path[place - 1] = came_from[place, path[place]]
    return path


@lru_cache(maxsize=32)
def _allowed(labels: tuple[str, ...]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """[labels, labels]: whether the second may follow the first; [labels]: whether it may begin a sentence."""
    follows = np.ones((len(labels), len(labels)), bool)
    opens = np.ones(len(labels), bool)
    for number, tag in enumerate(labels):
        beginning = f"B-{tag[2:]}"
        if tag.startswith("I-") and beginning in labels:
            follows[:, number] = [before in (beginning, tag) for before in labels]
            opens[number] = False
    return follows, opens


def iob2(tags: Sequence[str], outside: str = "O") -> tuple[str, ...]:
    """`tags` in IOB2: an inside tag that continues no span of its kind begins one (`I-x` becomes `B-x`).

    This turns IOB1, which writes B- only between touching spans, into IOB2 (Tjong Kim Sang and Veenstra 1999).
    """
    fixed: list[str] = []
    before = outside
    for tag in tags:
        opens = tag.startswith("I-") and before not in (f"B-{tag[2:]}", tag)
        fixed.append(f"B-{tag[2:]}" if opens else tag)
        before = tag
    return tuple(fixed)
