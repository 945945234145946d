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


def test_a_frame_s_length_is_one_byte_up_to_255() -> None:
    assert zmtp.frame(b"x" * 255, zmtp.COMMAND) == b"\x04\xff" + b"x" * 255
    assert zmtp.frame(b"x" * 256, zmtp.COMMAND) == b"\x06" + struct.pack(">Q", 256) + b"x" * 256
    assert zmtp.command(b"READY", b"data") == b"\x04\x0a\x05READYdata"
    assert zmtp.ready(b"PUB") == b"\x04\x19\x05READY\x0bSocket-Type\0\0\0\x03PUB"
    assert zmtp.split_command(b"\x05READYdata") == (b"READY", b"data")
    assert zmtp.split_command(b"") == (b"", b"")
    assert zmtp.pong(b"\x00\x05" + bytes(range(20))) == zmtp.command_body(b"PONG", bytes(range(16)))


@pytest.mark.parametrize(
    ("metadata", "found"),
    [
        (b"", b""),
        (zmtp.properties(Socket_Type=b"SUB"), b"SUB"),
        (zmtp.properties(Identity=b"me", Socket_Type=b"SUB", More=b"x"), b"SUB"),
        (zmtp.properties(Socket_Type=b"SUB").replace(b"Socket-Type", b"SOCKET-TYPE"), b"SUB"),
        (zmtp.properties(Identity=b"me"), b""),
        (zmtp.properties(Identity=b"me") + zmtp.properties(Socket_Type=b"SUB")[:-1], b""),  # cut short
        (zmtp.properties(Socket_Type=b"SUB")[:-4], b""),
        (zmtp.properties(Socket_Type=b"")[:-1], b""),
        (zmtp.properties(Identity=b"me")[:-1] + b"\xff", b""),
        (b"\xff", b""),
        (zmtp.properties(Identity=b"") + zmtp.properties(Socket_Type=b"XSUB"), b"XSUB"),
    ],
)
def test_the_kind_of_socket_is_read_where_it_stands_and_whole(metadata: bytes, found: bytes) -> None:
    assert zmtp.socket_type(metadata) == found


def test_what_is_said_first_is_the_greeting_of_the_protocol() -> None:
    signature, version = b"\xff\0\0\0\0\0\0\0\0\x7f", b"\x03\0"
    assert signature + version + b"NULL" + bytes(16) + b"\0" + bytes(31) == zmtp.GREETING
    assert len(zmtp.GREETING) == zmtp.GREETING_BYTES == 64
    zmtp.check_greeting(zmtp.GREETING[:32] + b"\x01" + zmtp.GREETING[33:])  # "as server" says nothing here


@pytest.mark.parametrize("end", range(65))
def test_a_greeting_is_judged_as_soon_as_it_shows(end: int) -> None:
    zmtp.check_greeting(zmtp.GREETING[:end])

    def reason(greeting: bytes) -> str | None:
        try:
            zmtp.check_greeting(greeting[:end])
        except ProtocolError as error:
            return str(error)
        return None

    assert reason(b"\x01" + zmtp.GREETING[1:]) == ("no_zmtp" if end > 0 else None)
    assert reason(zmtp.GREETING[:9] + b"\x7e" + zmtp.GREETING[10:]) == ("no_zmtp" if end > 9 else None)
    assert reason(zmtp.GREETING[:10] + b"\x02" + zmtp.GREETING[11:]) == ("old_zmtp" if end > 10 else None)
    assert reason(zmtp.GREETING[:10] + b"\x04" + zmtp.GREETING[11:]) is None
    assert reason(zmtp.GREETING.replace(b"NULL\0", b"NULLX")) == ("other_security" if end > 63 else None)
    assert reason(zmtp.GREETING[:9] + b"\xff" + zmtp.GREETING[10:]) is None, "one bit of it counts"


def test_frames_and_prefixes_may_be_as_long_as_their_limit() -> None:
    conversation = opened()
    longest = b"x" * (MAX_FRAME_BYTES - 1)
    assert conversation.feed(subscription(longest))[1] == {longest}
    with pytest.raises(ProtocolError, match="^too_big$"):
        conversation.feed(subscription(longest + b"x"))
    conversation = opened()
    assert conversation.feed(zmtp.command(b"SUBSCRIBE", b"x" * (MAX_FRAME_BYTES - 10)))[1] != frozenset()


def test_all_the_prefixes_that_are_allowed_are_kept_and_one_of_them_may_be_said_again() -> None:
    conversation = opened()
    for number in range(MAX_PREFIXES):
        assert conversation.feed(subscription(b"%d" % number))[1] == {b"%d" % number}
    assert conversation.feed(subscription(b"one more"))[1] == frozenset()
    assert conversation.feed(subscription(b"0"))[1] == {b"0"}
    assert len(conversation.prefixes) == MAX_PREFIXES


def test_a_message_of_several_frames_is_told_from_the_next_one() -> None:
    conversation = opened()
    conversation.feed(zmtp.frame(b"\x01a", zmtp.MORE) + zmtp.frame(b"\x01b", zmtp.MORE) + zmtp.frame(b"\x01c"))
    conversation.feed(subscription(b"d"))
    assert conversation.prefixes == {b"a", b"d"}
    assert conversation.feed(b"") == (b"", frozenset())
    assert not Conversation().open


def test_xsub_is_a_subscriber_too_and_nothing_is_said_before_the_handshake() -> None:
    conversation = Conversation()
    assert conversation.feed(zmtp.GREETING) == (READY, frozenset())
    assert not conversation.open
    assert conversation.feed(zmtp.command(b"READY", zmtp.properties(Socket_Type=b"XSUB"))) == (b"", frozenset())
    assert conversation.open
