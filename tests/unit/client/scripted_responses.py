"""The responses that tests put into a scripted server's script, and the events that streams consist of."""

import json

COMPLETION = {
    "id": "cmpl-1",
    "object": "text_completion",
    "created": 1,
    "model": "tiny",
    "system_fingerprint": "fp-1",
    "seed": 7,
    "choices": [{"index": 0, "text": " upon a time", "finish_reason": "length", "logprobs": None}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4},
}

DONE = "[DONE]"


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


def linger(handler):
    """Keep the connection open until the client closes it."""
    handler.wait_until_client_leaves()


def hang_up(handler):
    handler.hang_up()


WHOLE = [chunk(" upon"), b": ping\n\n", chunk(" a"), chunk(" time"), chunk("", "length"), usage_chunk(), DONE]

JOB = {
    "id": "ftjob-1",
    "object": "fine_tuning.job",
    "created_at": 5,
    "finished_at": None,
    "estimated_finish": None,
    "status": "queued",
    "error": None,
    "model": "characters-3-minutes",
    "fine_tuned_model": None,
    "version": None,
    "training_file": "file-1",
    "validation_file": None,
    "seed": 0,
    "trained_tokens": None,
    "settings": {"seed": 0},
}
SUCCEEDED = {**JOB, "status": "succeeded", "finished_at": 9, "fine_tuned_model": "book", "version": 2}


def uploaded(number=1):
    return answer_json({"id": f"file-{number}", "bytes": 3, "created_at": 4, "filename": "book.txt", "purpose": "x"})


def job_event(number, message, **data):
    fields = {"type": "metrics", "data": data} if data else {"type": "message"}
    return {"id": f"ftevent-1-{number}", "created_at": number, "level": "info", "message": message, **fields}


EPOCH = {"is_best": True, "sample": "[It was\nthe]best", "train_loss": 2.0, "validation_loss": 1.9, "tokens": 200}
EVENTS = [
    job_event(1, "the job is queued"),
    job_event(2, "training"),
    job_event(3, "epoch 1: training loss 2.500", epoch=1, train_loss=2.5, tokens=100, fraction=0.25, seconds_left=99.6),
    job_event(4, "epoch 1: training loss 2.000, validation loss 1.900, best so far", epoch=1, **EPOCH),
    job_event(5, "published book:2"),
]
