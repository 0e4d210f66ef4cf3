"""Vocabularies of Keras's `TextVectorization` and `StringLookup` give the ids of the layer, or are refused by name."""

import json
import string

import keras
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HuggingFaceTokenizer

from contract.errors import TokenizerError
from contract.tokenizers import CharacterTokenizer, WordTokenizer, load_tokenizer
from contract.tokenizers.pretrained import tokenizer_json
from export.imported.keras_vocabularies import layer_tokenizer, parse_lines, vocabulary_tokenizer
from export.imported.tokenizer import read_tokenizer

StringLookup, TextVectorization = keras.layers.StringLookup, keras.layers.TextVectorization
STANDARDIZE = [None, "lower", "strip_punctuation", "lower_and_strip_punctuation"]
# Letters whose lower case is not ASCII's or has another length, white space that TensorFlow does not split at, and a
# special token's name.
_pieces = [
    *("To", " be", "or", "not ", "Don't", "É", "İ", "Σ", "ς", "日本", "\u00a0", "\u2028", "\x1c", "\x85"),
    *("[UNK]", "<pad>"),
]
_texts = st.lists(
    st.one_of(
        st.sampled_from([*_pieces, *string.punctuation, *" \t\n\v\f\r"]), st.characters(exclude_categories=["Cs"])
    ),
    max_size=20,
).map(lambda parts: "".join(parts).replace("\0", ""))
_learnt = st.lists(_texts, max_size=2).map(lambda texts: ["To be, or not\nto be", *texts])
# All examples share the test's `tmp_path`; each builds and calls a layer.
property_test = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def saved(folder, layer):
    path = folder / "layer.keras"
    keras.Sequential([keras.Input([1], dtype="string"), layer]).save(path)
    return path


def same_ids(tokenizer, ids, text):
    """Require that a tokenizer gives these ids, and one offset within the text for each."""
    assert tokenizer.encode(text) == [int(i) for i in ids]
    offsets = tokenizer.offsets(text)
    assert len(offsets) == len(ids)
    assert offsets == sorted(offsets)
    for offset, token_id in zip(offsets, ids, strict=True):
        assert int(token_id) in tokenizer.textless_ids or text[offset].lower() == tokenizer.tokens[token_id][0].lower()


@property_test
@given(st.sampled_from(STANDARDIZE), st.sampled_from(["whitespace", "character"]), _learnt, _texts)
def test_ids_of_text_vectorization_equal_those_of_the_layer(tmp_path, standardize, split, learned, text):
    layer = TextVectorization(standardize=standardize, split=split)
    layer.adapt(learned)
    tokenizer = read_tokenizer(saved(tmp_path, layer))
    assert len(tokenizer.tokens) == layer.vocabulary_size()
    for each in (text, *learned):
        same_ids(tokenizer, layer([each]).numpy()[0], each)
    assert (tokenizer.special.padding, tokenizer.special.unknown) == (0, 1)


@property_test
@given(st.sampled_from([None, "", "[MASK]"]), st.sampled_from(["[UNK]", "<pad>", "?"]), _learnt, _texts)
def test_ids_of_string_lookup_equal_those_of_the_layer(tmp_path, mask, oov, learned, text):
    vocabulary = sorted(set("".join(learned)) - {oov})
    layer = StringLookup(vocabulary=vocabulary, mask_token=mask, oov_token=oov)
    tokenizer = read_tokenizer(saved(tmp_path, layer))
    assert isinstance(tokenizer, CharacterTokenizer)
    for each in (text, *learned):
        same_ids(tokenizer, layer(tf.strings.unicode_split(each, "UTF-8")).numpy(), each)
    assert tokenizer.special.unknown == (0 if mask is None else 1)


@property_test
@given(st.sampled_from(STANDARDIZE), st.sampled_from(["whitespace", "character"]), _learnt, _texts)
def test_a_saved_tokenizer_loads_as_the_same(tmp_path, standardize, split, learned, text):
    """The gateway loads what the import writes, and Hugging Face's library gives the same ids."""
    layer = TextVectorization(standardize=standardize, split=split)
    layer.adapt(learned)
    config = {**layer.get_config(), "vocabulary": layer.get_vocabulary()}
    tokenizer = layer_tokenizer("TextVectorization", config)
    path = tmp_path / "tokenizer.json"
    path.write_text(tokenizer.to_json(), encoding="utf-8")
    again = load_tokenizer(path)
    assert (again.special, again.encode(text)) == (tokenizer.special, tokenizer.encode(text))
    assert (type(again), again.to_json()) == (type(tokenizer), tokenizer.to_json())
    theirs = HuggingFaceTokenizer.from_str(json.dumps(tokenizer_json(tokenizer)))
    theirs.encode_special_tokens = True
    assert theirs.encode(text, add_special_tokens=False).ids == tokenizer.encode(text)


@pytest.mark.parametrize("suffix", ["txt", "json"])
@pytest.mark.parametrize(
    "layer",
    [
        StringLookup(vocabulary=list("\n !,BTbenort"), mask_token=None),
        StringLookup(vocabulary=["To", "be,", "not"]),
        TextVectorization(vocabulary=["to", "be", "not"]),
        TextVectorization(vocabulary=["To", "be,", "not"], standardize=None),
        TextVectorization(vocabulary=["to", "be,", "not"], standardize="lower"),
        TextVectorization(vocabulary=list("\n benort"), split="character"),
    ],
    ids=["characters", "words", "default", "as it is", "lower", "default characters"],
)
def test_the_vocabulary_alone_gives_the_ids_of_the_layer(tmp_path, layer, suffix):
    terms, text = layer.get_vocabulary(), "To be, or\nnot TO be!"
    path = tmp_path / f"vocabulary.{suffix}"
    path.write_text(json.dumps(terms) if suffix == "json" else "\n".join(terms), encoding="utf-8", newline="")
    tokenizer, is_lookup = read_tokenizer(path), isinstance(layer, StringLookup)
    parts = tf.strings.unicode_split(text, "UTF-8") if isinstance(tokenizer, CharacterTokenizer) else text.split()
    assert tokenizer.encode(text) == (layer(parts) if is_lookup else layer([text])[0]).numpy().tolist()


def test_terms_without_special_tokens_get_those_of_the_layer():
    """The tutorial passes its sorted characters to the layer, which puts the unknown token before them."""
    tokenizer = vocabulary_tokenizer(["\n", "a", "b"])
    assert (tokenizer.tokens, tokenizer.encode("bxa")) == (("[UNK]", "\n", "a", "b"), [3, 0, 2])
    assert tokenizer.special.never_sampled == (0,)


@pytest.mark.parametrize(
    "terms",
    [["\n", "a"], ["", "[UNK]", "\n", "a"], ["", "\n", "a"], ["a", "\n"], ["[UNK]", " ", "\t", "\r", "\n", "x"]],
    ids=str,
)
@pytest.mark.parametrize(
    ("end", "newline"), [("", "\n"), ("\n", "\n"), ("\n", "\r\n")], ids=["bare", "ended", "Windows"]
)
def test_a_newline_is_a_term_of_a_vocabulary_file(terms, end, newline):
    assert parse_lines(("\n".join(terms) + end).replace("\n", newline)) == terms


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\n\nb\n", "line 2 is empty; a vocabulary has a term per line"),
        ("a\nb\na\n", "the vocabulary has 'a' 2 times"),
        ("\n[UNK]\n", "the vocabulary has no terms"),
        ("", "the vocabulary has no terms"),
    ],
)
def test_a_damaged_vocabulary_file_is_refused(tmp_path, content, message):
    path = tmp_path / "vocab.txt"
    path.write_text(content)
    with pytest.raises(TokenizerError, match=r"vocab\.txt: ") as error:
        read_tokenizer(path)
    assert message in str(error.value)


def cleaned(text):
    """Standardize as a tutorial does."""
    return tf.strings.lower(text)


REFUSED = {
    "output_mode": (TextVectorization(output_mode="multi_hot", vocabulary=["a"]), "got 'multi_hot'"),
    "ngrams": (TextVectorization(ngrams=2, vocabulary=["a"]), "got '2'"),
    "standardize": (TextVectorization(standardize=cleaned, vocabulary=["a"]), "got 'function cleaned'"),
    "split": (TextVectorization(split=cleaned, vocabulary=["a"]), "got 'function cleaned'"),
    "split must not be None": (TextVectorization(split=None, vocabulary=["a"]), "lower_and_strip_punctuation"),
    "encoding": (StringLookup(encoding="latin-1", vocabulary=["a"]), "got 'latin-1'"),
    "num_oov_indices": (StringLookup(num_oov_indices=3, vocabulary=["a"]), "got '3'"),
    "num_oov_indices must be 1": (StringLookup(num_oov_indices=0, vocabulary=["a"]), "got 0"),
}


@pytest.mark.parametrize("option", REFUSED)
def test_an_unsupported_option_is_refused_by_name(tmp_path, option):
    layer, given_value = REFUSED[option]
    with pytest.raises(TokenizerError, match=f"layer.keras: {type(layer).__name__}: {option}") as error:
        read_tokenizer(saved(tmp_path, layer))
    assert given_value in str(error.value)


def test_text_that_is_split_before_the_layer_is_split_by_its_terms(tmp_path):
    characters = TextVectorization(split=None, standardize="lower", vocabulary=list("\n abc"))
    words = TextVectorization(split=None, standardize=None, vocabulary=["a", "cab"])
    by_characters, by_words = (read_tokenizer(saved(tmp_path, layer)) for layer in (characters, words))
    assert by_characters.encode("A cab") == characters([list("A cab")]).numpy()[0].tolist()
    assert isinstance(by_words, WordTokenizer)
    assert by_words.encode("A cab") == words([["A", "cab"]]).numpy()[0].tolist()


def test_a_model_may_be_larger_than_a_tokenizer_file(tmp_path, monkeypatch):
    path = saved(tmp_path, TextVectorization(vocabulary=["a"]))
    monkeypatch.setattr("export.imported.tokenizer.MAX_BYTES", 100)
    assert read_tokenizer(path).tokens == ("<pad>", "[UNK]", "a")


def test_a_file_without_such_a_layer_or_with_two_is_refused(tmp_path):
    path = tmp_path / "model.keras"
    keras.Sequential([keras.Input([3]), keras.layers.Dense(2)]).save(path)
    with pytest.raises(TokenizerError, match=r"model\.keras: it has no TextVectorization or StringLookup layer"):
        read_tokenizer(path)
    text = keras.Input([1], dtype="string")
    outputs = [StringLookup(vocabulary=["a"], name=name)(text) for name in ("first", "second")]
    keras.Model(text, outputs).save(path)
    with pytest.raises(TokenizerError, match=r"one .* layer is supported, got 2: first, second"):
        read_tokenizer(path)
