"""What is no proper HTTP, or only just: each is told so in the shape of every other error, and hurts nobody."""

import json
import socket

import pytest

SECRET = "hunter2-and-nobody-is-to-know"


def send(gateway, content, *, half_close=False):
    """Send bytes and return everything that comes back, until the other end closes."""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as sock:
        sock.sendall(content)
        if half_close:
            sock.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: sock.recv(65536), b""))


def post(address, headers, body=b"", close=True):
    """Return the bytes of a POST."""
    lines = [f"POST {address} HTTP/1.1", "Host: localhost", *headers, *(["Connection: close"] if close else [])]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def parsed(answer):
    """Return the status and the error of an answer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]


@pytest.mark.parametrize("address", ["/v1/completions", "/v1/embeddings", "/tokenize", "/detokenize"])
@pytest.mark.parametrize("body", [b"zz\r\n", b"-1\r\n{}\r\n", b"2\r\n{}X0\r\n\r\n"], ids=["size", "negative", "end"])
def test_malformed_chunks_are_the_clients_error(gateway, address, body):
    """They are 400 and not 500, with no trace in the log."""
    status, error = parsed(send(gateway, post(address, ["Transfer-Encoding: chunked"], body)))
    assert (status, error["type"]) == (400, "invalid_request_error")
    assert "chunks" in error["message"]
    assert "Traceback" not in gateway.output


def test_a_body_shorter_than_announced_is_not_taken_for_whole(gateway):
    """The bytes that came may look like a request; both numbers are told."""
    content = post("/tokenize", ["Content-Length: 500"], b'{"prompt": "abc"}', close=False)
    status, error = parsed(send(gateway, content, half_close=True))
    assert status == 400
    assert "500 bytes" in error["message"]
    assert "got 17" in error["message"]


def test_a_body_in_chunks_is_bounded_as_any_other(gateway):
    """What lies beyond the bound is neither ignored nor read."""
    body = b'{"model": "lstm", "prompt": "a"}' + b" " * (5 * 2**20)
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    status, error = parsed(send(gateway, post("/tokenize", ["Transfer-Encoding: chunked"], chunks)))
    assert status == 413
    assert "4194304" in error["message"]


def test_a_compressed_body_is_named_as_such(gateway):
    """It is not called bad JSON."""
    status, error = parsed(send(gateway, post("/tokenize", ["Content-Encoding: gzip", "Content-Length: 2"], b"{}")))
    assert status == 400
    assert "Content-Encoding" in error["message"]


def test_the_rest_of_a_body_is_neither_logged_nor_repeated(gateway):
    """With a wrong length a part of the body is read as the next request; its words stay private."""
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
def test_what_is_no_request_has_an_error_of_the_usual_shape(gateway, content, status):
    """Also before there is a request that the application could see."""
    found, error = parsed(send(gateway, content, half_close=True))
    assert found == status
    assert set(error) == {"message", "type", "param", "code"}


def test_a_header_does_not_move_the_addresses(gateway):
    """SCRIPT_NAME, which gunicorn takes from clients on this machine, is ignored."""
    answer = send(
        gateway, b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nSCRIPT_NAME: /v1\r\nConnection: close\r\n\r\n"
    )
    assert b" 200 " in answer.splitlines()[0]


def test_a_doubled_slash_is_another_address(gateway):
    """It is not a reason to send the client to the host that it named."""
    answer = send(gateway, b"GET /v1//models HTTP/1.1\r\nHost: other.localhost\r\nConnection: close\r\n\r\n")
    assert parsed(answer)[0] == 404
    assert b"other.localhost" not in answer
