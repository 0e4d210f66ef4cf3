"""OpenAI's own client, unmodified, on the real gateway and a real model server."""

import re

import numpy as np
import openai
import pytest

from tests.conftest import MODEL_NAMES

BASE = {"model": "lstm", "prompt": "It was", "max_tokens": 20, "seed": 5}


@pytest.fixture(scope="module")
def client(gateway):
    """The client as documented, without retries so that no failure is hidden."""
    with openai.OpenAI(base_url=f"http://127.0.0.1:{gateway.port}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_the_client_reads_a_completion(client, gateway):
    answer = client.completions.create(**BASE)
    assert answer.choices[0].text == gateway.text(**BASE)
    assert (answer.choices[0].finish_reason, answer.choices[0].logprobs) == ("length", None)
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (6, 20, 26)
    assert answer.usage.prompt_tokens_details.cached_tokens in (0, 5)
    assert answer._request_id.startswith("req-")


@pytest.mark.parametrize("stream", [False, True])
def test_several_prompts_combine_with_n_echo_and_logprobs(client, stream):
    wanted = {**BASE, "prompt": ["It was", "the worst"], "n": 2, "echo": True, "logprobs": 2}
    whole = client.completions.create(**wanted)
    assert [choice.index for choice in whole.choices] == [0, 1, 2, 3]
    texts, tokens, scores = ([[] for _ in range(4)] for _ in range(3))
    for answer in client.completions.create(**wanted, stream=True) if stream else [whole]:
        for choice in answer.choices:
            texts[choice.index].append(choice.text)
            tokens[choice.index] += choice.logprobs.tokens
            scores[choice.index] += choice.logprobs.token_logprobs
    for i, choice in enumerate(whole.choices):
        assert choice.text.startswith(wanted["prompt"][i // 2])
        assert "".join(texts[i]) == "".join(tokens[i]) == choice.text
        assert scores[i] == choice.logprobs.token_logprobs
        assert scores[i][0] is None
        assert all(score < 0 for score in scores[i][1:])
        for token, score, top in zip(tokens[i][1:], scores[i][1:], choice.logprobs.top_logprobs[1:], strict=True):
            assert top[token] == score


@pytest.mark.parametrize(
    ("extra_body", "pattern"),
    [
        (
            {"structured_outputs": {"regex": "It was the [a-z]{3,9} of [a-z]{3,9}"}},
            "It was the [a-z]{3,9} of [a-z]{3,9}",
        ),
        ({"guided_regex": "[a-z]+ (best|worst)"}, "[a-z]+ (best|worst)"),
        ({"guided_choice": ["the best", "the best of times", "wisdom"]}, "the best( of times)?|wisdom"),
        ({"structured_outputs": {"allowed_characters": "aeiou "}, "min_length": 5}, "[aeiou ]{5,}"),
    ],
    ids=str,
)
def test_structured_outputs_match_their_pattern(client, extra_body, pattern):
    """Each of ten choices, by the names that vLLM's users send in `extra_body`."""
    answer = client.completions.create(**{**BASE, "max_tokens": 40, "n": 10, "extra_body": extra_body})
    texts = [choice.text for choice in answer.choices]
    assert all(re.fullmatch(pattern, text) for text in texts)
    assert len(set(texts)) > 1


def test_base64_and_float_embeddings_are_equal(client):
    texts = ["It was the best of times", "", "1859"]
    packed = client.embeddings.create(model="gru", input=texts)
    plain = client.embeddings.create(model="gru", input=texts, encoding_format="float")
    assert [one.index for one in packed.data] == [0, 1, 2]
    for one, other in zip(packed.data, plain.data, strict=True):
        np.testing.assert_array_equal(np.float32(one.embedding), np.float32(other.embedding))
        assert len(one.embedding) == 24
    last = client.embeddings.create(model="gru", input=texts, extra_body={"pooling": "last"})
    assert last.data[0].embedding != packed.data[0].embedding
    assert packed.usage.total_tokens == packed.usage.prompt_tokens == len("".join(texts))


def test_the_client_lists_and_retrieves_models(client):
    assert [model.id for model in client.models.list()] == MODEL_NAMES
    assert client.models.retrieve("gru").id == "gru"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("nope")
    assert caught.value.code == "model_not_found"


def test_error_responses_raise_the_clients_own_exceptions(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(**{**BASE, "temperature": 3})
    assert (caught.value.param, caught.value.type) == ("temperature", "invalid_request_error")
    with pytest.raises(openai.NotFoundError, match="'nope' is not served"):
        client.completions.create(**{**BASE, "model": "nope"})
    with pytest.raises(openai.NotFoundError, match="/v1/completions"):
        client.chat.completions.create(model="lstm", messages=[{"role": "user", "content": "hi"}])


def test_an_error_event_in_a_stream_raises_while_iterating(client):
    with pytest.raises(openai.APIError, match="timeout_s"):
        for _ in client.completions.create(
            **{**BASE, "max_tokens": 100_000}, stream=True, extra_body={"timeout_s": 0.5}
        ):
            pass
