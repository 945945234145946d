"""A classical tagger to compare with: logistic regression over hand-made features of a word and its neighbours.

Features as in the usual maximum-entropy taggers (Ratnaparkhi 1996; Nadeau and Sekine 2007): the word, its shape, its
beginnings and endings, and the same of two words to either side.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from edge_runtime.heads.tagging import iob2

NEIGHBOURS = (-2, -1, 1, 2)


def shape(word: str) -> str:
    """Letters as `X` and `x`, digits as `d`, runs cut to two: `McDonald's` is `XxXxx'x`."""
    classes = re.sub(r"\d", "0", re.sub(r"[^\W\d_]", lambda letter: "X" if letter[0].isupper() else "x", word))
    return re.sub(r"(.)\1{2,}", r"\1\1", classes)


def features(words: Sequence[str], place: int) -> Iterator[str]:
    """Names of what is true of the word at `place`."""
    word = words[place]
    low = word.lower()
    yield f"word {low}"
    yield f"shape {shape(word)}"
    for length in (1, 2, 3, 4):
        yield f"begins {low[:length]}"
        yield f"ends {low[-length:]}"
    if place == 0:
        yield "first"
    for step in NEIGHBOURS:
        inside = 0 <= place + step < len(words)
        other = words[place + step] if inside else ""
        yield f"{step} word {other.lower()}"
        if abs(step) == 1:
            yield f"{step} shape {shape(other)}"
            yield f"{step} ends {other.lower()[-3:]}"
    yield f"pair {words[place - 1].lower() if place else ''} {shape(word)}"


Sentences = Sequence[tuple[Sequence[str], Sequence[str]]]
"""Words and their tags, sentence by sentence."""


def classical_tags(
    train: Sentences, evaluate: Sentences, outside: str = "O", strength: float = 4.0
) -> list[tuple[str, ...]]:
    """The tags that a logistic regression fitted to `train` gives `evaluate`; `strength` is scikit-learn's C.

    Takes about a minute for 60 000 words on one core.
    """
    from sklearn.feature_extraction import FeatureHasher
    from sklearn.linear_model import LogisticRegression

    hasher = FeatureHasher(n_features=1 << 18, input_type="string", alternate_sign=False)

    def matrix(sentences: Sentences) -> object:
        return hasher.transform(list(features(words, i)) for words, _ in sentences for i in range(len(words)))

    model = LogisticRegression(C=strength, max_iter=60, tol=1e-3)
    model.fit(matrix(train), [tag for _, tags in train for tag in tags])
    predicted = list(model.predict(matrix(evaluate)))
    answers: list[tuple[str, ...]] = []
    for words, _ in evaluate:
        answers.append(iob2(predicted[: len(words)], outside))
        predicted = predicted[len(words) :]
    return answers
