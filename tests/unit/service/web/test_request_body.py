"""A request's body as the application reads it from gunicorn."""

import pytest
from flask import Flask

from service.errors import InvalidRequest
from service.memory_budget import MemoryBudget
from service.web.request_body import read_body
from tests.unit.service.process.test_chunks import body_of


def read_in_chunks(sizes):
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = 4 << 20
    environ = {"wsgi.input": body_of(sizes), "wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}
    with app.test_request_context("/", method="POST", environ_overrides=environ):
        return read_body(MemoryBudget(2**30).lease())


def test_a_body_in_tiny_chunks_is_refused_with_the_limit():
    """The message says that the chunks are too small, and which size is enough."""
    with pytest.raises(InvalidRequest, match="must have 256 bytes on average after the first 4096, got 4"):
        read_in_chunks([1] * 100_000)


def test_a_body_in_reasonable_chunks_is_read():
    """To its end, up to the maximum of the body."""
    assert len(read_in_chunks([1000] * 4000)) == 4_000_000
