"""Malformed and unusual HTTP: each gets an error with the usual fields, and does no harm."""

import json
import socket

import pytest

SECRET = "hunter2-and-nobody-is-to-know"


def send(gateway, content, *, half_close=False):
    """Send bytes and return everything that is received until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as sock:
        sock.sendall(content)
        if half_close:
            sock.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: sock.recv(65536), b""))


def post(address, headers, body=b"", close=True):
    lines = [f"POST {address} HTTP/1.1", "Host: localhost", *headers, *(["Connection: close"] if close else [])]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def parsed(answer):
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]


def test_a_compressed_body_is_a_400_that_names_content_encoding(gateway):
    status, error = parsed(send(gateway, post("/tokenize", ["Content-Encoding: gzip", "Content-Length: 2"], b"{}")))
    assert status == 400
    assert "Content-Encoding" in error["message"]


def test_bytes_behind_the_content_length_are_neither_logged_nor_echoed(gateway):
    body = b'{"model": "lstm",\r\n"prompt": "%b",\r\n"max_tokens": 1}\r\n\r\n' % SECRET.encode()
    answer = send(gateway, post("/v1/completions", ["Content-Length: 19"], body, close=False))
    assert SECRET.encode() not in answer
    assert SECRET not in gateway.output


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"get / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: x\r\nExpect: what\r\n\r\n", 417),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: abc\r\n\r\n", 400),
    ],
    ids=["method", "header", "address", "expect", "length"],
)
def test_an_invalid_http_request_gets_an_error_with_the_usual_fields(gateway, content, status):
    found, error = parsed(send(gateway, content, half_close=True))
    assert found == status
    assert set(error) == {"message", "type", "param", "code"}


def test_the_script_name_header_is_ignored(gateway):
    answer = send(
        gateway, b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nSCRIPT_NAME: /v1\r\nConnection: close\r\n\r\n"
    )
    assert b" 200 " in answer.splitlines()[0]


def test_a_doubled_slash_in_a_path_is_a_404(gateway):
    answer = send(gateway, b"GET /v1//models HTTP/1.1\r\nHost: other.localhost\r\nConnection: close\r\n\r\n")
    assert parsed(answer)[0] == 404
    assert b"other.localhost" not in answer
