"""Streams of completions in HTTP."""


def test_proxies_neither_buffer_nor_cache_a_stream(make_site):
    """Nginx passes each chunk on at once because of X-Accel-Buffering."""
    body = {"model": "characters", "prompt": "a", "max_tokens": 5, "stream": True}
    answer = make_site().client.post("/v1/completions", json=body)
    assert answer.mimetype == "text/event-stream"
    assert (answer.headers["Cache-Control"], answer.headers["X-Accel-Buffering"]) == ("no-cache", "no")
    answer.close()
