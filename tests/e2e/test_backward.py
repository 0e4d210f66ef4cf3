"""A backward model on the real gateway and a real model server: it generates the text before `suffix`."""

import numpy as np
import openai
import pytest

from contract.card import load_assets
from service.scheduling.sampling import uniforms
from sostenuto import Client
from tests.conftest import TEXT

BASE = {"model": "reverse", "suffix": "worst of times", "max_tokens": 60, "seed": 5}


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
