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


def ask(gateway, key=None, body=BODY, address="/v1/completions", method=None, **headers):
    """Send a request with an API key, its body as JSON unless it is bytes; return status, headers and response."""
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    content = body if body is None or isinstance(body, bytes) else json.dumps(body)
    method = method or ("GET" if body is None else "POST")
    status, got, answer = gateway.ask(method, address, content, headers=headers)
    return status, got, json.loads(answer or b"null")
