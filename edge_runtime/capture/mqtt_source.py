"""Readings and sentences from an MQTT broker: the source of kind `mqtt`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import msgspec

from edge_runtime import config
from edge_runtime.admit import Refusal
from edge_runtime.broker import Link, matches, topic_problem, wildcards
from edge_runtime.capture.intake import Intake
from edge_runtime.capture.json_place import Place, find, parse
from edge_runtime.capture.shares import MIN_RATE_HZ, OVER_RATE, Share
from edge_runtime.capture.source import Source
from edge_runtime.errors import ConfigError
from edge_runtime.specs import SensorStream, TextStream
from edge_runtime.streams import StreamSpec
from edge_runtime.wire import MAX_INPUT_BYTES

NAMED_BY_TOPIC = "+"
"""As a channel: what the wildcard stands for."""


class _Row(NamedTuple):
    """One `[[source.topic]]`, taken apart."""

    topic: str
    stream: str
    channels: Mapping[str, Place | None]
    """Empty for text; None: the payload itself is the reading."""
    text: Place | None
    words: Mapping[str, float]


class MqttSource(Source):
    """Subscribes to the rows' topics, and again after every outage. A message that cannot be used is refused and
    counted under its stream; nothing raises, nothing ends it.

    Retained messages are refused: a broker does not tell how old they are. The others are as old as their arrival,
    which is taken for the last moment at which nothing had come yet.
    """

    ends: ClassVar[bool] = False
    passive: ClassVar[bool] = True

    def __init__(self, intake: Intake, settings: config.MqttSource, streams: Mapping[str, StreamSpec]) -> None:
        """Raises ConfigError for rows that cannot be meant, and secrets that cannot be used."""
        super().__init__(f"mqtt {settings.host}", intake)
        self._rows = [_taken_apart(row, streams) for row in settings.topic]
        self._rate_limit = settings.rate_limit
        self._shares: dict[str, Share] = {}
        self._link = _Link(self, settings)

    @property
    def state(self) -> str:
        plain = super().state
        return "waiting" if plain == "running" and self._link.reason is not None else plain

    @property
    def reason(self) -> str | None:
        return super().reason or (None if self.ended else self._link.reason)

    def _run(self) -> None:
        self._link.run(self.stopping)

    def _close(self) -> None:
        self._link.close()

    @property
    def topics(self) -> list[str]:
        """All filters, once each."""
        return list(dict.fromkeys(row.topic for row in self._rows))

    def take(self, topic: str, payload: bytes, retained: bool, since_ns: int) -> None:
        """Hand one message to the intake, for every row that it is meant for. Link's thread."""
        for row in self._rows:
            if (levels := matches(row.topic, topic)) is not None:
                try:
                    self._take(row, levels, payload, retained, since_ns)
                except Exception as error:  # whatever one message does, the next one is heard
                    self._intake.unrouted(f"error_{type(error).__name__}", str(error))

    def _take(self, row: _Row, levels: tuple[str, ...], payload: bytes, retained: bool, since_ns: int) -> None:
        content: Refusal | str | dict[str, Any]
        if retained:
            content = Refusal("retained", "nobody knows how old it is")
        elif len(payload) > MAX_INPUT_BYTES:
            content = Refusal("too_big", f"{len(payload)} bytes, at most {MAX_INPUT_BYTES}")
        elif self._intake.needs_stamp(row.stream):
            content = Refusal("no_stamp", "this stream's messages must say when they were captured")
        elif not self._within_share(row.stream):
            content = Refusal(OVER_RATE)
        else:
            content = _content(row, levels, payload)
        if isinstance(content, Refusal):
            self._intake.refuse(row.stream, content)
        elif isinstance(content, str):
            self._intake.text(row.stream, content, captured_ns=since_ns)
        else:
            self._intake.sample(row.stream, content, since_ns)

    def _within_share(self, stream: str) -> bool:
        expected_hz = self._intake.expected_hz(stream) if self._rate_limit else None
        if expected_hz is None:
            return True
        rate_hz, now_ns = max(MIN_RATE_HZ, self._rate_limit * expected_hz), self._intake.clock.now_ns()
        share = self._shares.get(stream)
        if share is None or share.rate_hz != rate_hz:
            share = self._shares[stream] = Share(rate_hz, now_ns)
        return share.take(now_ns)


class _Link(Link):
    def __init__(self, source: MqttSource, settings: config.MqttSource) -> None:
        super().__init__(settings, "source")
        self._source = source

    def connected(self) -> None:
        self.subscribe(self._source.topics)

    def heard(self, topic: str, payload: bytes, retained: bool, since_ns: int) -> None:
        self._source.take(topic, payload, retained, since_ns)


def _taken_apart(row: config.MqttTopic, streams: Mapping[str, StreamSpec]) -> _Row:
    """Raises ConfigError that names the topic."""
    where = f"source mqtt: topic {row.topic!r}"
    if (problem := topic_problem(row.topic, wildcards=True)) is not None:
        raise ConfigError(f"{where} {problem}")
    spec = streams.get(row.stream)
    if not isinstance(spec, SensorStream | TextStream):
        fitting = sorted(name for name, one in streams.items() if isinstance(one, SensorStream | TextStream))
        raise ConfigError(f"{where}: the bundle has no stream of sensors or text {row.stream!r}; there are {fitting}")
    try:
        if isinstance(spec, TextStream):
            if row.channel or row.channels or row.field or row.words:
                raise ValueError(f"{row.stream} takes sentences: give at most `text`")
            return _Row(row.topic, row.stream, {}, parse(row.text) if row.text else None, {})
        _check_readings(row, spec)
        channels: dict[str, Place | None] = {name: parse(place) for name, place in row.channels.items()}
        if row.channel:
            channels[row.channel] = parse(row.field) if row.field else None
        return _Row(row.topic, row.stream, channels, None, row.words)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None


def _check_readings(row: config.MqttTopic, spec: SensorStream) -> None:
    """Raises ValueError."""
    if bool(row.channel) == bool(row.channels) or row.text or (row.field and not row.channel):
        raise ValueError(f"{row.stream} takes readings: give `channel` (and perhaps `field`), or `channels`")
    known = [channel.name for channel in spec.channels]
    for name in (row.channel, *row.channels):
        if name and name not in (*known, NAMED_BY_TOPIC):
            raise ValueError(f"{row.stream} has no channel {name!r}; there are {', '.join(known)}")
    expected = ["+"] if row.channel == NAMED_BY_TOPIC else []
    if list(wildcards(row.topic)) != expected or NAMED_BY_TOPIC in row.channels:
        raise ValueError(
            'the readings of several senders would take turns in one channel; name the topic, or have one "+" in it '
            'that is the channel\'s name: channel = "+"'
        )


def _content(row: _Row, levels: tuple[str, ...], payload: bytes) -> Refusal | str | dict[str, Any]:
    """A sentence, or channel to reading; never what is not there."""
    plain = row.text is None if not row.channels else None in row.channels.values()
    value: Any
    try:
        value = payload.decode() if plain else _parsed(payload)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and msgspec.DecodeError are of these
        return Refusal("malformed", str(error))
    if not row.channels:
        try:
            sentence = value if row.text is None else find(value, row.text)
        except LookupError:
            return Refusal("no_field")
        return sentence if isinstance(sentence, str) else Refusal("malformed", "the sentence is no text")
    readings = {}
    for name, place in row.channels.items():
        try:
            reading = value if place is None else find(value, place)
        except LookupError:
            continue
        readings[levels[0] if name == NAMED_BY_TOPIC else name] = _reading(reading, row.words)
    return readings or Refusal("no_field")


def _parsed(payload: bytes) -> Any:
    """JSON, with NaN and Infinity, which some senders write though it has none. Raises ValueError, RecursionError."""
    try:
        return msgspec.json.decode(payload)
    except msgspec.DecodeError:
        if b"NaN" not in payload and b"Infinity" not in payload:
            raise
    return json.loads(payload)


def _reading(value: Any, words: Mapping[str, float]) -> float | str | None:
    """As the intake takes it, which judges it."""
    if isinstance(value, str):
        return words.get(value.strip(), value)
    if value is None or isinstance(value, int | float):
        return value
    return type(value).__name__  # a word: no reading
