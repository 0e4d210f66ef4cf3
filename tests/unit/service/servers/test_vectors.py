"""An embedding as a version's files have it: neighbours, the plane, and which tokens are found."""

import dataclasses

import numpy as np
import pytest

from contract.card import GeneratorCard
from service.errors import InvalidRequest, NotFound
from service.scheduling.policy import Shapes
from service.scheduling.sequence import ModelVersion
from service.servers.catalog import LiveModel
from service.servers.vectors import MAX_KEPT, VectorFiles, Vectors, find_token
from tests.unit.service.texts.test_generation import CHARACTERS, FIELDS

ROWS = np.array([[9, 9], [1, 0], [2, 0.2], [0, 5], [-3, 0], [0, 0]], np.float32)


@pytest.fixture
def model():
    card = GeneratorCard(**{**FIELDS, "name": "demo", "weights_sha256": "a" * 64})
    return LiveModel(ModelVersion("demo", 1), card, CHARACTERS, Shapes((8,), 8, 16), "fp")


def write(folder, rows, name="demo"):
    """Write a file of vectors where a version has it."""
    path = folder / name / "1" / "assets.extra" / "vectors.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join("\t".join(f"{value:.7g}" for value in row) + "\n" for row in rows))
    return path


def test_neighbours_are_in_order_of_the_angle():
    """However long their vectors are; the token itself and what stands for no text are none."""
    vectors = Vectors(ROWS, frozenset({0, 99}))
    ids, cosines = zip(*vectors.neighbors(1, 10), strict=True)
    assert ids == (2, 3, 5, 4)
    np.testing.assert_allclose(cosines, [1 / np.sqrt(1.01), 0, 0, -1], atol=1e-6)
    assert [place for place, _ in vectors.neighbors(1, 1)] == [2]


def test_the_plane_shows_what_differs_most():
    """Distances in two dimensions are kept, shares add up to all; the map is the same every time."""
    rng = np.random.default_rng(0)
    flat = rng.normal(size=(30, 2)) * [5, 1]
    turned = flat @ np.linalg.qr(rng.normal(size=(6, 6)))[0][:2]
    ids, plane, explained = Vectors(turned.astype(np.float32), frozenset({0})).plane(20)
    assert ids.tolist() == list(range(1, 21))
    distances = np.linalg.norm(plane[:, None] - plane[None], axis=2)
    expected = np.linalg.norm(flat[1:21, None] - flat[None, 1:21], axis=2)
    np.testing.assert_allclose(distances, expected, atol=1e-4)
    assert sum(explained) == pytest.approx(1)
    assert explained[0] > explained[1] > 0
    again = Vectors(turned.astype(np.float32), frozenset({0})).plane(20)[1]
    np.testing.assert_array_equal(plane, again)


@pytest.mark.parametrize("rows", [np.ones((4, 3)), np.ones((1, 3)), np.arange(4.0)[:, None]])
def test_a_flat_embedding_has_a_plane_too(rows):
    """Equal vectors, a single one, a single number: no division by zero, and two coordinates."""
    ids, plane, explained = Vectors(rows.astype(np.float32), frozenset()).plane(10)
    assert plane.shape == (len(ids), 2)
    assert np.isfinite(plane).all()
    assert all(0 <= share <= 1 + 1e-9 for share in explained)


def test_files_are_read_once_and_few_are_kept(tmp_path, model):
    """By their weights; those asked for last stay."""
    path = write(tmp_path, ROWS)
    files = VectorFiles(tmp_path)
    first = files.of(model)
    np.testing.assert_allclose(first.rows, ROWS)
    assert vars(CHARACTERS.special)["padding"] in first.hidden
    write(tmp_path, ROWS * 2)
    assert files.of(model) is first
    for number in range(MAX_KEPT):
        other = model.card.model_copy(update={"weights_sha256": f"{number}" * 64})
        files.of(dataclasses.replace(model, card=other))
    assert files.of(model) is not first
    path.unlink()
    with pytest.raises(NotFound, match="embedding of version 1 of model 'demo' is not known"):
        VectorFiles(tmp_path).of(model)


def test_a_token_is_found_by_its_text_or_its_name(model):
    """What is several tokens, or has no vector, is refused."""
    vectors = Vectors(np.ones((len(CHARACTERS.tokens) - 1, 2), np.float32), frozenset())
    assert find_token(model, vectors, "a") == CHARACTERS.encode("a")[0]
    assert find_token(model, vectors, CHARACTERS.tokens[0]) == 0
    with pytest.raises(InvalidRequest, match="one token of the model, got 'abc', which is 3"):
        find_token(model, vectors, "abc")
    with pytest.raises(InvalidRequest, match="among the first"):
        find_token(model, vectors, CHARACTERS.tokens[-1])
