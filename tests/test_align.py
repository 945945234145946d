from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.align import History, align
from edge_runtime.messages import Frame, Message, Sample, Utterance
from edge_runtime.streams import NS_PER_MS, CameraStream, Channel, SensorStream, StreamSpec, TextStream
from tests.conftest import noise

MS = NS_PER_MS
IMAGE = noise(100, 0)
CAMERA = CameraStream(32, 24, rate_hz=30, max_age_ms=100)
TEXT = TextStream(8, max_age_ms=1000)
SENSORS = SensorStream(
    (Channel("a", "m", -9, 9, required=True), Channel("b", "m", -9, 9)), 20, 200, window=4, step_ms=50
)
STREAMS: dict[str, StreamSpec] = {"camera": CAMERA, "text": TEXT, "sensors": SENSORS}


def frame(seq: int, at_ms: float) -> Frame:
    return Frame("camera", seq, int(at_ms * MS), IMAGE)


def sample(seq: int, at_ms: float, *channels: str) -> Sample:
    return Sample("sensors", seq, int(at_ms * MS), dict.fromkeys(channels or ("a", "b"), 1.0))


def utterance(seq: int, at_ms: float) -> Utterance:
    return Utterance("text", seq, int(at_ms * MS), "go")


def aligned(messages: list[Message], reference_ms: float, now_ms: float, streams: dict[str, StreamSpec] = STREAMS):
    history: dict[str, list[Message]] = {name: [] for name in streams}
    for message in messages:
        history[message.stream].append(message)
    return align(streams, history, int(reference_ms * MS), int(now_ms * MS)).slices


def test_the_newest_frame_at_or_before_the_reference_is_chosen() -> None:
    part = aligned([frame(0, 10), frame(1, 20), frame(2, 30)], 20, 25)["camera"]
    assert (part.present, part.key, part.age_ns) == (True, 1, 5 * MS)


def test_a_stream_never_seen_is_missing() -> None:
    parts = aligned([], 20, 20)
    assert {name: part.reason for name, part in parts.items()} == dict.fromkeys(STREAMS, "missing")
    assert parts["sensors"].missing_channels == ("a",)


def test_an_old_frame_is_stale_and_an_old_sentence_expired() -> None:
    parts = aligned([frame(0, 0), utterance(0, 0)], 1001, 1001)
    assert (parts["camera"].present, parts["camera"].reason) == (False, "stale")
    assert (parts["text"].present, parts["text"].reason) == (False, "expired")
    assert parts["camera"].age_ns == 1001 * MS
    assert aligned([utterance(0, 0)], 1000, 1000)["text"].present


def test_age_counts_at_decision_time_not_at_the_reference() -> None:
    assert not aligned([frame(0, 10)], 10, 111)["camera"].present


def test_a_window_reaches_back_its_steps_and_one_maximum_age() -> None:
    samples = [sample(seq, 50 * seq) for seq in range(20)]
    part = aligned(samples, 900, 900)["sensors"]
    assert [message.captured_ns // MS for message in part.messages] == list(range(550, 901, 50))


def test_a_required_channel_without_a_fresh_value_is_named() -> None:
    part = aligned([sample(0, 0), sample(1, 250, "b")], 250, 250)["sensors"]
    assert part.present
    assert part.missing_channels == ("a",)


def test_with_a_hop_the_window_moves_once_a_hop() -> None:
    spec = SensorStream(SENSORS.channels, 20, 200, window=2, step_ms=100, hop_ms=100)
    samples = [sample(seq, 20 * seq) for seq in range(30)]
    keys = [aligned(samples, now, now, {"sensors": spec})["sensors"].key for now in range(400, 500, 10)]
    assert len(set(keys)) == 1
    assert aligned(samples, 500, 500, {"sensors": spec})["sensors"].key != keys[0]


times = st.lists(st.integers(0, 3000), max_size=60)


@given(times, times, times, st.integers(0, 3000), st.integers(0, 500))
def test_nothing_from_the_future_and_nothing_too_old_is_ever_chosen(
    frames: list[int], samples: list[int], sentences: list[int], reference: int, delay: int
) -> None:
    messages: list[Message] = [frame(seq, at) for seq, at in enumerate(sorted(frames))]
    messages += [sample(seq, at) for seq, at in enumerate(sorted(samples))]
    messages += [utterance(seq, at) for seq, at in enumerate(sorted(sentences))]
    for name, part in aligned(messages, reference, reference + delay).items():
        assert part.present == (part.reason is None)
        assert all(message.captured_ns <= reference * MS for message in part.messages)
        if part.present:
            assert part.newest is not None
            assert part.age_ns == (reference + delay) * MS - part.newest.captured_ns
            assert part.age_ns <= STREAMS[name].max_age_ms * MS
        else:
            assert part.messages == ()


@given(
    st.lists(st.tuples(st.sampled_from(sorted(STREAMS)), st.integers(0, 60)), max_size=120),
    st.integers(1, 7),
)
def test_every_message_is_settled_exactly_once(arrivals: list[tuple[str, int]], every: int) -> None:
    """Whatever comes in whatever order: added = decided + dropped + pending, at every decision."""
    make = {"camera": frame, "text": utterance, "sensors": sample}
    history = History(STREAMS)
    added: Counter[str] = Counter()
    settled: Counter[str] = Counter()
    now = 0
    for count, (stream, step) in enumerate(arrivals):
        now += step
        late = step % 5 * 3
        history.add(make[stream](added[stream], max(0, now - late)))
        added[stream] += 1
        if count % every == 0:
            for name, part in align(STREAMS, history.messages, now * MS, now * MS).slices.items():
                decided, dropped = history.settle(part)
                settled[name] += decided + sum(dropped.values())
        for name in STREAMS:
            assert added[name] == settled[name] + history.pending(name)


def test_history_stays_bounded() -> None:
    history = History(STREAMS)
    for seq in range(5000):
        history.add(sample(seq, seq))
        history.add(frame(seq, seq))
        history.add(utterance(seq, seq))
        for part in align(STREAMS, history.messages, seq * MS, seq * MS).slices.values():
            history.settle(part)
    assert len(history.messages["camera"]) == 1
    assert len(history.messages["text"]) == 1
    assert len(history.messages["sensors"]) < 500


def test_messages_that_come_out_of_order_are_put_in_order() -> None:
    history = History(STREAMS)
    for seq, at in enumerate((0, 40, 20, 60, 10)):
        history.add(sample(seq, at))
    assert [message.captured_ns // MS for message in history.messages["sensors"]] == [0, 10, 20, 40, 60]
