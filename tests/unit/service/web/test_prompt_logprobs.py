"""`prompt_logprobs`, as in vLLM, on a fake model whose most probable tokens are always 0 to 4, in this order."""

import tracemalloc

import orjson
import pytest

from tests.unit.service.engines import CHARACTERS


def of_prompt(answer):
    assert answer.status_code == 200, answer.json
    return [choice["prompt_logprobs"] for choice in answer.json["choices"]]


@pytest.mark.parametrize("num_top", [0, 2, 5])
@pytest.mark.parametrize("backward", [False, True])
def test_each_token_of_the_prompt_has_those_of_an_echo(site, num_top, backward):
    field, model = ("suffix", "characters backward") if backward else ("prompt", "characters")
    text = "abcdefghijab" * 20
    (found,) = of_prompt(site.post(**{"model": model, field: text, "max_tokens": 3, "prompt_logprobs": num_top}))
    echoed = site.post(**{"model": model, field: text, "max_tokens": 0, "logprobs": 5, "echo": True})
    wanted = echoed.json["choices"][0]["logprobs"]["token_logprobs"]
    ids = CHARACTERS.encode(text)
    first = len(ids) - 1 if backward else 0
    assert found.pop(first) is None is wanted.pop(first)
    del ids[first]
    for entry, token_id, logprob in zip(found, ids, wanted, strict=True):
        others = [i for i in range(num_top) if i != token_id]
        assert [*entry] == [*map(str, (token_id, *others))]
        rank, text = token_id + 1 if token_id < 5 else None, CHARACTERS.tokens[token_id]
        assert entry[str(token_id)] == {"logprob": logprob, "rank": rank, "decoded_token": text}
        assert [entry[str(i)]["rank"] for i in others] == [i + 1 for i in others]


def test_each_choice_has_those_of_its_prompt(site):
    prompts = ["abc", "b", "", "cab"]
    lengths = [3, 1, 0, 3]
    for fields in ({"n": 2}, {"n": 2, "best_of": 3}, {"n": 2, "unique": True}, {"n": 2, "max_tokens": 0}):
        found = of_prompt(site.post(**{"prompt": prompts, "max_tokens": 4, "prompt_logprobs": 1, **fields}))
        assert [len(entries) for entries in found] == [length for length in lengths for _ in range(2)]
        assert found[::2] == found[1::2]
        assert found[0] != found[6]
    assert found[2] == [None]


def test_they_do_not_change_the_choice(site):
    (plain,) = site.post(prompt="abc", seed=1).json["choices"]
    (scored,) = site.post(prompt="abc", seed=1, prompt_logprobs=1).json["choices"]
    assert len(scored.pop("prompt_logprobs")) == 3
    assert scored == plain


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt_logprobs": 51}, "prompt_logprobs must be less than or equal to 50, got 51"),
        ({"prompt_logprobs": -1}, "prompt_logprobs must be greater than or equal to 0, got -1"),
        ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs must be absent with stream; use echo and logprobs"),
        ({"prompt_logprobs": 1, "n": 3, "prompt": "a" * 800}, "at most 2000 tokens (of every prompt × n), got 2400"),
    ],
    ids=["above", "below", "stream", "size"],
)
def test_what_cannot_be_returned_is_refused(site, fields, message):
    answer = site.post(**{"prompt": "abc", **fields})
    assert (answer.status_code, answer.json["error"]["param"]) == (400, "prompt_logprobs")
    assert message in answer.json["error"]["message"]


def test_a_response_takes_no_more_memory_than_is_held(make_site, monkeypatch):
    site, held = make_site(max_logprobs_tokens=10_000, max_prompt_tokens=4000), []
    monkeypatch.setattr("service.engine._hold_memory", lambda _, num_bytes: held.append(num_bytes))
    fields = {"model": "characters", "prompt": "abcdefgh" * 500, "max_tokens": 1, "n": 2}
    site.send(orjson.dumps(fields))
    body = orjson.dumps({**fields, "prompt_logprobs": 5})
    tracemalloc.start()
    status, content = site.send(body)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (status, len(orjson.loads(content)["choices"][1]["prompt_logprobs"])) == (200, 4000)
    # The test itself joins the response's parts.
    assert peak - len(content) < held[1] - held[0]
