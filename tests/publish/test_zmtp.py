"""The publisher's half of ZMTP: what a subscriber may say, and what it costs."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime import zmtp
from edge_runtime.publish.zmtp import MAX_FRAME_BYTES, MAX_PREFIXES, READY, Conversation, message
from edge_runtime.zmtp import ProtocolError

SUB_READY = zmtp.command(b"READY", zmtp.properties(Socket_Type=b"SUB", Identity=b""))
HELLO = zmtp.GREETING + SUB_READY


def subscription(prefix: bytes, on: bool = True) -> bytes:
    return zmtp.frame(bytes([on]) + prefix)


def opened() -> Conversation:
    conversation = Conversation()
    assert conversation.feed(HELLO) == (READY, frozenset())
    assert conversation.open
    return conversation


@given(st.integers(1, 40))
def test_a_subscriber_is_understood_in_pieces_of_any_size(size: int) -> None:
    said = HELLO + subscription(b"decision.") + subscription(b"status.car") + subscription(b"decision.", on=False)
    conversation, answers, fresh = Conversation(), b"", set()
    for at in range(0, len(said), size):
        answer, new = conversation.feed(said[at : at + size])
        answers += answer
        fresh |= new
    assert answers == READY
    assert conversation.prefixes == {b"status.car"}
    assert b"status.car" in fresh


def test_commands_of_later_versions_and_heartbeats_are_understood() -> None:
    conversation = opened()
    answer, fresh = conversation.feed(zmtp.command(b"SUBSCRIBE", b"a") + zmtp.command(b"PING", b"\x00\x05mark"))
    assert (answer, fresh) == (zmtp.command(b"PONG", b"mark"), {b"a"})
    conversation.feed(zmtp.command(b"CANCEL", b"a") + zmtp.command(b"UNKNOWN", b"x"))
    assert conversation.prefixes == frozenset()


def test_subscribing_again_is_told_and_unsubscribing_at_once_is_not() -> None:
    conversation = opened()
    assert conversation.feed(subscription(b"a"))[1] == {b"a"}
    assert conversation.feed(subscription(b"a"))[1] == {b"a"}
    assert conversation.feed(subscription(b"b") + subscription(b"b", on=False))[1] == frozenset()


def test_subscriptions_beyond_the_limit_are_left_out_and_those_before_stay() -> None:
    conversation = opened()
    conversation.feed(subscription(b""))
    for number in range(10_000):
        conversation.feed(subscription(b"%d" % number))
    assert len(conversation.prefixes) == MAX_PREFIXES
    assert b"" in conversation.prefixes
    conversation.feed(subscription(b"0", on=False) + subscription(b"new"))
    assert b"new" in conversation.prefixes


def test_what_is_sent_upstream_and_later_parts_subscribe_to_nothing() -> None:
    conversation = opened()
    conversation.feed(zmtp.frame(b"hello") + zmtp.frame(b"\x01a", zmtp.MORE) + zmtp.frame(b"\x01b"))
    assert conversation.prefixes == {b"a"}


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"GET / HTTP/1.1\r\n", "no_zmtp"),
        (b"\xff" + bytes(8) + b"\x7e", "no_zmtp"),
        (b"\xff" + bytes(8) + b"\x7f\x01", "old_zmtp"),
        (zmtp.GREETING.replace(b"NULL", b"CURV"), "other_security"),
        (zmtp.GREETING + subscription(b"a"), "no_handshake"),
        (zmtp.GREETING + zmtp.command(b"READY", zmtp.properties(Socket_Type=b"PUSH")), "no_subscriber"),
        (zmtp.GREETING + zmtp.command(b"READY", b"\x0bSocket-Type\xff\xff\xff\xffSUB"), "no_subscriber"),
        (zmtp.GREETING + zmtp.command(b"READY", b"\xff"), "no_subscriber"),
        (zmtp.GREETING + zmtp.command(b"ERROR", b"\x00"), "no_subscriber"),
        (HELLO + zmtp.command(b"ERROR", b"\x00"), "error"),
        (HELLO + b"\x02" + struct.pack(">Q", 64 << 20), "too_big"),
        (HELLO + b"\x02" + b"\xff" * 8, "too_big"),
        (HELLO + b"\xf0\x01\x01", "no_frame"),
    ],
)
def test_what_no_subscriber_says_ends_the_conversation_at_its_header(said: bytes, reason: str) -> None:
    conversation = Conversation()
    with pytest.raises(ProtocolError, match=f"^{reason}$"):
        conversation.feed(said)


@given(st.lists(st.binary(max_size=3000), max_size=6), st.sampled_from([b"", zmtp.GREETING, HELLO]))
def test_no_bytes_do_anything_but_end_the_conversation(chunks: list[bytes], start: bytes) -> None:
    conversation = Conversation()
    try:
        for chunk in (start, *chunks):
            answer, fresh = conversation.feed(chunk)
            assert len(answer) <= 128 + 6 * len(chunk)
            assert fresh <= conversation.prefixes
            assert len(conversation._waiting) <= MAX_FRAME_BYTES + 9 + len(chunk)
    except ProtocolError:
        pass
    assert len(conversation.prefixes) <= MAX_PREFIXES


def test_short_and_long_frames() -> None:
    assert message(b"t", b"p") == b"\x01\x01t\x00\x01p"
    assert message(b"t", b"p" * 256) == b"\x01\x01t\x02" + struct.pack(">Q", 256) + b"p" * 256
