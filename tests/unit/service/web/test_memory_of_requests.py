"""The memory of a request: its budget, the limits before tokenization, and its release, however the request ends."""

import gc
import json
import time
import tracemalloc
import weakref

import pytest

from contract.tokenizers import CharacterTokenizer
from service.access.keys import KeyLimits
from service.context import RequestContext
from service.errors import ClientGone
from service.generation.hidden_states import InspectionProcessor
from service.memory import FREE_BYTES, MemoryLease
from service.settings import Settings
from tests.fakes import FakeBackend
from tests.unit.service.engines import request as completion_request

LONG = 200_000


@pytest.fixture
def no_collector():
    """Disable the garbage collector, so that reference cycles are never freed."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


REFUSED = {
    "too long": {"prompt": "a" * LONG},
    "too many ids": {"prompt": [1] * LONG},
    "ids out of range": {"prompt": [1] * 900 + [10**6], "user": "a" * LONG},
    "wrong type": {"prompt": "a" * LONG, "temperature": "hot"},
    "wrong item": {"prompt": ["a" * LONG, 1]},
    "unknown model": {"prompt": "a" * LONG, "state": "a" * LONG},
    "too much to echo": {"prompt": ["a" * 900] * 4, "echo": True, "user": "a" * LONG},
}


def stays_below(num_bytes, act, times):
    """Return whether memory grows by less than this as `act` is repeated, in one of three attempts.

    Threads that earlier tests left allocate memory, too: if it grows by more, what they allocate in the same time is
    subtracted.
    """
    act()
    for _ in range(3):
        tracemalloc.start()
        act()
        before, started = tracemalloc.get_traced_memory()[0], time.monotonic()
        for _ in range(times):
            act()
        after, seconds = tracemalloc.get_traced_memory()[0], time.monotonic() - started
        if after - before < num_bytes:
            tracemalloc.stop()
            return True
        time.sleep(seconds)
        idle = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        if (after - before) - (idle - after) < num_bytes:
            return True
    return False


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("fields", REFUSED.values(), ids=REFUSED)
def test_a_refused_request_frees_its_memory_at_once(site, fields):
    """No traceback keeps frames, and with them body and tokens, until the next garbage collection."""
    body = json.dumps({"model": "characters", **fields}).encode()

    def refuse():
        assert site.send(body)[0] == 400

    assert stays_below(LONG, refuse, times=20)
    assert site.memory.num_bytes == 0


@pytest.mark.usefixtures("no_collector")
def test_a_failed_request_frees_its_memory_at_once(make_site):
    site = make_site(backend=FakeBackend(held=True))
    body = {"model": "characters", "prompt": "a" * 900, "max_tokens": 50, "timeout_s": 0.02, "user": "a" * LONG}

    def fail():
        assert site.send(json.dumps(body))[0] == 504
        assert b"deadline_exceeded" in site.send(json.dumps({**body, "stream": True}))[1]
        site.service.backend.calls.clear()

    assert stays_below(LONG, fail, times=10)
    assert site.memory.num_bytes == 0
    site.service.backend.release(1000)


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/inspect"])
def test_an_answered_request_frees_its_memory_at_once(site, path):
    """No sequence refers to the generation that holds it, and no callback to its own response."""
    own = {"prompt": "a" * 900, "echo": True, "max_tokens": 9} if path == "/v1/completions" else {"input": "a" * 900}
    body = json.dumps({"model": "characters", "logprobs": 5, **own})

    def succeed():
        assert site.send(body, path)[0] == 200
        site.service.backend.calls.clear()

    # Each response has logprobs of half a megabyte.
    assert stays_below(250_000, succeed, times=3)


@pytest.mark.usefixtures("no_collector")
def test_a_request_whose_client_left_frees_its_memory_at_once(make_site):
    site = make_site(backend=FakeBackend(held=True))
    builder = site.service.engine.start_completion(completion_request("abc", max_tokens=100), RequestContext())
    request = builder.request
    # The sequence holds the same array.
    watched = [weakref.ref(each) for each in (builder, request, request.sequences[0, 0].prompt_ids)]
    request.cancel()
    with pytest.raises(ClientGone):
        builder.results()
    request.close()
    del builder, request
    # The scheduler holds it until the call in flight is answered.
    site.service.backend.release(1000)
    site.service.backend.calls.clear()
    deadline = time.monotonic() + 30
    while any(each() is not None for each in watched):
        # Send another request: the scheduler's thread keeps the last message that it handled.
        site.service.results("b", max_tokens=1)
        site.service.backend.calls.clear()
        assert time.monotonic() < deadline, watched
        time.sleep(0.01)


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/embeddings", "/v1/inspect", "/tokenize"])
def test_a_prompt_that_is_too_long_is_refused_before_it_is_tokenized(site, monkeypatch, path):
    encoded = []
    monkeypatch.setattr(CharacterTokenizer, "encode", lambda _, text: encoded.append(text) or [])
    field = "prompt" if path in {"/v1/completions", "/tokenize"} else "input"
    answer = site.post(path, **{field: "a" * 1_000_001})
    assert (answer.status_code, answer.json["error"]["param"]) == (400, field)
    assert answer.json["error"]["message"].endswith("tokens, got 1000001")
    assert encoded == []


def test_prompts_over_the_total_limit_are_refused_before_tokenization(site, monkeypatch):
    """Each of them is within the limit of a single prompt."""
    monkeypatch.setattr(CharacterTokenizer, "encode", lambda *_: pytest.fail("encoded"))
    site.service.engine._settings = Settings(max_prompt_tokens=1000, max_queued_tokens=3999)
    answer = site.post("/v1/embeddings", input=["a" * 1000] * 4)
    assert (answer.status_code, answer.json["error"]["param"]) == (400, "input")
    assert "at most 3999 tokens in all, got at least 4000" in answer.json["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [b"{", b'{"prompt": 5}', json.dumps({"model": "characters", "prompt": "a" * LONG}).encode(), b"x" * (5 * 2**20)],
    ids=["no JSON", "wrong field", "too long", "too large"],
)
def test_an_invalid_request_counts_against_the_rate_limit(make_site, body):
    site = make_site(KeyLimits(requests_per_minute=2))
    statuses = [site.send(body)[0] for _ in range(3)]
    assert statuses[:2] in ([400, 400], [413, 413])
    assert statuses[2] == 429


def test_tokens_are_charged_before_the_prompt_is_tokenized(make_site, monkeypatch):
    """A key at its limit costs no tokenization. Words have no minimum of tokens and are charged afterwards."""
    site = make_site(KeyLimits(tokens_per_minute=1000))
    assert site.post(prompt="a" * 900, max_tokens=50).status_code == 200
    monkeypatch.setattr(CharacterTokenizer, "encode", lambda *_: pytest.fail("encoded"))
    answer = site.post(prompt="a" * 900, max_tokens=50)
    assert (answer.status_code, answer.json["error"]["code"]) == (429, "rate_limit_exceeded")
    answer = site.client.post("/v1/completions", json={"model": "words", "prompt": "the cat " * 490, "max_tokens": 30})
    assert (answer.status_code, answer.json["error"]["param"]) == (400, "max_tokens")
    assert "may use up to 1010 tokens, but the limit is 1000 per minute" in answer.json["error"]["message"]


def test_a_full_memory_budget_sheds_large_requests_and_serves_small_ones(site):
    other = MemoryLease(site.memory)
    other.hold(64 * 2**20, "another request")
    answer = site.post(prompt="a" * FREE_BYTES)
    assert (answer.status_code, answer.json["error"]["code"]) == (429, "memory_full")
    assert answer.headers["Retry-After"] == "1"
    assert site.post(prompt="abc", max_tokens=5).status_code == 200
    other.close()
    assert site.post(prompt="a" * 900, user="a" * FREE_BYTES).status_code == 200
    assert site.memory.num_bytes == 0


def test_a_request_that_needs_more_than_the_budget_is_refused(make_site):
    """A response of megabytes is admitted by its estimated size, before it is computed."""
    site = make_site(memory_bytes=2**20)
    answer = site.post(prompt="a" * 900, max_tokens=500, logprobs=5, n=3)
    assert answer.status_code == 400
    assert "must need at most 1048576 bytes of memory" in answer.json["error"]["message"]


def test_a_running_request_holds_the_memory_of_its_response(make_site):
    site = make_site()
    body = {"model": "characters", "prompt": "a" * 900, "n": 2, "max_tokens": 500, "logprobs": 5, "stream": True}
    answer = site.client.post("/v1/completions", json=body, buffered=False)
    assert site.memory.num_bytes > FREE_BYTES
    answer.close()
    assert site.memory.num_bytes == 0


@pytest.mark.parametrize("encoding", ["float", "base64", "base64_float16"])
def test_an_inspection_is_streamed_in_parts(site, monkeypatch, encoding):
    jobs = []
    monkeypatch.setattr("service.web.hidden_states._NUMBERS", 32)
    monkeypatch.setattr("service.web.hidden_states._ITEMS", 10)
    take = InspectionProcessor.result
    monkeypatch.setattr(InspectionProcessor, "result", lambda job: jobs.append(take(job)) or jobs[-1])
    fields = {"model": "characters", "input": "abcdefghij" * 20, "encoding_format": encoding, "return_state": True}
    answer = site.client.post("/v1/inspect", json=fields, buffered=False)
    parts = list(answer.response)
    answer.close()
    assert len(parts) > 100
    assert max(map(len, parts)) < 1500
    found = json.loads(b"".join(parts))
    assert found["tokens"] == list(fields["input"])
    assert found["usage"] == {"prompt_tokens": 200, "total_tokens": 200}
    (layer,) = found["layers"]
    assert (layer["layer"], layer["units"], [*layer["values"]]) == (1, [0, 1, 2, 3], ["hidden"])
    sizes = {"float": 200, "base64": 200 * 4 * 4 * 4 // 3 + 4, "base64_float16": 200 * 4 * 2 * 4 // 3 + 1}
    assert len(layer["values"]["hidden"]) == pytest.approx(sizes[encoding], abs=4)
    assert jobs[0]["layers"] == [{}]
    assert site.memory.num_bytes == 0
