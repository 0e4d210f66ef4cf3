"""The SDK against the real service: every method, and streams whose connection breaks."""

import contextlib
import itertools
import math
import re
import socket
import threading

import numpy as np
import pytest

import sostenuto
from tests.activations import read_safetensors
from tests.conftest import MODEL_NAMES, TEXT

FIELDS = {"seed": 3, "temperature": 0.9, "ignore_eos": True}


@pytest.fixture
def client(gateway):
    with sostenuto.Client(f"http://127.0.0.1:{gateway.port}") as made:
        yield made


class CuttingProxy:
    """A TCP proxy that cuts each connection after a given number of response bytes."""

    def __init__(self, port, cuts):
        self._target, self._cuts, self.num_cut = port, iter(cuts), 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self._listener.close()

    def _accept(self):
        while True:
            try:
                there = self._listener.accept()[0]
            except OSError:
                return
            here = socket.create_connection(("127.0.0.1", self._target))
            threading.Thread(target=self._hand_on, args=(there, here, math.inf), daemon=True).start()
            threading.Thread(target=self._hand_on, args=(here, there, next(self._cuts, math.inf)), daemon=True).start()

    def _hand_on(self, source, sink, left):
        try:
            while content := source.recv(4096):
                sink.sendall(content if len(content) <= left else content[: int(left)])
                left -= len(content)
                if left <= 0:
                    self.num_cut += 1
                    break
        except OSError:
            pass  # The other direction was cut.
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        source.close()


# Words, and what separates them; the last token before `max_tokens` completes the match.
SENTENCE = r"(?:[a-z]{1,9}[ ,;.!]+)+"
CONSTRAINT = {"regex": SENTENCE, "banned": "b", "min_length": 50}


@pytest.mark.parametrize(
    ("model", "options"),
    [
        *((model, {"frequency_penalty": 0.3}) for model in ("gru", "reverse", "window", "words")),
        *((model, CONSTRAINT) for model in ("lstm", "reverse", "window")),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_a_stream_resumes_byte_identically_wherever_it_is_cut(gateway, client, monkeypatch, model, options):
    """Cut several times, before and after resume tokens: text, logprobs and usage equal those of an unbroken stream.

    A resumed match continues where it was interrupted, within a word too, and is complete at the end.
    """
    monkeypatch.setattr("sostenuto._retries.FIRST_WAIT_S", 0.01)
    given = {"suffix" if model == "reverse" else "prompt": TEXT[:30], "model": model, "logprobs": 1}
    fields = {**given, **FIELDS, **options, "max_tokens": 700, "prepend": model == "reverse"}
    with client.stream(**fields) as whole:
        list(whole)
    proxy = CuttingProxy(gateway.port, [30_000, 300, 20_000, 9_000, 15_000])
    try:
        with sostenuto.Client(proxy.url) as weak, weak.stream(**fields, resume=True) as pieces:
            got = list(pieces)
    finally:
        proxy.close()
    assert proxy.num_cut >= 2
    assert pieces.num_resumed >= 2
    assert "".join(got[::-1] if model == "reverse" else got) == whole.text == pieces.text
    assert pieces.generation.usage == whole.generation.usage
    assert pieces.generation.finish_reason == whole.generation.finish_reason
    ours, theirs = pieces.generation.choices[0].logprobs, whole.generation.choices[0].logprobs
    for name in ("tokens", "token_logprobs", "text_offset"):
        assert ours[name] == theirs[name]
    if options is CONSTRAINT:
        assert re.fullmatch(SENTENCE, whole.text)
        assert "b" not in whole.text


def test_scoring_a_completion_returns_the_logprobs_it_was_sampled_with(client):
    drawn = client.generate(TEXT[:30], model="lstm", max_tokens=50, logprobs=0, **FIELDS)
    score = client.score(TEXT[:30] + drawn.text, model="lstm", tokens=True)
    assert [token.logprob for token in score.tokens[30:]] == drawn.choices[0].logprobs["token_logprobs"]
    assert "".join(token.text for token in score.tokens) == score.text
    assert 1 < score.perplexity < 100
    one, two = client.score([TEXT[:20], TEXT[:30]], model="lstm")
    assert (one.num_tokens, two.num_tokens) == (19, 29)
    assert client.score(TEXT[:20], model="reverse", tokens=True).tokens[-1].logprob is None


@pytest.mark.parametrize("model", MODEL_NAMES)
def test_scores_of_every_kind_of_model_are_those_of_inspect(client, model):
    score = client.score([TEXT[:40], TEXT[:9]], model=model, tokens=True, ratio_to=model)[0]
    found = client.inspect(TEXT[:40], model=model).tokens
    assert [token.logprob for token in score.tokens] == [token.logprob for token in found]
    assert score.nats == pytest.approx(-sum(token.logprob or 0 for token in found), abs=1e-5)
    assert score.ratio == 0


@pytest.mark.parametrize("model", MODEL_NAMES)
def test_tokenize_and_detokenize_round_trip(client, model):
    tokens = client.tokenize("it was the best", model=model)
    assert client.detokenize(tokens.ids, model=model) == "".join(tokens.texts) == "it was the best"
    score = client.score(tokens.ids, model=model, tokens=True)
    assert "".join(token.text for token in score.tokens) == "it was the best"
    # A token's index in the vocabulary is its id. The space between two words depends on the word before.
    vocabulary = client.vocabulary(model=model)
    assert [token.token_id for token in vocabulary] == list(range(len(vocabulary)))
    assert len(vocabulary) == next(each.raw["vocab_size"] for each in client.models() if each.id == model)
    assert [vocabulary[i].token.strip() for i in tokens.ids] == [text.strip() for text in tokens.texts]
    assert not any(vocabulary[i].special for i in tokens.ids)
    special = [token.token_id for token in vocabulary if token.special]
    assert client.detokenize(special, model=model) == ""


@pytest.mark.parametrize("model", MODEL_NAMES)
def test_inspect_is_consistent_with_score_generate_and_resume(client, model):
    """Tokens and `expected` equal those of other endpoints, states those of the last token read; it resumes, too."""
    found = client.inspect(TEXT[:40], model=model, return_state=True)
    asked = {"suffix" if model == "reverse" else "prompt": TEXT[:40], "model": model}
    echoed = client.generate(**asked, echo=True, logprobs=5, max_tokens=0).choices[0].logprobs
    assert [token.logprob for token in found.tokens] == echoed["token_logprobs"]
    assert [token.alternatives for token in found.tokens] == [top or {} for top in echoed["top_logprobs"]]
    drawn = client.generate(**asked, max_tokens=1, logprobs=5, temperature=0).choices[0].logprobs["top_logprobs"][0]
    best = sorted(drawn.values(), reverse=True)[:5]
    assert sorted(found.expected.values(), reverse=True) == pytest.approx(best, abs=1e-5)
    kinds = {"gru": {"hidden", "update", "reset", "candidate"}, "rnn": {"hidden"}, "window": {"top"}}.get(
        model, {"hidden", "cell", "forget", "input", "candidate", "output"}
    )
    for layer in found.layers:
        assert set(layer.values) == kinds
        assert all(len(rows) == len(found.tokens) for rows in layer.values.values())
        for kind, vector in layer.state.items():
            assert layer.values[kind][0 if model == "reverse" else -1] == vector
        if "forget" in kinds:
            learned = zip(layer.values["forget"], layer.values["cell"], layer.learn, strict=True)
            rows = list(learned)[::-1] if model == "reverse" else list(learned)
            for (_, before, _), (forget, cell, learn) in itertools.pairwise(rows):
                expected = [f * c + i for f, c, i in zip(forget, before, learn, strict=True)]
                assert cell == pytest.approx(expected, abs=1e-5)
    first = client.generate(**asked, max_tokens=5, seed=1, return_state=True)
    behind = client.inspect(
        TEXT[:10],
        state=first.state,
        max_units=2,
        max_positions=3,
        include=["hidden"],
        layers=[layer.layer for layer in found.layers][:1],
    )
    assert len(behind.positions) == 3
    assert all(token.logprob is not None for token in behind.tokens)


@pytest.mark.parametrize("model", ["lstm", "gru", "reverse", "window"])
def test_activations_read_in_windows_are_those_of_the_whole_text(client, tmp_path, monkeypatch, model):
    """A window starts from the state after the one before it, which for a backward model is the next in the text."""
    monkeypatch.setattr("sostenuto._activations.MAX_TOKENS", 17)
    path, told = tmp_path / "states.safetensors", []
    client.save_activations(path, TEXT, model=model, observe=lambda *progress: told.append(progress))
    whole = client.inspect(TEXT, model=model, include=["hidden", "cell"])
    tensors, metadata = read_safetensors(path)
    assert tensors.pop("token_ids").tolist() == whole.token_ids
    assert metadata == {"model": model, "version": str(whole.version)}
    expected = {f"{kind}_{each.layer}": values for each in whole.layers for kind, values in each.values.items()}
    assert tensors.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(tensors[name].astype(np.float32), np.array(values), atol=2e-3, err_msg=name)
    assert told[-1] == (len(whole.token_ids),) * 2
    assert len(told) == math.ceil(len(whole.token_ids) / 17)


def test_failed_activations_leave_no_file(client, tmp_path):
    path = tmp_path / "states.safetensors"
    with pytest.raises(sostenuto.BadRequest, match="layers of model 'lstm' are 1"):
        client.save_activations(path, TEXT, model="lstm", layers=[9])
    assert [*tmp_path.iterdir()] == []


def test_every_model_has_an_embedding_map_and_neighbors(client):
    for model in MODEL_NAMES:
        plane = client.embedding_map(model=model, count=30)
        assert 0 < len(plane.tokens) <= 30
        token_id = plane.token_ids[-1]
        near = client.neighbors(token_id, model=model, count=3)
        assert [neighbor.cosine for neighbor in near] == sorted((n.cosine for n in near), reverse=True)
        assert token_id not in [neighbor.token_id for neighbor in near]
        assert client.neighbors(plane.tokens[-1], model=model, count=3) == near
    with pytest.raises(sostenuto.BadRequest, match="count must be a number from 1 to 100, got '101'"):
        client.neighbors("t", model="lstm", count=101)
