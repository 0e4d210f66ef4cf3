"""A backward model on the real gateway and a real model server: it generates the text before `suffix`."""

import itertools

import numpy as np
import openai
import pytest

from contract.card import load_assets
from service.scheduling.sampling import uniforms
from sostenuto import Client
from tests.conftest import TEXT

BASE = {"model": "reverse", "suffix": "worst of times", "max_tokens": 60, "seed": 5}
SCORED = {**BASE, "logprobs": 2, "echo": True, "n": 2}
LISTS = ("tokens", "token_logprobs", "top_logprobs")
CONSENT = {"stream_options": {"prepend": True, "include_usage": True}}


@pytest.fixture(scope="module")
def client(gateway):
    """OpenAI's own client, without retries so that no failure is hidden."""
    with openai.OpenAI(base_url=f"http://127.0.0.1:{gateway.port}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def functions(models_dir):
    """The signatures of the SavedModel itself."""
    import tensorflow as tf

    model = tf.saved_model.load(str(models_dir / "reverse" / "1"))
    # The signatures are valid as long as the model exists.
    yield model.signatures
    del model


def choices(events):
    """Return the choices of a stream's events, in order of arrival."""
    return [choice for event in events if event for choice in event["choices"]]


@pytest.mark.parametrize("length", [0, 1, 2, 17, 130, 1000])
def test_the_completion_equals_the_saved_models_own_output(gateway, models_dir, functions, length):
    """The model gets the suffix's token ids in reverse order; the sampled ids are reversed again."""
    card, tokenizer = load_assets(models_dir / "reverse" / "1")
    suffix = (TEXT * 20)[:length]
    ids = np.tile(np.array(tokenizer.encode(suffix)[::-1] or [tokenizer.special.start], np.int32), (8, 1))
    state = np.zeros((8, card.state_size), np.float32)
    lengths = np.full(8, ids.shape[1] - 1, np.int32)
    drawn = functions["decode"](
        token_id=ids[:, -1],
        state=functions["prefill"](token_ids=ids[:, :-1], lengths=lengths, state=state)["state"],
        uniforms=np.tile(uniforms(3, 0, 0, 50), (8, 1)),
        steps=np.full(8, 50, np.int32),
        temperature=np.full(8, 0.9, np.float32),
        top_k=np.zeros(8, np.int32),
        top_p=np.ones(8, np.float32),
        min_p=np.zeros(8, np.float32),
    )["token_ids"]
    fields = {"model": "reverse", "suffix": suffix, "max_tokens": 50, "seed": 3, "temperature": 0.9}
    assert gateway.text(**fields) == tokenizer.decode(drawn.numpy()[0].tolist()[::-1])


def test_echo_returns_the_completion_followed_by_the_suffix(gateway):
    """Logprobs are in text order; only the last token of the text, which the model reads first, has none."""
    _, answer = gateway.post(SCORED)
    assert answer["usage"]["prompt_tokens"] == len(BASE["suffix"])
    plain = gateway.post({**BASE, "n": 2})[1]
    for choice, alone in zip(answer["choices"], plain["choices"], strict=True):
        assert choice["text"] == alone["text"] + BASE["suffix"]
        logprobs = choice["logprobs"]
        assert "".join(logprobs["tokens"]) == choice["text"]
        assert logprobs["text_offset"] == list(range(len(choice["text"])))
        assert [score is None for score in logprobs["token_logprobs"]] == [False] * (len(choice["text"]) - 1) + [True]
        for token, score, top in zip(*(logprobs[name] for name in LISTS), strict=True):
            assert top is None if score is None else top[token] == score


def test_logprobs_of_a_suffix_equal_those_it_was_sampled_with(gateway):
    """A completion that is sent as part of the suffix gets the logprobs that it had when it was sampled."""
    drawn = gateway.post({**BASE, "logprobs": 0, "max_tokens": 20})[1]["choices"][0]
    given = {**BASE, "suffix": drawn["text"] + BASE["suffix"], "max_tokens": 0, "echo": True, "logprobs": 0}
    told = gateway.post(given)[1]["choices"][0]["logprobs"]
    assert told["tokens"][:20] == drawn["logprobs"]["tokens"]
    assert told["token_logprobs"][:20] == pytest.approx(drawn["logprobs"]["token_logprobs"], abs=1e-5)


def test_a_stop_string_cuts_off_everything_up_to_its_end(gateway):
    """The completion is the part of the unstopped one after the stop string, streamed or not."""
    whole = gateway.text(**BASE)
    stop = whole[-20:-17]
    expected = whole[whole.rindex(stop) + 3 :]
    answer = gateway.post({**BASE, "stop": [stop, "not there"]})[1]
    assert (answer["choices"][0]["text"], answer["choices"][0]["finish_reason"]) == (expected, "stop")
    assert answer["usage"]["completion_tokens"] == len(expected) + 3
    assert gateway.streamed_text(**BASE, stop=stop) == expected
    pieces = choices(gateway.stream(**BASE, **CONSENT, stop=stop))
    assert "".join(piece["text"] for piece in reversed(pieces)) == expected


def test_with_prepend_chunks_stream_in_order_of_generation(gateway):
    """Each chunk has `prepend`; put together in reverse, with their logprobs, they are the whole response."""
    whole = gateway.post(SCORED)[1]
    events = list(gateway.stream(**SCORED, **CONSENT))
    assert (events[-1], events[-2]["choices"], events[-2]["usage"]) == (None, [], whole["usage"])
    for index, expected in enumerate(whole["choices"]):
        pieces = [piece for piece in choices(events) if piece["index"] == index]
        assert len(pieces) > 2
        assert all(piece["prepend"] is True for piece in pieces)
        assert [piece["finish_reason"] for piece in pieces] == [None] * (len(pieces) - 1) + ["length"]
        in_order = pieces[::-1]
        assert "".join(piece["text"] for piece in in_order) == expected["text"]
        starts = itertools.accumulate((len(piece["text"]) for piece in in_order), initial=0)
        offsets = [
            [start + offset for offset in piece["logprobs"]["text_offset"]]
            for start, piece in zip(starts, in_order, strict=False)
        ]
        assert list(itertools.chain(*offsets)) == expected["logprobs"]["text_offset"]
        for name in LISTS:
            told = [piece["logprobs"][name] for piece in in_order]
            assert list(itertools.chain(*told)) == expected["logprobs"][name]


def test_without_prepend_each_choice_is_streamed_as_one_chunk(gateway):
    """It equals the choice of the response that is not streamed, including all logprobs."""
    whole = gateway.post(SCORED)[1]["choices"]
    pieces = choices(gateway.stream(**SCORED))
    assert sorted(pieces, key=lambda piece: piece["index"]) == whole


def test_prepend_changes_nothing_for_a_forward_model(gateway):
    """Its chunks have no field `prepend`, whether the client accepts it or not."""
    fields = {"model": "lstm", "prompt": "It was", "max_tokens": 20, "seed": 5, "logprobs": 1}
    for options in ({}, CONSENT):
        pieces = choices(gateway.stream(**fields, **options))
        assert all(list(piece) == ["index", "text", "logprobs", "finish_reason"] for piece in pieces)
        assert "".join(piece["text"] for piece in pieces) == gateway.text(**fields)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": "reverse", "prompt": "It was"}, "prompt"),
        ({"model": "reverse", "prompt": "It was", "suffix": "times"}, "prompt"),
        ({"model": "lstm", "prompt": "It was", "suffix": "times"}, "suffix"),
        ({"model": "lstm", "suffix": [5]}, "suffix"),
        ({"model": "reverse", "suffix": [10_000]}, "suffix"),
        ({"model": "reverse", "suffix": "x" * 200_000}, "suffix"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_prompt_or_suffix_that_the_model_cannot_read_is_a_400(gateway, fields, param):
    """The error names the field, before anything is computed."""
    status, answer = gateway.post(fields)
    assert (status, answer["error"]["param"]) == (400, param)


def test_a_suffix_may_be_text_token_ids_or_a_list(gateway):
    """Token ids are in text order; an empty suffix is the same as none: generation starts at the end of a document."""
    ids = gateway.post({"model": "reverse", "prompt": BASE["suffix"]}, "/tokenize")[1]["tokens"]
    text, empty = gateway.text(**BASE), gateway.text(**{**BASE, "suffix": ""})
    assert gateway.text(**{**BASE, "suffix": ids}) == text
    listed = gateway.post({**BASE, "suffix": [BASE["suffix"], ""], "prompt": None})[1]["choices"]
    assert [choice["text"] for choice in listed] == [text, empty]
    assert gateway.text(model="reverse", max_tokens=60, seed=5) == empty != text


def test_an_embedding_reads_its_input_from_the_end(gateway):
    """Text and ids in text order are equivalent; `pooling: last` returns the hidden state at the first token."""
    ask = {"model": "reverse", "input": "times", "pooling": "last"}
    status, answer = gateway.post(ask, "/v1/embeddings")
    ids = gateway.post({"model": "reverse", "prompt": "times"}, "/tokenize")[1]["tokens"]
    by_ids = gateway.post({**ask, "input": ids}, "/v1/embeddings")[1]
    inspected = gateway.post({"model": "reverse", "input": "times", "include": ["hidden"]}, "/v1/inspect")[1]
    hidden = inspected["layers"][0]["values"]["hidden"]
    assert status == 200
    assert by_ids["data"][0]["embedding"] == answer["data"][0]["embedding"]
    assert answer["data"][0]["embedding"] == pytest.approx(hidden[0], abs=1e-5)
    assert answer["data"][0]["embedding"] != pytest.approx(hidden[-1], abs=1e-2)


def test_openais_client_gets_the_text_before_a_suffix(client, gateway):
    """Streaming too, though that client appends every text delta."""
    fields = {"model": "reverse", "prompt": "", "suffix": BASE["suffix"], "max_tokens": 60, "seed": 5, "echo": True}
    whole = client.completions.create(**fields).choices[0].text
    assert whole == gateway.text(**BASE) + BASE["suffix"]
    streamed = client.completions.create(**fields, stream=True)
    assert "".join(choice.text for chunk in streamed for choice in chunk.choices) == whole
    with pytest.raises(openai.BadRequestError, match="'reverse' is a backward model") as caught:
        client.completions.create(model="reverse", prompt="It was")
    assert caught.value.param == "prompt"


def test_the_sdk_gets_the_text_before_a_suffix(gateway):
    """The text deltas join to the text; with `prepend`, the stream puts its chunks together itself."""
    fields = {"suffix": BASE["suffix"], "model": "reverse", "max_tokens": 60, "seed": 5, "logprobs": 1, "echo": True}
    with Client(f"http://127.0.0.1:{gateway.port}") as client:
        whole = client.generate(**fields)
        assert "".join(client.stream(**fields)) == whole.text == gateway.text(**BASE) + BASE["suffix"]
        stream = client.stream(**fields, prepend=True)
        pieces = list(stream.events())
        assert len(pieces) > 2
        assert all(piece.prepend for piece in pieces)
        assert stream.generation.choices == whole.choices
        assert stream.generation.raw["choices"] == whole.raw["choices"]
