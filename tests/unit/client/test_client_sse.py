"""The decoder of server-sent events, without a server."""

import pytest

from sostenuto._sse import decode

STREAM = (
    b": ping\n\n"
    b'data: {"text": "na\xc3\xafve \xf0\x9f\x8e\xb5"}\n\n'
    b"event: note\r\nid: 1\r\ndata: two\r\ndata: lines\r\n\r\n"
    b"data:no space\r\rdata:  two spaces\n\n"
    b"data\n\n"
    b"data: [DONE]\n\n"
)
EVENTS = ['{"text": "naïve 🎵"}', "two\nlines", "no space", " two spaces", "", "[DONE]"]


@pytest.mark.parametrize("cut", range(len(STREAM) + 1))
def test_events_do_not_depend_on_where_the_bytes_are_split(cut):
    assert list(decode([STREAM[:cut], STREAM[cut:]])) == EVENTS


def test_events_are_the_same_byte_by_byte():
    assert list(decode(bytes([byte]) for byte in STREAM)) == EVENTS


def test_empty_chunks_have_no_effect():
    assert list(decode([b"data: a\r", b"", b"\ndata: b\r\n", b"", b"\r\n"])) == ["a\nb"]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
def test_an_event_is_emitted_with_its_last_byte(end):
    fed = []

    def chunks():
        for chunk in (b"data: a" + end, end, b"data: b"):
            fed.append(chunk)
            yield chunk

    assert next(decode(chunks())) == "a"
    assert fed == [b"data: a" + end, end]


@pytest.mark.parametrize("lone", [b": ping\n\n", b"\n\n", b"event: x\n\n", b"datum: x\n\n", b"data: unfinished\n"])
def test_input_without_data_and_a_blank_line_gives_no_event(lone):
    assert list(decode([lone])) == []


def test_a_byte_order_mark_is_skipped_only_at_the_start():
    mark = b"\xef\xbb\xbf"
    assert list(decode([mark + b"data: a\n\ndata: " + mark + b"b\n\n" + mark + b"data: c\n\n"])) == ["a", "\ufeffb"]


def test_invalid_utf8_becomes_replacement_characters():
    assert list(decode([b"data: a\xffb\n\n"])) == ["a\ufffdb"]
