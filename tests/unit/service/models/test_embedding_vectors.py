"""The embedding in a version's files: neighbors, the map of its principal components, and the search for tokens."""

import dataclasses
import json

import numpy as np
import pytest

from contract.card import GeneratorCard
from contract.tokenizers import ImportedTokenizer
from service.errors import InvalidRequest, NotFound
from service.models import embedding_vectors as module
from service.models.embedding_vectors import VectorFiles, Vectors, find_token
from service.models.registry import ServedModel
from service.scheduling.queues import BatchLimits
from service.scheduling.sequence import ModelVersion
from tests.registries import write_vectors
from tests.unit.contract.imported_files import MADE
from tests.unit.contract.test_card import FIELDS
from tests.unit.service.engines import CHARACTERS

ROWS = np.array([[9, 9], [1, 0], [2, 0.2], [0, 5], [-3, 0], [0, 0]], np.float32)


@pytest.fixture
def model():
    card = GeneratorCard(**{**FIELDS, "name": "demo", "weights_sha256": "a" * 64})
    return ServedModel(ModelVersion("demo", 1), card, CHARACTERS, BatchLimits((8,), 8, 16), "fp")


def test_neighbors_are_in_order_of_cosine_similarity():
    vectors = Vectors(ROWS, frozenset({0, 99}), {})
    ids, cosines = zip(*vectors.neighbors(1, 10), strict=True)
    assert ids == (2, 3, 5, 4)
    np.testing.assert_allclose(cosines, [1 / np.sqrt(1.01), 0, 0, -1], atol=1e-6)
    assert [place for place, _ in vectors.neighbors(1, 1)] == [2]


@pytest.mark.parametrize(
    ("name", "hidden"), [("GPT-2", {"<|endoftext|>", "<|im_start|>"}), ("bytes without marks", set())]
)
def test_only_tokens_without_text_are_hidden(tmp_path, model, name, hidden):
    """An imported vocabulary may mark more tokens as special than a model needs, or none at all."""
    tokenizer = ImportedTokenizer(json.loads(MADE[name].to_str()))
    write_vectors(tmp_path, np.ones((len(tokenizer.tokens), 2)))
    vectors = VectorFiles(tmp_path).of(dataclasses.replace(model, tokenizer=tokenizer))
    assert {tokenizer.tokens[i] for i in vectors.hidden} == hidden


def test_the_nearest_neighbors_are_those_of_a_full_sort():
    rows = np.random.default_rng(0).integers(-2, 3, size=(500, 2)).astype(np.float32)
    vectors = Vectors(rows, frozenset({3}), {})
    every = vectors.neighbors(7, 500)
    assert every == sorted(every, key=lambda pair: (-pair[1], pair[0]))
    assert {place for place, _ in every} == set(range(500)) - {3, 7}
    for count in (1, 10, 100):
        assert vectors.neighbors(7, count) == every[:count]


@pytest.mark.parametrize("width", [6, 60], ids=["covariance", "products of vectors"])
def test_the_map_has_the_principal_components(width, monkeypatch):
    monkeypatch.setattr(module, "_STEP", 7)
    rng = np.random.default_rng(0)
    flat = rng.normal(size=(30, 2)) * [5, 1] + [100, 0]
    turned = flat @ np.linalg.qr(rng.normal(size=(width, width)))[0][:2]
    vectors = Vectors(turned.astype(np.float32), frozenset({0}), {})
    ids, plane, explained = vectors.map(20)
    assert ids.tolist() == list(range(1, 21))
    distances = np.linalg.norm(plane[:, None] - plane[None], axis=2)
    expected = np.linalg.norm(flat[1:21, None] - flat[None, 1:21], axis=2)
    np.testing.assert_allclose(distances, expected, atol=1e-3)
    assert sum(explained) == pytest.approx(1)
    assert explained[0] > explained[1] > 0
    again = Vectors(turned.astype(np.float32), frozenset({0}), {}).map(20)[1]
    np.testing.assert_array_equal(plane, again)


@pytest.mark.parametrize(
    ("rows", "num_hidden", "shown"),
    [(np.ones((4, 3)), 0, 4), (np.ones((1, 3)), 0, 1), (np.arange(4.0)[:, None], 0, 4), (np.ones((2, 3)), 2, 0)],
    ids=["equal vectors", "one vector", "one dimension", "special tokens alone"],
)
def test_a_degenerate_embedding_has_a_map(rows, num_hidden, shown):
    ids, plane, explained = Vectors(rows.astype(np.float32), frozenset(range(num_hidden)), {}).map(10)
    assert (len(ids), plane.shape) == (shown, (shown, 2))
    assert np.isfinite(plane).all()
    assert all(0 <= share <= 1 + 1e-9 for share in explained)


def of_weights(model, number):
    return dataclasses.replace(model, card=model.card.model_copy(update={"weights_sha256": f"{number:064}"}))


def test_vectors_are_cached_by_version_and_weights_up_to_max_bytes(tmp_path, model):
    path = write_vectors(tmp_path, ROWS)
    first = VectorFiles(tmp_path).of(model)
    np.testing.assert_allclose(first.rows, ROWS)
    assert vars(CHARACTERS.special)["padding"] in first.hidden
    files = VectorFiles(tmp_path, max_bytes=2 * first.num_bytes)
    first = files.of(model)
    write_vectors(tmp_path, ROWS * 2)
    assert files.of(model) is first
    for number in (1, 2):
        files.of(of_weights(model, number))
        assert files.of(model) is first
    files.of(of_weights(model, 3))
    files.of(of_weights(model, 4))
    assert files.of(model) is not first
    path.unlink()
    with pytest.raises(NotFound, match="embedding of version 1 of model 'demo' is unavailable"):
        VectorFiles(tmp_path).of(model)


@pytest.mark.parametrize(
    "content",
    ["", "1\t2\n3\n", "1\t2\n3\tx\n", "1\tnan\n", "1\tinf\n", "1\n" * 1000],
    ids=["empty", "ragged", "no number", "NaN", "infinite", "more than tokens"],
)
def test_a_damaged_file_of_vectors_is_not_found(tmp_path, model, content, caplog):
    write_vectors(tmp_path, ROWS).write_text(content)
    with pytest.raises(NotFound):
        VectorFiles(tmp_path).of(model)
    assert "vectors.tsv cannot be read" in caplog.text


def test_a_large_file_is_read_in_steps(tmp_path, model, monkeypatch):
    """Each holds the interpreter's lock for a moment only."""
    rows = np.random.default_rng(0).normal(size=(len(CHARACTERS.tokens), 4)).astype(np.float32)
    write_vectors(tmp_path, rows)
    monkeypatch.setattr(module, "_READ_BYTES", 64)
    np.testing.assert_allclose(VectorFiles(tmp_path).of(model).rows, rows, rtol=1e-6)


def test_a_token_is_found_by_its_text_or_its_name(tmp_path, model):
    write_vectors(tmp_path, np.ones((len(CHARACTERS.tokens) - 1, 2)))
    vectors = VectorFiles(tmp_path).of(model)
    assert find_token(model, vectors, "a") == CHARACTERS.encode("a")[0]
    assert find_token(model, vectors, CHARACTERS.tokens[0]) == 0
    with pytest.raises(InvalidRequest, match="one token of the model, got 'abc', which is 3"):
        find_token(model, vectors, "abc")
    with pytest.raises(InvalidRequest, match="among the first"):
        find_token(model, vectors, CHARACTERS.tokens[-1])
