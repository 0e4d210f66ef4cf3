"""The vocabulary of `/tokenizer_info`: its tokens, its pages, and what a page costs."""

import json
import tracemalloc
from dataclasses import replace

import pytest
from tokenizers import Tokenizer

from contract.tokenizers import CharacterTokenizer, SubwordTokenizer, WordTokenizer
from service.access.keys import KeyLimits
from service.memory import MemoryLease
from tests.unit.service.engines import CHARACTERS, WORDS, Models

FILES = ("tokenizer.json", "tokenizer_config.json")
# As many as the largest common vocabularies.
NUM_TOKENS = 131_072


@pytest.fixture(scope="module")
def large():
    """A tokenizer of 131,072 characters and special tokens; control characters take most bytes in JSON."""
    characters = [*map(chr, range(0xD800)), *map(chr, range(0xE000, NUM_TOKENS + 0x800))]
    return CharacterTokenizer.train("".join(characters), end_token=True)


@pytest.fixture
def serve(monkeypatch):
    """Serve another tokenizer as `characters`."""

    def serve(tokenizer):
        find = Models.find
        monkeypatch.setattr(Models, "find", lambda *args, **more: replace(find(*args, **more), tokenizer=tokenizer))

    return serve


def get(site, query=""):
    response = site.client.get(f"/tokenizer_info?model=characters&vocabulary=true{query}")
    return response.status_code, json.loads(response.data)


@pytest.mark.parametrize("model", ["characters", "words"])
def test_the_vocabulary_has_every_token_with_its_id_and_marks_special_ones(site, model):
    tokenizer = {"characters": CHARACTERS, "words": WORDS}[model]
    plain = site.client.get(f"/tokenizer_info?model={model}&vocabulary=false&offset=3&count=2").json
    body = site.client.get(f"/tokenizer_info?model={model}&vocabulary=true").json
    found = body.pop("vocabulary")
    assert body == plain
    assert [token["token_id"] for token in found] == list(range(plain["vocab_size"]))
    assert [token["token"] for token in found] == list(tokenizer.tokens)
    special = [token["token"] for token in found if token["special"]]
    assert special == [plain["pad_token"], plain["unk_token"], plain["bos_token"]]
    texts = [tokenizer.decode([token["token_id"]]) for token in found if not token["special"]]
    assert texts == [token["token"] for token in found if not token["special"]]


def test_tokens_have_the_labels_of_log_probabilities(site, serve):
    serve(tokenizer := SubwordTokenizer.train(["the cat the cat"], end_token=True))
    labels = [token["token"] for token in get(site)[1]["vocabulary"]]
    assert " cat" in labels
    assert labels[tokenizer.tokens.index("Ċ")] == "\n"
    assert r"bytes:\xe2" in labels


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("&offset=2&count=3", [2, 3, 4]),
        ("&count=1", [0]),
        (f"&offset={len(CHARACTERS.tokens) - 1}", [len(CHARACTERS.tokens) - 1]),
        (f"&offset={len(CHARACTERS.tokens)}", []),
        (f"&offset={2**31 - 1}", []),
    ],
)
def test_a_page_has_the_tokens_from_an_offset_on(site, query, ids):
    status, body = get(site, query)
    assert (status, [token["token_id"] for token in body["vocabulary"]]) == (200, ids)
    assert body["vocab_size"] == len(CHARACTERS.tokens)


@pytest.mark.parametrize("query", ["vocabulary=yes", "offset=-1", "count=10001"])
def test_an_invalid_parameter_is_refused_by_name(site, query):
    response = site.client.get(f"/tokenizer_info?model=characters&{query}")
    assert (response.status_code, response.json["error"]["param"]) == (400, query.partition("=")[0])


def test_a_large_vocabulary_is_listed_in_pages_within_their_memory(make_site, serve, large, monkeypatch):
    serve(large)
    site, held = make_site(), []
    hold = MemoryLease.hold
    monkeypatch.setattr(MemoryLease, "hold", lambda *args, **more: held.append(args[1]) or hold(*args, **more))
    tokens = []
    while len(tokens) < len(large.tokens):
        held.clear()
        tracemalloc.start()
        response = site.client.get(f"/tokenizer_info?model=characters&vocabulary=true&offset={len(tokens)}")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < max(held) + 100_000
        tokens += json.loads(response.data)["vocabulary"]
        response.close()
    assert [token["token"] for token in tokens] == list(large.tokens)
    assert site.memory.num_bytes == 0


def test_a_page_that_needs_more_than_the_memory_is_refused(make_site, serve, large):
    serve(large)
    site = make_site(memory_bytes=2**20)
    status, body = get(site)
    assert (status, body["error"]["param"]) == (400, "count")
    assert "count must need at most 1048576 bytes of memory" in body["error"]["message"]
    assert get(site, "&count=1000")[0] == 200


def test_a_vocabulary_counts_against_the_rate_limit(make_site):
    site = make_site(KeyLimits(requests_per_minute=2))
    assert [get(site)[0] for _ in range(3)] == [200, 200, 429]
    assert site.client.get("/tokenizer_info?model=characters").status_code == 200


@pytest.mark.parametrize("model", ["characters", "words"])
def test_hugging_faces_library_loads_the_tokenizers_files(site, model):
    served, config = (site.client.get(f"/v1/models/{model}/tokenizer/{file}") for file in FILES)
    library, info = Tokenizer.from_str(served.text), site.client.get(f"/tokenizer_info?model={model}").json
    ids = site.client.post("/tokenize", json={"model": model, "prompt": "the cat?"}).json["tokens"]
    assert library.encode("the cat?").ids == ids
    assert library.decode(ids) == site.client.post("/detokenize", json={"model": model, "tokens": ids}).json["prompt"]
    for field in ("bos_token", "eos_token", "pad_token", "unk_token"):
        assert config.json[field] == info[field]


def test_a_tokenizer_without_an_equal_is_404(site, serve):
    serve(WordTokenizer(["<pad>", "a"], unknown=None))
    response = site.client.get("/v1/models/characters/tokenizer/tokenizer.json")
    assert response.status_code == 404
    assert "has no equivalent in Hugging Face's library: it drops unknown words" in response.json["error"]["message"]


@pytest.mark.parametrize("file", FILES)
def test_a_tokenizers_file_takes_no_more_than_the_memory_that_it_holds(make_site, serve, large, file):
    serve(large)
    site, path = make_site(), f"/v1/models/characters/tokenizer/{file}"
    tracemalloc.start()
    site.client.get(path).close()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 640 * NUM_TOKENS
    assert site.memory.num_bytes == 0
    refused = make_site(memory_bytes=2**20).client.get(path)
    assert (refused.status_code, "the tokenizer must need at most 1048576 bytes" in refused.text) == (400, True)
