"""Text: the newest sentence counts until it expires."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import UNSET, Struct, UnsetType

from edge_runtime.admit import Refusal, admit_text
from edge_runtime.choose import newest_only
from edge_runtime.kinds.kind import Admit, Field, Kind, Make, Preprocess, Read
from edge_runtime.kinds.record import Time, none, unset
from edge_runtime.messages import Message, Slice, Speech, Tensors, Utterance, Words
from edge_runtime.preprocess import LETTERS, text_tensors
from edge_runtime.specs import TextStream
from edge_runtime.tokenizer import FILES, load_tokenizer

MARKS = 2
"""Pieces around a sentence, of most models that were trained with some."""


class Sentence(Struct, frozen=True):
    """One sentence."""

    timestamp: Time
    captured_ns: int
    seq: int
    text: str
    truncated: bool
    lang: str | UnsetType = UNSET
    id: str | UnsetType = UNSET
    speech: Speech | UnsetType = UNSET
    """How it was heard; since voice is a source."""


class Text(Kind[TextStream, Utterance, Sentence]):
    """Sentences, spoken or typed."""

    spec = TextStream
    message = Utterance
    content = (Words,)
    record = Sentence
    schema = "edge_runtime.Sentence"
    keep = 16
    each_answered = True

    def files(self, spec: TextStream) -> tuple[str, ...]:
        return (FILES[spec.tokenizer],)

    def problems(self, spec: TextStream) -> Iterator[str]:
        if spec.sentence_pieces and not spec.word_pieces:
            yield "sentence_pieces needs word_pieces: at most how many each word may have"
        elif spec.sentence_pieces and spec.sentence_pieces < spec.max_tokens + MARKS:
            yield (
                f"sentence_pieces is {spec.sentence_pieces}; {spec.max_tokens} words (max_tokens) and {MARKS} marks "
                f"need at least {spec.max_tokens + MARKS}"
            )

    def admission(self, spec: TextStream) -> Admit:
        """Takes `Words`; refuses empty text and control characters; cuts what is too long."""

        def admit(content: Any) -> Make | Refusal:
            words = admit_text(spec, content.text)
            if isinstance(words, Refusal):
                return words
            text, cut = words
            lang: str | None = content.lang
            speech: Speech | None = content.speech
            return lambda stream, seq, captured_ns, id: Utterance(
                stream, seq, captured_ns, text, lang, cut, speech, id=id
            )

        return admit

    def choose(self, name: str, spec: TextStream, messages: Sequence[Message], reference_ns: int, now_ns: int) -> Slice:
        return newest_only(name, spec, messages, reference_ns, now_ns, too_old="expired")

    def fields(self, spec: TextStream) -> dict[str, Field]:
        if spec.sentence_pieces:
            pieces, words = (1, spec.sentence_pieces), (1, spec.max_tokens)
            return {
                "ids": Field("int32", pieces),
                "mask": Field("float32", pieces),
                "types": Field("int32", pieces),
                "words": Field("int32", pieces),
                "starts": Field("int32", words),
                "letters": Field("int32", (*words, LETTERS)),
            }
        shape = (1, spec.max_tokens, spec.word_pieces) if spec.word_pieces else (1, spec.max_tokens)
        return {"ids": Field("int32", shape), "mask": Field("float32", shape), "types": Field("int32", shape)}

    def preprocessor(self, spec: TextStream, read: Read) -> Preprocess:
        tokenizer = load_tokenizer(spec.tokenizer, read(FILES[spec.tokenizer]))

        def tensors(part: Slice) -> Tensors:
            newest = part.newest
            assert isinstance(newest, Utterance)
            return text_tensors(spec, tokenizer, newest.text)

        return tensors

    def to_record(self, message: Utterance, at: Time, jpeg_quality: int | None) -> Sentence:
        return Sentence(
            at,
            message.captured_ns,
            message.seq,
            message.text,
            message.truncated,
            unset(message.lang),
            unset(message.id),
            UNSET if message.speech is None else message.speech,
        )

    def to_message(self, stream: str, record: Sentence) -> Utterance:
        speech = None if record.speech is UNSET else record.speech
        return Utterance(
            stream,
            record.seq,
            record.captured_ns,
            record.text,
            none(record.lang),
            record.truncated,
            speech,
            id=none(record.id),
        )

    def detail(self, spec: TextStream) -> str:
        return f"{spec.max_tokens} tokens, {', '.join(spec.languages)}"
