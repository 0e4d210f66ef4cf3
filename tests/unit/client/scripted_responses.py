"""The responses that tests put into a scripted server's script, and the events that streams consist of."""

import json

from tests.unit.client.scripted_server import Handler

COMPLETION = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "tiny", "system_fingerprint": "fp-1"}
COMPLETION["choices"] = [{"index": 0, "text": " upon a time", "finish_reason": "length", "logprobs": None}]
COMPLETION |= {"seed": 7, "usage": {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4}}

DONE = "[DONE]"
GATEWAY = {"status": "ok", "sequences": {"accepted": 3, "max": 10}, "models": [{}], "uptime_s": 1000.0}


def answer_json(value, status=200, headers=None):
    return answer_bytes(json.dumps(value).encode(), "application/json", status, headers)


def answer_bytes(content, content_type, status=200, headers=None):
    """Respond with these bytes."""

    def answer(handler):
        handler.start(status, {"Content-Type": content_type, "Content-Length": str(len(content)), **(headers or {})})
        handler.wfile.write(content)

    return answer


def refusal(status, message, *, headers=None, **fields):
    """Respond with an error body of the API."""
    return answer_json({"error": {"message": message, **fields}}, status, headers)


def scores(*nats, version=3, **fields):
    """Respond with the score of each text: these nats over four tokens and characters; fields are added to each."""
    means = {"num_tokens": 4, "percentile": 12.5, **fields}
    data = [
        {"object": "score", "index": index, "nats": value, "nats_per_token": value / 4, "nats_per_character": value / 4}
        | means
        for index, value in enumerate(nats)
    ]
    return answer_json({"object": "list", "data": data, "model": "tiny", "version": version})


def models(*names):
    return answer_json({"object": "list", "data": [{"id": name, "object": "model"} for name in names]})


def stream(events, *, then=None, headers=None):
    """Respond with these events, one HTTP chunk each, then end the body, or call `then` if it is passed."""

    def answer(handler):
        kind = {"Content-Type": "text/event-stream; charset=utf-8", "Transfer-Encoding": "chunked"}
        handler.start(200, {**kind, **(headers or {})})
        for event in events:
            handler.write_chunk(event if isinstance(event, bytes) else as_event(event))
        if then is None:
            handler.write_chunk(b"")
        else:
            then(handler)

    return answer


def as_event(value):
    return f"data: {value if isinstance(value, str) else json.dumps(value)}\n\n".encode()


def chunk(text, finish_reason=None, index=0, **fields):
    choice = {"index": index, "text": text, "finish_reason": finish_reason, "logprobs": None, **fields}
    return {"id": "cmpl-1", "model": "tiny", "seed": 7, "system_fingerprint": "fp-1", "choices": [choice]}


def usage_chunk():
    return {**COMPLETION, "choices": []}


linger, hang_up = Handler.wait_until_client_leaves, Handler.hang_up


def cut(*events):
    """Respond with these events, then close the connection."""
    return stream(events, then=hang_up)


def marked(text, num_tokens, state, prompt_tokens=4, **fields):
    """Return a chunk with a resume token and the usage so far."""
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": num_tokens}
    return {**chunk(text, state=state, **fields), "usage": {**usage, "total_tokens": prompt_tokens + num_tokens}}


WHOLE = [chunk(" upon"), b": ping\n\n", chunk(" a"), chunk(" time"), chunk("", "length"), usage_chunk(), DONE]
