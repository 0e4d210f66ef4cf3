"""API keys of tests, and requests with them."""

import contextlib
import io
import json

from service.__main__ import main

BODY = {"model": "lstm", "prompt": "It was", "max_tokens": 10, "seed": 1}


def keys(path, *arguments):
    """Run `python -m service keys` in this process, which has already imported it, and return its output."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
        assert main(["keys", *arguments, "--file", str(path)]) == 0
    return printed.getvalue().strip()


def ask(gateway, key=None, body=BODY, address="/v1/completions", **headers):
    """Send a request with an API key; return status, headers and the parsed response."""
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    connection = gateway.connect()
    try:
        connection.request("POST" if body is not None else "GET", address, body and json.dumps(body), headers)
        response = connection.getresponse()
        return response.status, response.headers, json.loads(response.read() or b"null")
    finally:
        connection.close()
