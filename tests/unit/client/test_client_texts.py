"""Scoring, tokenizing, embedding and inspecting of texts, and resuming from a state."""

import base64
import json
import math
import struct
from types import MappingProxyType

import pytest

import sostenuto
from sostenuto import Score, ScoredToken
from tests.unit.client.scripted_responses import COMPLETION, answer_json, models, refusal, scores


def lists_of(text, *logprobs):
    """Return the lists of logprobs of a text, each character a token."""
    return {
        "tokens": list(text),
        "token_logprobs": list(logprobs),
        "top_logprobs": [logprob and {letter: logprob} for letter, logprob in zip(text, logprobs, strict=True)],
        "text_offset": list(range(len(text))),
    }


def test_score_sends_a_text_and_returns_sum_means_and_percentile(client, server):
    server.script = [scores(3.0)]
    score = client.score("abcd", model="tiny")
    assert (server.requests[0].path, server.bodies) == ("/v1/score", [{"model": "tiny", "input": "abcd"}])
    assert score == Score("abcd", 3.0, 0.75, 0.75, 4, 12.5, model="tiny:3")
    assert score.perplexity == pytest.approx(math.exp(0.75))
    assert score.bits_per_character == pytest.approx(0.75 / math.log(2))
    assert repr(score) == "Score('abcd', nats=3, num_tokens=4, nats_per_character=0.75, percentile=12.5)"


def test_tokens_have_log_probabilities(client, server):
    server.script = [scores(3.0, tokens=["a", "b"], surprisals=[None, 3.0], text_offset=[0, 1])]
    score = client.score("ab", model="tiny", tokens=True)
    assert server.bodies[0]["tokens"] is True
    assert score.tokens == (ScoredToken("a", None, 0), ScoredToken("b", -3.0, 1))


def test_nothing_scored_has_no_means(client, server):
    server.script = [scores(0.0, num_tokens=0, nats_per_token=None, nats_per_character=None, percentile=None)]
    score = client.score("", model="tiny")
    assert (score.nats_per_token, score.percentile) == (None, None)
    assert math.isnan(score.perplexity)
    assert math.isnan(score.bits_per_character)


def test_a_list_of_texts_is_scored_by_one_request(client, server):
    server.script = [scores(2.0, 1.0, ratio=0.5), scores(1.0), scores(1.0)]
    found = client.score(["a", "b"], model="tiny", ratio_to="other")
    assert [(score.text, score.nats, score.ratio) for score in found] == [("a", 2.0, 0.5), ("b", 1.0, 0.5)]
    assert server.bodies[0] == {"model": "tiny", "input": ["a", "b"], "ratio_to": "other"}
    assert client.score([5, 6], model="tiny").text == ""
    with pytest.raises(sostenuto.UnexpectedResponse, match="should have 2 entries but has 1"):
        client.score(["a", "b"], model="tiny")


def test_many_texts_are_scored_in_order_by_requests_of_limited_size(client, server):
    texts = [f"{number}" for number in range(128)] + ["x" * 20_000, "y" * 20_000, "z"]
    server.script = [scores(*map(float, range(128))), scores(128.0), scores(129.0, 130.0)]
    found = list(client.score_many(iter(texts), model="tiny", ratio_to="other", concurrency=1))
    assert [(score.text, score.nats) for score in found] == [(text, float(n)) for n, text in enumerate(texts)]
    assert [body["input"] for body in server.bodies] == [texts[:128], texts[128:129], texts[129:]]
    assert {body["ratio_to"] for body in server.bodies} == {"other"}


def test_with_carried_state_each_request_has_the_token_of_the_one_before(client, server):
    def after(state):
        raw = {"data": [{"nats": 1.0, "num_tokens": 1}] * 2, "model": "tiny", "version": 1, "state": state}
        return answer_json(raw)

    server.script = [after("s1"), after("s2"), after("s3")]
    texts = ["x" * 15_000, "y" * 15_000] * 3
    found = list(client.score_many(texts, model="tiny", carry_state=True, concurrency=8))
    assert [score.state for score in found] == [None, "s1", None, "s2", None, "s3"]
    assert [body.get("state") for body in server.bodies] == [None, "s1", "s2"]
    assert all(body["carry_state"] for body in server.bodies)


def test_one_string_is_not_many_texts(client):
    """Each of its characters would be scored as a text."""
    with pytest.raises(sostenuto.InvalidArgument, match="texts is one string: pass a list of strings"):
        next(client.score_many("Once"))


def test_without_threads_nothing_is_scored(client):
    with pytest.raises(sostenuto.InvalidArgument, match="concurrency is 0"):
        next(client.score_many(["a"], concurrency=0))


def test_embed_returns_a_vector_per_text(client, server):
    server.script = [
        answer_json({"data": [{"embedding": [0.5, 1.0]}]}),
        answer_json({"data": [{"embedding": [0.5]}, {"embedding": [1.5]}]}),
    ]
    assert client.embed("a", model="tiny") == [0.5, 1.0]
    assert client.embed([[1], [2]], model="tiny", pooling="last", timeout_s=5) == [[0.5], [1.5]]
    assert server.bodies[0] == {"model": "tiny", "input": "a"}
    assert server.bodies[1] == {"model": "tiny", "input": [[1], [2]], "pooling": "last", "timeout_s": 5}


def packed(*numbers):
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


def test_inspect_sends_every_field_and_decodes_its_traces(client, server):
    layer = {
        "layer": 2,
        "units": [0, 7],
        "values": {"input": packed(0.5, 1, 0.25, 0), "candidate": packed(2, 3, 4, 5), "hidden": packed(1, 2, 3, 4)},
        "state": {"hidden": packed(1, 2, 3)},
    }
    answer = {"model": "tiny", "version": 3, "token_ids": [5, 6, 7], "expected": {"d": -1.0}, "positions": [0, 2]}
    server.script = [answer_json({**answer, **lists_of("abc", None, -1.0, -2.0), "layers": [layer]})] * 2
    found = client.inspect(
        "abc", model="tiny", layers=[2], include=["hidden", "gates"], units=[3], max_units=2, max_positions=2
    )
    sent = {"return_sequences": True, "return_state": False, "go_backwards": False, "logprobs": 5}
    sent |= {"layers": [2], "include": ["hidden", "gates"], "units": [3], "max_units": 2, "max_positions": 2}
    assert server.bodies == [{"model": "tiny", "input": "abc", "encoding_format": "base64", **sent}]
    assert (found.text, found.version, found.positions, found.expected) == ("abc", 3, [0, 2], {"d": -1.0})
    assert [token.logprob for token in found.tokens] == [None, -1.0, -2.0]
    (inside,) = found.layers
    assert inside.values["hidden"] == [[1.0, 2.0], [3.0, 4.0]]
    assert inside.learn == [[1.0, 3.0], [1.0, 0.0]]
    assert inside.state == {"hidden": [1.0, 2.0, 3.0]}
    assert repr(found) == (
        "Inspection('abc', model='tiny', layers=[InspectedLayer(2, units=2, values=['candidate', 'hidden', 'input'])])"
    )
    client.inspect([1], state="s1", return_sequences=False, return_state=True, go_backwards=True, top=0)
    assert "model" not in server.bodies[1]
    assert server.bodies[1]["state"] == "s1"
    sent = {"return_sequences": False, "return_state": True, "go_backwards": True}
    assert server.bodies[1].items() >= sent.items()


def test_next_words_have_their_text_and_probability(client, server):
    data = [{"word": "king", "text": "ing", "probability": 0.5, "logprob": -0.6931472}]
    server.script = [answer_json({"data": data})] * 2
    (word,) = client.next_words("the k", model="tiny")
    assert word == sostenuto.NextWord("king", "ing", -0.6931472)
    assert word.probability == pytest.approx(0.5)
    client.next_words([1, 2], model="tiny", n=3, max_tokens=100, timeout_s=2.0)
    assert server.bodies == [
        {"model": "tiny", "prompt": "the k"},
        {"model": "tiny", "prompt": [1, 2], "n": 3, "max_tokens": 100, "timeout_s": 2.0},
    ]


def test_a_missing_value_of_a_data_frame_is_null_in_the_records_of_a_report(client, server):
    server.script = [answer_json({"generated": {}})]
    client.report([{"a": math.nan, "b": 1.5}], [MappingProxyType({"a": "x", "b": None})])
    assert server.bodies == [{"generated": [{"a": None, "b": 1.5}], "training": [{"a": "x", "b": None}]}]
    with pytest.raises(sostenuto.InvalidArgument, match="cannot be sent as JSON"):
        client.report([{"a": math.inf}], ["x"])


def test_neighbors_and_embedding_map_quote_names_in_the_url(client, server):
    lists = {"tokens": ["a", "b"], "token_ids": [3, 4], "x": [0.5, 1.0], "y": [0.0, 2.0], "explained": [0.7, 0.1]}
    found = answer_json({"data": [{"token": "a b", "token_id": 3, "cosine": 0.5}]})
    server.script = [found, found, answer_json(lists)]
    assert client.neighbors("a &/é", model="tiny@canary") == [sostenuto.Neighbor("a b", 3, 0.5)]
    client.neighbors(7, model="a/b", count=2)
    plane = client.embedding_map(model="tiny", count=2)
    assert (plane.tokens, plane.x, plane.explained) == (["a", "b"], [0.5, 1.0], [0.7, 0.1])
    assert repr(plane) == "EmbeddingMap(2 tokens, explained=[0.7, 0.1])"
    assert [request.path for request in server.requests] == [
        "/v1/models/tiny%40canary/embedding/neighbors?token=a+%26%2F%C3%A9&count=10",
        "/v1/models/a%2Fb/embedding/neighbors?token_id=7&count=2",
        "/v1/models/tiny/embedding/map?count=2",
    ]


def test_a_vocabulary_is_read_in_pages_of_one_version(client, server):
    """The first page names the version for the others, so that a new version cannot mix in."""

    def page(*texts):
        tokens = [{"token": text, "token_id": 7, "special": text == "<pad>"} for text in texts]
        return answer_json({"model": "tiny", "version": 3, "vocab_size": 3, "vocabulary": tokens})

    server.script = [page("<pad>", "a"), page("b")]
    tokens = client.vocabulary(model="tiny@canary")
    assert [(token.token, token.special) for token in tokens] == [("<pad>", True), ("a", False), ("b", False)]
    assert [request.path for request in server.requests] == [
        "/tokenizer_info?model=tiny%40canary&vocabulary=true&offset=0",
        "/tokenizer_info?model=tiny%3A3&vocabulary=true&offset=2",
    ]


def test_a_tokenizers_files_are_saved_of_one_version(client, server, tmp_path):
    config = {"bos_token": "<start>é", "eos_token": None}
    info = answer_json({"model": "tiny", "version": 3})
    server.script = [info, answer_json({"model": {}}), answer_json(config), info, refusal(404, "has no equal")]
    client.save_tokenizer(tmp_path / "a" / "b", model="tiny@canary")
    saved = {file.name: json.loads(file.read_text(encoding="utf-8")) for file in (tmp_path / "a" / "b").iterdir()}
    assert saved == {"tokenizer.json": {"model": {}}, "tokenizer_config.json": config}
    assert [request.path for request in server.requests] == [
        "/tokenizer_info?model=tiny%40canary",
        "/v1/models/tiny%3A3/tokenizer/tokenizer.json",
        "/v1/models/tiny%3A3/tokenizer/tokenizer_config.json",
    ]
    with pytest.raises(sostenuto.NotFound, match="has no equal"):
        client.save_tokenizer(tmp_path / "c", model="tiny")
    assert not (tmp_path / "c").exists()


def test_the_vocabulary_of_a_server_that_has_none_is_unexpected(client, server):
    """An older server ignores the parameter; one that stops early ends the list."""
    server.script = [answer_json({"model": "tiny", "vocab_size": 3})]
    with pytest.raises(sostenuto.UnexpectedResponse, match="'vocabulary' should be of type list"):
        client.vocabulary(model="tiny")
    server.script = [answer_json({"model": "tiny", "version": 1, "vocab_size": 3, "vocabulary": []})]
    assert client.vocabulary(model="tiny") == []


@pytest.mark.parametrize("wrong", [5, None, "§", "AAA=", [[1.0]]])
def test_traces_that_are_no_base64_float32_are_unexpected(client, server, wrong):
    layer = {"layer": 1, "units": [0], "values": {"hidden": wrong}}
    answer = {"token_ids": [], "expected": {}, "positions": [], **lists_of(""), "layers": [layer]}
    server.script = [answer_json(answer)]
    with pytest.raises(sostenuto.UnexpectedResponse, match="base64"):
        client.inspect("", model="tiny")


def test_resume_sends_the_state_with_the_passed_fields(client, server):
    server.script = [answer_json(COMPLETION), answer_json(COMPLETION)]
    assert client.resume("s1", max_tokens=5).text == " upon a time"
    client.resume("s1", "and", model="tiny", temperature=0.5)
    assert server.bodies == [
        {"prompt": "", "max_tokens": 5, "state": "s1"},
        {"model": "tiny", "prompt": "and", "temperature": 0.5, "state": "s1"},
    ]


def test_all_methods_share_the_cached_default_model(client, server):
    server.script = [models("first"), answer_json({"prompt": "a"}), answer_json({"data": [{"embedding": []}]})]
    client.detokenize([1])
    client.embed("a")
    assert [body["model"] for body in server.bodies[1:]] == ["first", "first"]


@pytest.mark.parametrize("answer", [{}, {"sequences": {}}, {"status": "ok", "sequences": {"accepted": 1}}])
def test_a_malformed_status_is_unexpected(client, server, answer):
    server.script = [answer_json(answer)]
    with pytest.raises(sostenuto.UnexpectedResponse, match="base_url"):
        client.status()


def test_the_windows_of_activations_suit_the_widths_of_all_layers(client, server, monkeypatch, tmp_path):
    """The model has the width of the top layer alone; the server limits the values of a response.

    All requests are for the version that the name selects, and the state after the last window is not computed.
    """
    monkeypatch.setattr("sostenuto._activations.MAX_VALUES", 8)

    def inspected(ids):
        layers = [
            {
                "layer": layer,
                "units": [*range(units)],
                "values": {"hidden": base64.b64encode(bytes(2 * units * len(ids))).decode()},
            }
            for layer, units in ((1, 3), (2, 1))
        ]
        return answer_json({"model": "tiny", "version": 3, "token_ids": ids, "layers": layers})

    model = {"id": "tiny", "version": 3, "layers": 2, "units": 1, "direction": "forward"}
    saved = answer_json({**COMPLETION, "choices": [{"index": 0, "text": "", "finish_reason": "length", "state": "S"}]})
    server.script = [
        answer_json(model),
        answer_json({"tokens": [5, 6, 7], "token_strs": ["a", "b", "c"]}),
        *(inspected([5]), inspected([5, 6]), saved, inspected([7])),
    ]
    client.save_activations(tmp_path / "file", "abc", model="tiny@canary", include=["hidden"])
    assert [body["input"] for body in server.bodies if "input" in (body or {})] == [[5], [5, 6], [7]]
    assert server.requests[0].path == "/v1/models/tiny%40canary"
    assert {body["model"] for body in server.bodies[1:]} == {"tiny:3"}
