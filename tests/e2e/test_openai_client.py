"""OpenAI's own client, unmodified, against the real gateway and a real model server."""

import numpy as np
import openai
import pytest

from tests.conftest import MODEL_NAMES

BASE = {"model": "lstm", "prompt": "It was", "max_tokens": 20, "seed": 5}


@pytest.fixture(scope="module")
def client(gateway):
    """The client as its documentation makes it, with retries off so that nothing is papered over."""
    with openai.OpenAI(base_url=f"http://127.0.0.1:{gateway.port}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_a_completion_is_read(client, gateway):
    """Text, reason, usage and the request's id arrive where the client looks for them."""
    answer = client.completions.create(**BASE)
    assert answer.choices[0].text == gateway.text(**BASE)
    assert (answer.choices[0].finish_reason, answer.choices[0].logprobs) == ("length", None)
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (6, 20, 26)
    assert answer.usage.prompt_tokens_details.cached_tokens in (0, 5)
    assert answer._request_id.startswith("req-")


def test_a_stream_is_read_with_its_usage(client):
    """The pieces joined are the text; the last chunk has no choices and the usage."""
    chunks = list(client.completions.create(**BASE, stream=True, stream_options={"include_usage": True}))
    assert (chunks[-1].choices, chunks[-1].usage.completion_tokens) == ([], 20)
    assert all(chunk.usage is None for chunk in chunks[:-1])
    text = "".join(chunk.choices[0].text for chunk in chunks[:-1])
    assert text == client.completions.create(**BASE).choices[0].text


@pytest.mark.parametrize("stream", [False, True])
def test_prompts_choices_echo_and_log_probabilities_go_together(client, stream):
    """Two prompts of two choices each come numbered, echoed and scored, streamed or not."""
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


def test_prompts_of_token_ids_are_prompts_of_text(client, gateway):
    """A list of ids, and a list of such lists, give what their text gives."""
    answer = gateway.post({"model": "lstm", "prompt": "It was", "return_token_strs": True}, "/tokenize")[1]
    ids = answer["tokens"]
    assert answer["token_strs"] == list("It was")
    text = client.completions.create(**BASE).choices[0].text
    assert client.completions.create(**{**BASE, "prompt": ids}).choices[0].text == text
    assert [c.text for c in client.completions.create(**{**BASE, "prompt": [ids, ids]}).choices] == [text, text]


def test_a_bias_forces_and_forbids_a_token(client, gateway):
    """+100 makes it the only one drawn, -100 keeps it out."""
    (token_id,) = gateway.post({"model": "lstm", "prompt": "t"}, "/tokenize")[1]["tokens"]
    forced = client.completions.create(**BASE, logit_bias={str(token_id): 100})
    assert forced.choices[0].text == "t" * 20
    free = client.completions.create(**{**BASE, "max_tokens": 300})
    banned = client.completions.create(**{**BASE, "max_tokens": 300}, logit_bias={str(token_id): -100})
    assert "t" in free.choices[0].text
    assert "t" not in banned.choices[0].text


def test_penalties_make_a_text_less_repetitive(client):
    """The larger the penalty on what was written, the more different characters a greedy text has."""
    greedy = {**BASE, "max_tokens": 60, "temperature": 0}

    def variety(**penalties):
        return len(set(client.completions.create(**greedy, **penalties).choices[0].text))

    assert variety() < variety(frequency_penalty=2) <= 60
    assert variety() < variety(presence_penalty=2)
    assert variety() < variety(extra_body={"repetition_penalty": 3})


def test_the_best_of_several_has_the_highest_mean(client):
    """best_of returns those of the choices whose mean log probability is highest."""
    every = client.completions.create(**BASE, n=5, logprobs=0).choices
    means = [np.mean(choice.logprobs.token_logprobs) for choice in every]
    best = client.completions.create(**BASE, n=2, best_of=5)
    assert [choice.text for choice in best.choices] == [every[i].text for i in np.argsort(means)[::-1][:2]]
    assert best.usage.completion_tokens == 100


def test_the_end_of_a_document_can_be_put_off(client):
    """min_tokens and ignore_eos keep a text from ending early; the end is still found after that."""
    wanted = {"model": "rnn", "prompt": "", "max_tokens": 300, "temperature": 1.5}
    seed = next(
        seed for seed in range(50) if client.completions.create(**wanted, seed=seed).choices[0].finish_reason == "stop"
    )
    early = client.completions.create(**wanted, seed=seed)
    least = early.usage.completion_tokens + 5
    later = client.completions.create(**wanted, seed=seed, extra_body={"min_tokens": least})
    assert later.usage.completion_tokens >= least
    never = client.completions.create(**wanted, seed=seed, extra_body={"ignore_eos": True})
    assert (never.choices[0].finish_reason, never.usage.completion_tokens) == ("length", 300)


def test_embeddings_are_read_in_both_encodings(client):
    """The client asks for base64 by itself; numbers and base64 are the same vectors."""
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


def test_models_are_listed_and_retrieved(client):
    """Both calls of the client know the models."""
    assert [model.id for model in client.models.list()] == MODEL_NAMES
    assert client.models.retrieve("gru").id == "gru"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("nope")
    assert caught.value.code == "model_not_found"


def test_errors_are_the_clients_own(client):
    """A wrong field, a missing model and a chat become the exceptions that the client has for them."""
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(**{**BASE, "temperature": 3})
    assert (caught.value.param, caught.value.type) == ("temperature", "invalid_request_error")
    with pytest.raises(openai.NotFoundError, match="'nope' is not served"):
        client.completions.create(**{**BASE, "model": "nope"})
    with pytest.raises(openai.NotFoundError, match="/v1/completions"):
        client.chat.completions.create(model="lstm", messages=[{"role": "user", "content": "hi"}])


def test_a_failure_after_the_first_byte_is_an_exception_of_the_stream(client):
    """A deadline that ends a stream is raised by the client's iteration."""
    with pytest.raises(openai.APIError, match="timeout_s"):
        for _ in client.completions.create(
            **{**BASE, "max_tokens": 100_000}, stream=True, extra_body={"timeout_s": 0.5}
        ):
            pass
