"""Fixtures of the batch tests: the input file."""

import json

import pytest


@pytest.fixture
def write_requests(tmp_path):
    """Write IN: a string becomes a valid line with that custom_id; bytes are written unchanged."""

    def write(*lines):
        path = tmp_path / "in.jsonl"
        path.write_bytes(b"".join(line if isinstance(line, bytes) else request(line) for line in lines))
        return path

    return write


def request(name):
    fields = {"custom_id": name, "method": "POST", "url": "/v1/completions", "body": {"model": "m", "prompt": name}}
    return json.dumps(fields).encode() + b"\n"
