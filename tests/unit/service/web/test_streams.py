"""Streams of completions in HTTP."""

import json

from service.web.completions import CompletionResponse
from tests.fakes import FakeBackend


def test_proxies_neither_buffer_nor_cache_a_stream(make_site):
    """Nginx passes each chunk on at once because of X-Accel-Buffering."""
    body = {"model": "characters", "prompt": "a", "max_tokens": 5, "stream": True}
    answer = make_site().client.post("/v1/completions", json=body)
    assert answer.mimetype == "text/event-stream"
    assert (answer.headers["Cache-Control"], answer.headers["X-Accel-Buffering"]) == ("no-cache", "no")
    answer.close()


def test_the_rest_of_a_backward_text_goes_before_its_chunks_after_an_error(make_site):
    """It is what a stop string that may have begun has held back."""
    fields = {"model": "characters backward", "prompt": None, "suffix": "abc", "max_tokens": 60, "ignore_eos": True}
    (whole,) = make_site().service.results(**fields)
    backend = FakeBackend(held=True)
    site = make_site(backend=backend, max_calls=1)
    processor = site.service.start(**fields, stop=["?" + whole.text[-16]], timeout_s=2.0, prepend=True)
    # A prefill and two calls of eight steps.
    backend.release(3)
    text = ""
    for event in b"".join(CompletionResponse(processor, lambda _: None).events()).split(b"\n\n")[:-1]:
        (choice,) = json.loads(event.removeprefix(b"data: "))["choices"]
        text = choice["text"] + text if choice.get("prepend") else text + choice["text"]
    processor.request.close()
    assert text == whole.text[-16:]
