"""A base gives a fine-tuning its settings and its lineage, or an error that says why it cannot."""

import json

import pytest

from contract.card import Ancestor, Lineage
from contract.tokenizers import ImportedTokenizer
from export.config import load_config
from export.errors import ConfigError, RepositoryError
from export.training.base_version import BaseVersion
from tests.unit.contract.imported_files import MADE
from tests.unit.export.repository.stored import store
from tests.unit.export.texts import corpus_of

WANTED = {"name": "new", "corpus": "c.txt", "from": "base"}


def stored(models_dir, name="base", version=1, **changes):
    place = store(models_dir, name, version, **changes)
    (place / "assets.extra" / "model.keras").write_bytes(b"unread")
    return place


def test_the_newest_version_is_the_base_unless_another_one_is_named(tmp_path):
    for version in (1, 2):
        stored(tmp_path, version=version)
    assert [BaseVersion.find(name, tmp_path).version.number for name in ("base", "base:1")] == [2, 1]


def test_the_architecture_comes_from_the_base_and_the_rest_from_the_settings(tmp_path):
    """A setting that an earlier release did not have gets its default."""
    stored(tmp_path, settings={"cell": "gru", "layers": 2, "units": 9, "connections": "residual", "dropout": 0.7})
    config = BaseVersion.find("base", tmp_path).complete(load_config(None, {**WANTED, "dropout": 0.2, "units": 9}))
    assert (config.cell, config.layers, config.units, config.connections) == ("gru", 2, 9, "residual")
    assert (config.embedding, config.dropout, config.base, config.name) == (64, 0.2, "base:1", "new")


@pytest.mark.parametrize(
    ("own", "name", "default", "message"),
    [
        ({"bidirectional": True}, "context_length", 20, "context_length = 21 contradicts base:1, .* = 20"),
        ({"token_unit": "subword"}, "vocab_size", 2000, "vocab_size = 2001 contradicts base:1, .* = 2000"),
        ({}, "vocab_size", None, "vocab_size = 2000 contradicts base:1, .* = none"),
    ],
)
def test_a_default_of_the_base_may_be_given(tmp_path, own, name, default, message):
    stored(tmp_path, settings=own)
    base = BaseVersion.find("base", tmp_path)
    base.complete(load_config(None, {**WANTED, name: default}))
    with pytest.raises(ConfigError, match=message):
        base.complete(load_config(None, {**WANTED, name: (default or 1999) + 1}))


def test_an_imported_model_has_its_architecture_in_its_card(tmp_path):
    stored(tmp_path, card={"training": None, "direction": "backward"})
    config = BaseVersion.find("base", tmp_path).complete(load_config(None, WANTED))
    assert (config.cell, config.layers, config.units, config.embedding) == ("lstm", 2, 16, 4)
    assert (config.direction, config.token_unit) == ("backward", "character")


CARDS = {
    "sliding window": {"training": None, "context": 5},
    "several kinds of layers": {"training": None, "cell": None},
    "no embedding": {"training": None, "embedding": 0},
}


@pytest.mark.parametrize("kind", CARDS)
def test_an_imported_model_of_another_architecture_is_refused(tmp_path, kind):
    stored(tmp_path, card=CARDS[kind])
    with pytest.raises(ConfigError, match="from = base:1: this version cannot be trained further: it was imported"):
        BaseVersion.find("base", tmp_path)


def test_a_version_without_a_keras_model_is_refused(tmp_path):
    store(tmp_path, "base")
    with pytest.raises(ConfigError, match=r"base:1: .* it has no model\.keras"):
        BaseVersion.find("base", tmp_path)


def test_a_version_with_a_tokenizer_of_another_library_is_refused(tmp_path):
    stored(tmp_path, tokenizer=ImportedTokenizer(json.loads(MADE["GPT-2"].to_str())))
    with pytest.raises(ConfigError, match=r"base:1: .* imported tokenizer"):
        BaseVersion.find("base", tmp_path)


@pytest.mark.parametrize("reference", ["models/base/1", "base:0", "other", ":1"])
def test_another_reference_is_refused(tmp_path, reference):
    stored(tmp_path)
    with pytest.raises(RepositoryError):
        BaseVersion.find(reference, tmp_path)


def test_a_lineage_has_the_bases_of_the_base(tmp_path):
    first = Ancestor(name="first", version=3, weights_sha256="f" * 64)
    stored(tmp_path, lineage=Lineage(ancestors=(first,), added_tokens=("x",)), card={"weights_sha256": "b" * 64})
    base = BaseVersion.find("base", tmp_path)
    lineage = base.lineage(base.extended_tokenizer(corpus_of("c", ["abcé?"], ends=False)))
    own = Ancestor(name="base", version=1, weights_sha256="b" * 64, corpus="book.txt", corpus_sha256="a" * 64)
    assert lineage == Lineage(ancestors=(own, first), added_tokens=("?", "é"))
    assert lineage.base == "base:1"
