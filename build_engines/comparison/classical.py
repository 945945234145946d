"""What classical methods make of the same moments: a classifier per modality, and late fusion of their probabilities.

Pictures: gradients and small colours to extra trees; sentences: character n-grams to logistic regression;
anything else, with its mask, to a random forest.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from build_engines.comparison.split import Split

FOLDS = 3
TREES = 150
SIDE, CELL, DIRECTIONS = 32, 4, 9
Floats = NDArray[np.float64]


def pictures(split: Split) -> NDArray[np.float32]:
    """[N, features] of all cameras: histograms of gradients of SIDE x SIDE grey, and 8 x 8 colours."""
    rows = []
    for cameras in split.inputs["vision"][0]:
        parts = []
        for image in cameras:
            grey = cv2.cvtColor(cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2GRAY)
            colours = cv2.resize(image, (8, 8), interpolation=cv2.INTER_AREA).ravel() / 255.0
            parts += [gradients(grey), colours]
        rows.append(np.concatenate(parts))
    return np.stack(rows).astype(np.float32)


def gradients(grey: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Histograms of gradient directions by cells, each cell scaled to length 1 (after Dalal and Triggs 2005)."""
    x, y = (cv2.Sobel(grey, cv2.CV_32F, dx, dy, ksize=1) for dx, dy in ((1, 0), (0, 1)))
    size = np.hypot(x, y)
    direction = np.minimum((np.arctan2(y, x) % np.pi / np.pi * DIRECTIONS).astype(int), DIRECTIONS - 1)
    places = np.arange(SIDE) // CELL
    cell = places[:, None] * (SIDE // CELL) + places[None, :]
    counts = np.bincount((cell * DIRECTIONS + direction).ravel(), size.ravel(), (SIDE // CELL) ** 2 * DIRECTIONS)
    cells = counts.reshape(-1, DIRECTIONS)
    scaled: NDArray[np.float64] = cells / (np.linalg.norm(cells, axis=1, keepdims=True) + 10.0)
    return scaled.ravel()


def readings(encoder: str, split: Split) -> NDArray[np.float32]:
    """[N, features]: the encoder's window and its mask, flat."""
    return np.concatenate([part.reshape(len(part), -1) for part in split.inputs[encoder]], axis=1).astype(np.float32)


def sentences(split: Split) -> list[str]:
    """The sentences as they were said."""
    return list(split.texts)


def _tree_model(seed: int, kind: str) -> Any:
    from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier

    method = ExtraTreesClassifier if kind == "extra" else RandomForestClassifier
    return method(TREES, min_samples_leaf=2, class_weight="balanced_subsample", random_state=seed, n_jobs=1)


def _text_model(seed: int) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    grams = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), sublinear_tf=True, max_features=20_000)
    return make_pipeline(grams, LogisticRegression(C=10.0, max_iter=1000, class_weight="balanced", random_state=seed))


def classical(
    train: Split, val: Split, seed: int, advance: Callable[[str], None] = lambda name: None
) -> dict[str, list[str]]:
    """Name of the method to its answers on `val`: each modality alone, and their probabilities averaged and stacked.

    Stacking: logistic regression over the out-of-fold log-probabilities of the training split (Wolpert 1992).
    """
    methods = {"vision": (pictures, _tree_model(seed, "extra")), "text": (sentences, _text_model(seed))}
    sources: dict[str, tuple[Callable[[Split], Any], Any]] = {
        name: methods[name] if name in methods else (partial(readings, name), _tree_model(seed, "forest"))
        for name in train.inputs
    }
    truth = np.array(train.labels)
    classes = np.unique(truth)
    if len(classes) < 2:
        return {"classical": [str(classes[0])] * len(val.labels)}
    inside, outside = [], []
    answers: dict[str, list[str]] = {}
    for name, (features, model) in sources.items():
        advance(f"classical {name}")
        rows, judged = features(train), features(val)
        if len(sources) > 1:
            inside.append(_out_of_fold(model, rows, truth, classes, train.folds(), seed))
        model.fit(rows, truth)
        outside.append(model.predict_proba(judged))
        answers[f"classical {name}"] = [str(classes[i]) for i in outside[-1].argmax(1)]
    if len(sources) > 1:
        answers["classical, averaged"] = [str(classes[i]) for i in np.mean(outside, axis=0).argmax(1)]
        answers["classical, stacked"] = _stacked(inside, outside, truth, seed)
    return answers


def _out_of_fold(model: Any, rows: Any, truth: Any, classes: Any, folds: Any, seed: int) -> Floats:
    """[N, labels] probabilities of each training moment by a model that has not seen its fold."""
    from sklearn.base import clone
    from sklearn.model_selection import GroupKFold

    probabilities = np.zeros((len(truth), len(classes)))
    places = {name: index for index, name in enumerate(classes)}
    for fit, judged in GroupKFold(min(FOLDS, len(set(folds)))).split(truth, truth, folds):
        part = clone(model).fit(_rows(rows, fit), truth[fit])
        columns = [places[name] for name in part.classes_]
        probabilities[np.ix_(judged, columns)] = part.predict_proba(_rows(rows, judged))
    return probabilities


def _rows(rows: Any, places: Any) -> Any:
    return rows[places] if isinstance(rows, np.ndarray) else [rows[place] for place in places]


def _stacked(inside: list[Floats], outside: list[Floats], truth: Any, seed: int) -> list[str]:
    from sklearn.linear_model import LogisticRegression

    def joined(parts: list[Floats]) -> Floats:
        return np.concatenate([np.log(np.clip(part, 1e-4, 1.0)) for part in parts], axis=1)

    model = LogisticRegression(max_iter=5000, class_weight="balanced", random_state=seed)
    model.fit(joined(inside), truth)
    return [str(name) for name in model.predict(joined(outside))]
