"""The layout of tagged sentences: a tag per word, from JSON Lines or from any file in CoNLL's form.

`DATA/<split>/samples.jsonl` holds `id`, `tokens` and `tags`. A CoNLL file has a word a line, its tag in the last column
(parted by tabs or white space), and an empty line between sentences; `-DOCSTART-` lines and comments before a sentence
(`#`) are left out. It lies at
`DATA/<split>.conll` (or `.txt`, or under another usual name), or DATA is such a file itself: then every fifth sentence
is the evaluation split. IOB1 (as CoNLL-2003 was published), IOBES and BILOU become IOB2.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from build_engines.data.datasets import NO_WORD, Batch, Inputs, Ints, Prepared, read_file
from build_engines.data.lexicon import Lexicon
from build_engines.data.ner_augment import SentenceAugmenter, Tagged
from build_engines.data.tokenizer import SamplingEncoder, train_tokenizer
from build_engines.modalities import encoder_fields
from build_engines.modalities.text.shelf import own_tokenizer
from build_engines.modalities.text.word_lists import WordLists, english
from build_engines.recipe import PLAIN_DATASET, DatasetRecipe, Recipe
from build_engines.rows import Row, read_json_lines
from calibration.moments import LabelledSet, RawMessage
from edge_runtime.capture.tables import is_utf8, lines_of
from edge_runtime.errors import UserError
from edge_runtime.heads.tagging import iob2
from edge_runtime.messages import Words
from edge_runtime.preprocess import word_grid, word_row
from edge_runtime.streams import StreamSpec, TextStream, streams_of
from edge_runtime.tokenizer import HuggingFaceTokenizer, SentencePieceTokenizer, Tokenizer

MARKER = "*.conll"
AT_NS = 1_000_000_000
OUTSIDE = "O"
HELD_OUT = 5
"""Of a single file, every sentence of this number is evaluated."""
NAMES = {"train": ("eng.train",), "val": ("valid", "dev", "testa", "eng.testa"), "test": ("testb", "eng.testb")}
"""Split to the other names that its file may have."""
ENDINGS = (".conll", ".txt", ".iob", ".bio", "")
NO_CHARACTERS = "�"
"""Stands for a word of which nothing can be read, so that it keeps its tag."""


def split_file(data: Path, split: str) -> Path:
    """The file that holds `split`. Raises UserError naming where it was looked for."""
    if data.is_file():
        return data
    places = [data / split / "samples.jsonl"]
    places += [data / f"{name}{ending}" for name in (split, *NAMES.get(split, ())) for ending in ENDINGS]
    for path in places:
        if path.is_file():
            return path
    raise UserError(
        f"data {data}: no tagged sentences of the split {split!r} (looked for {split}/samples.jsonl, {split}.conll, "
        f"{split}.txt); check --data and the split's name"
    )


def sentences(data: Path, split: str) -> list[Tagged]:
    """The split's sentences, in order, in IOB2. Raises UserError naming the line that is wrong."""
    path = split_file(data, split)
    if path.suffix == ".jsonl":
        return [_json_sentence(row) for row in read_json_lines(path)]
    tagged = list(_conll(path))
    if path == data:
        validation = split != "train"
        tagged = [sentence for index, sentence in enumerate(tagged) if (index % HELD_OUT == HELD_OUT - 1) == validation]
    if not tagged:
        raise UserError(f"data {path}: holds no sentence for the split {split!r}")
    return tagged


def _json_sentence(row: Row) -> Tagged:
    words, tags = row["tokens"], row["tags"]
    for key, value in (("tokens", words), ("tags", tags)):
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise row.wrong(f"{key} is {value!r:.60}; a list of texts is wanted")
    if len(words) != len(tags) or not words:
        raise row.wrong(f"it has {len(words)} words and {len(tags)} tags; each word needs its own")
    for tag in tags:
        if not _is_tag(tag):
            raise row.wrong(_NO_TAG.format(tag))
    return _tagged(row.text("id") or f"{row.path.stem}:{row.line}", words, tags)


def _conll(path: Path) -> Iterator[Tagged]:
    words: list[str] = []
    tags: list[str] = []
    try:
        lines = list(lines_of(path))
    except OSError as error:
        raise UserError(f"data {path}: cannot be read ({error.strerror}); the data folder is incomplete") from None
    if bad := next((number for number, line in lines if not is_utf8(line)), None):
        raise UserError(f"data {path}: line {bad} is not UTF-8; save the file as UTF-8")
    delimiter = _delimiter([line for _, line in lines])
    start = 1
    for number, line in [*lines, (len(lines) + 1, "")]:
        columns = [column.strip() for column in re.split(delimiter, line.rstrip())] if line.strip() else []
        if not columns or columns[0].startswith("-DOCSTART-"):
            if words:
                yield _tagged(f"{path.stem}:{start}", words, tags)
            words, tags = [], []
        elif not words and columns[0].startswith("#") and not _is_tag(columns[-1]):
            continue  # a comment, as CoNLL-U has them before a sentence
        elif len(columns) < 2 or not columns[0]:
            raise UserError(f"data {path}: line {number} has one column; it needs a word and, last, its tag")
        elif not _is_tag(columns[-1]):
            raise UserError(f"data {path}: line {number}: {_NO_TAG.format(columns[-1])}")
        else:
            start = start if words else number
            words.append(columns[0])
            tags.append(columns[-1])


def _delimiter(lines: Sequence[str]) -> str:
    """A pattern: a tab where every line of a word has as many; words may hold blanks then. Else blanks and tabs."""
    tabs = {line.rstrip().count("\t") for line in lines if line.strip() and not line.startswith(("#", "-DOCSTART-"))}
    return "\t" if len(tabs) == 1 and tabs != {0} else "[ \t]+"


_SAME = {"S-": "B-", "U-": "B-", "E-": "I-", "L-": "I-"}
_NO_TAG = "the tag is {!r}; tags are O, B-<type> and I-<type>"


def _is_tag(tag: str) -> bool:
    return tag == OUTSIDE or (tag[:2] in ("B-", "I-", *_SAME) and len(tag) > 2)


def _tagged(name: str, words: Sequence[str], tags: Sequence[str]) -> Tagged:
    # A single-word span (S-, U-) begins a new one whatever stood before, as B- does.
    plain = [_SAME.get(tag[:2], tag[:2]) + tag[2:] for tag in tags]
    return Tagged(name, tuple(_readable(word) for word in words), iob2(plain, OUTSIDE))


def _readable(word: str) -> str:
    """`word` as one word that the device admits: without white space, control and unassigned characters."""
    readable = "".join(
        char for char in word if not char.isspace() and unicodedata.category(char) not in ("Cc", "Cs", "Cn")
    )
    return readable or NO_CHARACTERS


def labels_of(data: Path) -> tuple[str, ...]:
    """The tags of the training split, outside first: the labels of a recipe that names none."""
    kinds = sorted({tag[2:] for sentence in sentences(data, "train") for tag in sentence.tags if tag != OUTSIDE})
    if not kinds:
        raise UserError(f"data {data}: the training split has no tag but {OUTSIDE}")
    return (OUTSIDE, *(f"{prefix}-{kind}" for kind in kinds for prefix in "BI"))


def main_tag(tags: Sequence[str]) -> str:
    """The most frequent tag but the outside one, as the device's decision names a sentence."""
    named = Counter(sorted(tag for tag in tags if tag != OUTSIDE))
    return named.most_common(1)[0][0] if named else OUTSIDE


def text_stream(streams: Mapping[str, StreamSpec]) -> tuple[str, TextStream]:
    """The stream of words. Raises UserError."""
    for name, spec in streams_of(streams, TextStream).items():
        return name, spec
    raise UserError(f"the ner layout needs a text stream; there are {', '.join(streams)}")


def read(
    data: Path, split: str, streams: Mapping[str, StreamSpec], dataset: DatasetRecipe = PLAIN_DATASET
) -> Iterator[LabelledSet]:
    """Every sentence of `split` as a group of its own. The fields need no saying: `dataset` is not looked at."""
    del dataset
    name, _ = text_stream(streams)
    for sentence in sentences(data, split):
        message = RawMessage(name, AT_NS, Words(" ".join(sentence.words)))
        yield LabelledSet(sentence.id, sentence.id, AT_NS, main_tag(sentence.tags), (message,), tags=sentence.tags)


def prepare(recipe: Recipe, data: Path, work: Path) -> Prepared:
    """Sentences as words' pieces and labels."""
    del work  # small enough to need no cache
    train, val = sentences(data, "train"), evaluated(recipe, data)
    name, spec = text_stream(recipe.streams)
    digest = hashlib.sha256(read_file(split_file(data, "train"))).hexdigest()
    if spec.sentence_pieces:
        assert recipe.model.text is not None  # the recipe's check
        model = own_tokenizer(recipe.model.text)
        spec = msgspec.structs.replace(spec, tokenizer="huggingface")
        rows = Rows(spec, HuggingFaceTokenizer(model))
        source = SentenceSource(recipe, rows, train, [rows.length(sentence.words) for sentence in train])
        batches = _val_batches(recipe, spec, rows, val)
        return Prepared({**recipe.streams, name: spec}, model, source, batches, digest)
    lists = english() if recipe.model.text and recipe.model.text.lexicon else None
    model = train_tokenizer(recipe.tokenizer, _to_cut(train, lists))
    grids = SamplingEncoder(model, spec, recipe.tokenizer.sampling_alpha, recipe.seed).encode_words
    batches = _val_batches(recipe, spec, Grids(spec, SentencePieceTokenizer(model)), val)
    lexicon = Lexicon(lists, model, spec, recipe.seed) if lists is not None else None
    return Prepared(dict(recipe.streams), model, SentenceSource(recipe, grids, train), batches, digest, lexicon)


def evaluated(recipe: Recipe, data: Path) -> list[Tagged]:
    """The evaluation split's sentences in the order of the batches that `prepare` makes of them: where rows are cut to
    the longest of a batch, by length."""
    tagged = sentences(data, recipe.evaluate_split)
    _, spec = text_stream(recipe.streams)
    return sorted(tagged, key=lambda sentence: len(sentence.words)) if spec.sentence_pieces else tagged


def _to_cut(train: Sequence[Tagged], lists: WordLists | None) -> Iterator[str]:
    """The words from which the tokenizer learns its pieces."""
    if lists is not None:
        listed = lists.words()
        for word, times in zip(listed, lists.repeats(listed), strict=True):
            yield from repeat(word, int(times))
    yield from (word for sentence in train for word in sentence.words)


def _labels(recipe: Recipe, tagged: Sequence[Tagged], length: int) -> Ints:
    """[n, length]: each word's label; `NO_WORD` beyond the end and for a tag that the recipe does not know."""
    names = {name: index for index, name in enumerate(recipe.labels)}
    label = np.full((len(tagged), length), NO_WORD, np.int64)
    for row, sentence in enumerate(tagged):
        numbers = [names.get(tag, NO_WORD) for tag in sentence.tags[:length]]
        label[row, : len(numbers)] = numbers
    return label


class WordsEncoder(Protocol):
    """Words of sentences to what the encoder of the recipe reads, a row each."""

    def __call__(self, sentences: Sequence[Sequence[str]]) -> Inputs: ...


class Grids:
    """ids and mask, [n, W, P] each, as the device lays out the words of a sentence."""

    def __init__(self, spec: TextStream, tokenizer: Tokenizer) -> None:
        self._spec, self._tokenizer = spec, tokenizer

    def __call__(self, sentences: Sequence[Sequence[str]]) -> Inputs:
        grids = [word_grid(self._spec, self._tokenizer.encode_words(words)) for words in sentences]
        return np.stack([ids for ids, _ in grids]), np.stack([mask for _, mask in grids])


class Rows:
    """ids, mask and words [n, L], starts [n, W] and letters [n, W, C], as the device lays out words in their sentence;
    L and W are those of the longest."""

    def __init__(self, spec: TextStream, tokenizer: Tokenizer) -> None:
        self._spec, self._tokenizer = spec, Remembering(tokenizer)

    def __call__(self, sentences: Sequence[Sequence[str]]) -> Inputs:
        made = [word_row(self._spec, self._tokenizer, words) for words in sentences]
        inputs = {name: np.stack([row[name] for row in made]) for name in encoder_fields(self._spec)}
        pieces, words = (int(np.count_nonzero(inputs[name], axis=1).max()) for name in ("mask", "starts"))
        cut = {"starts": words, "letters": words}
        return tuple(values[:, : cut.get(name, pieces)] for name, values in inputs.items())

    def length(self, words: Sequence[str]) -> int:
        """Pieces of a sentence, marks left out."""
        return sum(map(len, self._tokenizer.encode_words(words)))


class Remembering:
    """A tokenizer that cuts each word once: texts say the same words over and over."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._pieces: dict[str, list[int]] = {}
        self.size, self.marks = tokenizer.size, tokenizer.marks
        self.encode, self.lay_out = tokenizer.encode, tokenizer.lay_out

    def encode_words(self, words: Sequence[str]) -> list[list[int]]:
        if new := [word for word in dict.fromkeys(words) if word not in self._pieces]:
            self._pieces.update(zip(new, self._tokenizer.encode_words(new), strict=True))
        return [self._pieces[word] for word in words]


def _batch(recipe: Recipe, inputs: Inputs, tagged: Sequence[Tagged], words: int) -> Batch:
    count = len(tagged)
    return Batch(
        inputs={"text": inputs},
        rows={"text": np.arange(count)},
        label=_labels(recipe, tagged, words),
        presence=np.ones((count, 1), np.float32),
    )


def _val_batches(recipe: Recipe, spec: TextStream, encode: WordsEncoder, val: Sequence[Tagged]) -> list[Batch]:
    batches = []
    for start in range(0, len(val), 64):
        part = val[start : start + 64]
        inputs = encode([sentence.words for sentence in part])
        batches.append(_batch(recipe, inputs, part, _width(inputs)))
    return batches


def _width(inputs: Inputs) -> int:
    """How many words `inputs` give: the second axis of a grid's ids or, of rows, of their starts."""
    return int(inputs[0].shape[1] if len(inputs) == 2 else inputs[3].shape[1])


WINDOW = 50
"""Batches from which sentences of like length are put together."""


class SentenceSource:
    """Every sentence once an epoch, changed as the recipe says, its words cut into pieces anew."""

    def __init__(
        self, recipe: Recipe, encode: WordsEncoder, train: Sequence[Tagged], lengths: Sequence[int] = ()
    ) -> None:
        """`lengths` of the sentences, where those of like length are to share batches: rows are as long as the longest
        of their batch."""
        self._recipe = recipe
        self._encode = encode
        self._augment = SentenceAugmenter(recipe.train.words, train)
        self._train = train
        self._lengths = np.array(lengths)
        self._batch = min(recipe.train.batch, len(train))
        self.steps = len(train) // self._batch
        counts = Counter(tag for sentence in train for tag in sentence.tags)
        self.counts = np.array([float(counts[label]) for label in recipe.labels])
        self.side_counts: Mapping[str, NDArray[np.float64]] = {}
        self.aux_counts: Mapping[str, NDArray[np.float64]] = {}

    def epoch(self, rng: np.random.Generator) -> Iterator[Batch]:
        """`steps` batches; as many sentences as are too few for one more are left out, at random."""
        order = rng.permutation(len(self._train))[: self.steps * self._batch].reshape(self.steps, self._batch)
        for chosen in self._alike(order, rng) if len(self._lengths) else order:
            part = [self._augment(self._train[index], rng) for index in chosen]
            inputs = self._encode([sentence.words for sentence in part])
            yield _batch(self._recipe, inputs, part, _width(inputs))

    def _alike(self, order: Ints, rng: np.random.Generator) -> Ints:
        """The sentences of `order` [steps, batch] in batches of like length, in random order."""
        windows = [order[start : start + WINDOW].ravel() for start in range(0, len(order), WINDOW)]
        by_length = [part[np.argsort(self._lengths[part], kind="stable")] for part in windows]
        batches: Ints = np.concatenate(by_length).reshape(order.shape)
        return batches[rng.permutation(len(batches))]
