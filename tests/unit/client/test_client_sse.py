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


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
def test_an_event_is_emitted_with_its_last_byte(end):
    fed = []

    def chunks():
        for chunk in (b"data: a" + end, end, b"data: b"):
            fed.append(chunk)
            yield chunk

    assert next(decode(chunks())) == "a"
    assert fed == [b"data: a" + end, end]


MARK = b"\xef\xbb\xbf"


@pytest.mark.parametrize(
    ("chunks", "events"),
    [
        *(([lone], []) for lone in (b": ping\n\n", b"\n\n", b"event: x\n\n", b"datum: x\n\n", b"data: unfinished\n")),
        ([bytes([byte]) for byte in STREAM], EVENTS),
        *(([STREAM[:cut], STREAM[cut:]], EVENTS) for cut in range(len(STREAM) + 1)),
        ([b"data: a\r", b"", b"\ndata: b\r\n", b"", b"\r\n"], ["a\nb"]),
        ([MARK + b"data: a\n\ndata: " + MARK + b"b\n\n" + MARK + b"data: c\n\n"], ["a", "\ufeffb"]),
        ([b"data: a\xffb\n\n"], ["a\ufffdb"]),
    ],
)
def test_data_before_a_blank_line_is_an_event_wherever_the_bytes_are_split(chunks, events):
    """A byte order mark is skipped only at the start; invalid UTF-8 becomes replacement characters."""
    assert list(decode(chunks)) == events
