"""Text appears piece by piece, whole characters only, and ends before a stop string."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lilliput.cli.stream import Reply, StopText, TextStream


def decode_bytes(ids):
    """A byte-level tokenizer: one id a byte."""
    return bytes(ids).decode("utf-8", "replace")


def decode_words(ids):
    """A SentencePiece-like decoder: the first token of a call loses its leading space."""
    return "".join(f" w{i}" for i in ids).removeprefix(" ")


@given(st.text(max_size=300), st.text(max_size=40))
def test_bytes_come_out_as_the_text_they_are(text, prompt):
    stream = TextStream(decode_bytes, list(prompt.encode()))
    pieces = [stream.push(byte) for byte in text.encode()]
    assert "".join(pieces) + stream.flush() == text
    for piece in pieces:
        piece.encode()


@given(st.binary(max_size=300))
def test_bytes_that_are_no_text_come_out_as_decoded_whole(raw):
    stream = TextStream(decode_bytes)
    out = "".join(stream.push(byte) for byte in raw) + stream.flush()
    assert out == raw.decode("utf-8", "replace")


def test_no_half_character_is_ever_shown():
    stream = TextStream(decode_bytes)
    assert [stream.push(byte) for byte in "a☃".encode()] == ["a", "", "", "☃"]


def test_the_work_does_not_grow_with_the_text():
    longest = 0

    def decode(ids):
        nonlocal longest
        longest = max(longest, len(ids))
        return decode_bytes(ids)

    stream = TextStream(decode)
    out = "".join(stream.push(byte) for byte in "naïve ".encode() * 1000) + stream.flush()
    assert out == "naïve " * 1000
    assert longest < 200


def test_a_decoder_that_strips_the_first_space_keeps_the_others():
    ids = list(range(500))
    stream = TextStream(decode_words, [7])
    out = "".join(stream.push(i) for i in ids) + stream.flush()
    assert out == "".join(f" w{i}" for i in ids)


@given(st.text("abX", max_size=60), st.lists(st.text("abX", min_size=1, max_size=4), max_size=3), st.integers(1, 5))
def test_text_ends_before_the_first_stop_string(text, stops, size):
    stop = StopText(stops)
    pieces = [stop.push(text[i : i + size]) for i in range(0, len(text), size)]
    out = "".join(pieces) + stop.flush()
    assert text.startswith(out)
    assert not any(s in out for s in stops)
    if stop.stopped:
        assert any(text[len(out) :].startswith(s) for s in stops)
    else:
        assert out == text


@pytest.mark.parametrize(
    ("tokens", "stops", "text", "count", "ended"),
    [
        (b"hello", (), "hello", 5, "length"),
        (b"he\x00llo", (), "he", 2, "eos"),
        (b"hello", ("ll",), "he", 4, "stop"),
        (b"hel", ("lll",), "hel", 3, "length"),
        ("hé".encode()[:2], (), "h\ufffd", 2, "length"),
    ],
)
def test_a_reply_knows_why_it_ended(tokens, stops, text, count, ended):
    reply = Reply(iter(tokens), decode_bytes, before=[], ends=[0], stops=stops)
    assert "".join(reply) == text
    assert (reply.tokens, reply.ended) == (count, ended)
