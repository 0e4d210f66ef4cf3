"""A request's body as the application reads it."""

from io import BytesIO

import pytest
from flask import Flask

from service.errors import InvalidRequest
from service.memory import MemoryBudget, MemoryLease
from service.web.endpoint import read_body


def read_from(stream, **environ):
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = 4 << 20
    environ |= {"wsgi.input": stream, "wsgi.input_terminated": True}
    with app.test_request_context("/", method="POST", environ_overrides=environ):
        return read_body(MemoryLease(MemoryBudget(2**30)))


def test_a_chunked_body_is_read_to_its_end():
    assert len(read_from(BytesIO(b"x" * (4 << 20)), HTTP_TRANSFER_ENCODING="chunked")) == 4 << 20


def test_a_body_that_ends_early_is_an_invalid_request():
    with pytest.raises(InvalidRequest, match="the 5 bytes that Content-Length announces, got 2"):
        read_from(BytesIO(b"{}"), CONTENT_LENGTH="5")
