"""All tokenizer units: encoding, decoding, special tokens and files; for words, Keras's tokenizer is the oracle."""

import json
import os
import subprocess
import sys
import tracemalloc
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras.src.legacy.preprocessing.text import Tokenizer as KerasTokenizer

from contract.errors import TokenizerError
from contract.tokenizers import (
    CharacterTokenizer,
    ExactWordTokenizer,
    RegexTokenizer,
    SubwordTokenizer,
    WordTokenizer,
    load_tokenizer,
)
from contract.tokenizers.base import END
from tests.paths import ROOT
from tests.unit.contract.scripts import ALL
from tests.unit.contract.scripts import texts as scripted

KINDS = [CharacterTokenizer, WordTokenizer, ExactWordTokenizer, SubwordTokenizer]
texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=80)


def learn(kind, text, **options):
    return kind.train(text if kind is CharacterTokenizer else [text], **options)


@pytest.mark.parametrize("kind", [CharacterTokenizer, ExactWordTokenizer])
@settings(max_examples=200)
@given(learned=texts | scripted, text=texts | scripted)
def test_only_a_character_outside_the_training_text_is_unknown(kind, learned, text):
    """The unknown token has no text."""
    tokenizer = learn(kind, learned)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == "".join(c for c in text if c in learned)
    unknown = [i == tokenizer.special.unknown for i in ids]
    assert sum(unknown) == sum(c not in learned for c in text)
    if kind is CharacterTokenizer:
        assert unknown == [c not in learned for c in text]


@settings(max_examples=400)
@given(learned=st.lists(texts, max_size=4), text=texts, num_words=st.none() | st.integers(3, 12))
def test_words_equal_those_of_keras(learned, text, num_words):
    """Word index and sequences are those of Keras's legacy tokenizer, on any text; the same rare words are unknown."""
    oracle = KerasTokenizer(num_words=num_words, oov_token="<OOV>")
    oracle.fit_on_texts(learned)
    tokenizer = WordTokenizer.train(learned, num_words=num_words)
    kept = {word: i for word, i in oracle.word_index.items() if num_words is None or i < num_words}
    assert tokenizer.word_index == kept
    assert [tokenizer.encode(each) for each in (text, *learned)] == oracle.texts_to_sequences([text, *learned])


@pytest.mark.parametrize(
    ("kind", "limit", "message"),
    [
        (WordTokenizer, {"num_words": 2}, r"num_words must be at least 3 .*, got 2"),
        (ExactWordTokenizer, {"num_words": 2}, r"num_words must be at least 3 .*, got 2"),
        (ExactWordTokenizer, {"vocab_size": 5}, r"at least 6 \(characters and special tokens\), got 5"),
        (SubwordTokenizer, {"vocab_size": 258}, r"at least 259 \(bytes and special tokens\), got 258"),
    ],
)
def test_a_limit_that_is_too_small_is_rejected(kind, limit, message):
    with pytest.raises(TokenizerError, match=message):
        kind.train(["a b"], **limit)


@pytest.mark.parametrize("end_token", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_have_no_text_and_only_eos_can_be_sampled(kind, end_token):
    """The EOS token exists only with documents, and starts the next one."""
    tokenizer = learn(kind, "some text", end_token=end_token)
    special = tokenizer.special
    assert tokenizer.decode([special.padding, special.unknown, special.start]) == ""
    assert tokenizer.textless_ids == {i for i in range(len(tokenizer.tokens)) if not tokenizer.decode([i])}
    assert (special.end is not None) == end_token
    assert special.end not in special.never_sampled
    if end_token:
        assert special.start == special.end
        assert tokenizer.tokens[special.end] == END
    else:
        assert special.start in special.never_sampled
    assert {special.padding, special.unknown} <= set(special.never_sampled)


@pytest.mark.parametrize("name", ["<pad>", "<unk>", "<start>", "<end>"])
@pytest.mark.parametrize("kind", [CharacterTokenizer, ExactWordTokenizer, SubwordTokenizer])
def test_the_name_of_a_special_token_is_encoded_as_text(kind, name):
    """A prompt cannot inject a special token, even if the training text is full of its name."""
    tokenizer = learn(kind, name * 9 + " " + name, end_token=True)
    assert not set(tokenizer.encode(name)) & tokenizer.special.ids
    assert tokenizer.decode(tokenizer.encode(name)) == name


@pytest.mark.parametrize(("follows", "space"), [("", ""), ("a", " "), ("a ", ""), ("a\n", "")], ids=repr)
def test_one_space_separates_words_from_the_prompt(follows, space):
    tokenizer = WordTokenizer.train(["a b"])
    detokenizer = tokenizer.detokenizer(follows)
    a, b = tokenizer.encode("a b")
    assert detokenizer.feed([b]) + detokenizer.feed([0]) + detokenizer.feed([a, b]) == f"{space}b a b"


@pytest.mark.parametrize("end_token", [False, True])
@pytest.mark.parametrize("kind", [*KINDS, ["smiles"], ["fields"], [r"\|", r"[\s\S]x|ab"]], ids=str)
def test_a_tokenizer_is_loaded_from_its_file_unchanged(kind, end_token, tmp_path):
    kind = partial(RegexTokenizer.train, regexes=kind) if isinstance(kind, list) else partial(learn, kind)
    tokenizer = kind(ALL * 2, end_token=end_token)
    path = tmp_path / "tokenizer.json"
    path.write_text(tokenizer.to_json(), encoding="utf-8")
    again = load_tokenizer(path)
    assert (type(again), again.special, again.unit) == (type(tokenizer), tokenizer.special, tokenizer.unit)
    assert again.encode(ALL) == tokenizer.encode(ALL)
    assert again.to_json() == tokenizer.to_json()


def test_training_is_byte_reproducible():
    code = (
        "import contract.tokenizers as t; from tests.unit.contract.scripts import ALL; "
        f"print([getattr(t, kind).train([ALL, ALL[::-1], ALL]).to_json() for kind in {[k.__name__ for k in KINDS]}])"
    )
    environments = ({**os.environ, "PYTHONHASHSEED": seed} for seed in "12")
    first, second = (subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, env=env) for env in environments)
    assert first == second


@pytest.mark.parametrize(
    "content",
    [
        '{"model": {"vocab": {"<pad>": 0, "<unk>": 2}, "unk_token": "<unk>"}}',
        '{"model": {"vocab": {"<pad>": 0}, "type": "BPE"}}',
        *("", "[]", '{"model": 5}', "\x00\x01", "[" * 100_000),
    ],
    ids=lambda content: content[:40],
)
def test_a_file_that_is_no_tokenizer_is_rejected_by_name(content, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(TokenizerError, match=r"^.*tokenizer\.json: [^\n]+$"):
        load_tokenizer(path)


def change(kind, part, key, value):
    document = json.loads(learn(kind, "the cat the cat").to_json())
    (document if part is None else document[part])[key] = value(document) if callable(value) else value
    return document


def without(token):
    """Return a function that removes a token from a vocabulary and renumbers the ids."""

    def shortened(document):
        tokens = [kept for kept in document["model"]["vocab"] if kept != token]
        return {kept: i for i, kept in enumerate(tokens)}

    return shortened


UNSUPPORTED = "does not support its normalizer or pre_tokenizer"
DAMAGES = {
    "a byte is missing": ((SubwordTokenizer, "model", "vocab", without("Z")), "all 256 bytes, and 'Z' is missing"),
    "a token in no byte's letters": (
        (SubwordTokenizer, "model", "vocab", lambda d: {**d["model"]["vocab"], "日": len(d["model"]["vocab"])}),
        "token '日' is not written in GPT-2's alphabet",
    ),
    "a merge of what is not there": ((SubwordTokenizer, "model", "merges", [["a", "qq"]]), "merge 'a' 'qq'"),
    "a merge that makes what is not there": ((SubwordTokenizer, "model", "merges", [["q", "z"]]), "merge 'q' 'z'"),
    "a merge with nothing": ((SubwordTokenizer, "model", "merges", [["", "a"]]), "merge '' 'a'"),
    "a merge of three": ((SubwordTokenizer, "model", "merges", [["a", "b", "c"]]), "not a tokenizer file"),
    "merges that are none": ((SubwordTokenizer, "model", "merges", 5), "not a tokenizer file"),
    "merges are missing": ((SubwordTokenizer, "model", "merges", None), "not a tokenizer file"),
    "another rule of words": ((WordTokenizer, None, "pre_tokenizer", {"type": "Whitespace"}), UNSUPPORTED),
    "another rule": ((SubwordTokenizer, None, "pre_tokenizer", None), UNSUPPORTED),
    "a normalizer": ((ExactWordTokenizer, None, "normalizer", {"type": "NFC"}), UNSUPPORTED),
    "words with merges": ((ExactWordTokenizer, "model", "merges", [["t", "h"]]), "exact words have no merges"),
    "another unknown token": ((ExactWordTokenizer, "model", "unk_token", "[UNK]"), "unk_token '<unk>', got '[UNK]'"),
    "no unknown token": ((ExactWordTokenizer, "model", "vocab", without("<unk>")), "needs <pad> = 0 and <unk>"),
    "half of a character": (
        (ExactWordTokenizer, "model", "vocab", lambda d: {**d["model"]["vocab"], "\ud800": len(d["model"]["vocab"])}),
        "Hugging Face's library cannot read it: ",
    ),
    "no padding": ((WordTokenizer, "model", "vocab", lambda d: {"a": 0, "<OOV>": 1}), "a vocabulary needs <pad> = 0"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_inconsistent_tokenizer_file_is_rejected_when_it_is_read(damage, tmp_path):
    arguments, message = DAMAGES[damage]
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(change(*arguments)))
    with pytest.raises(TokenizerError, match=r"^.*tokenizer\.json: [^\n]+$") as error:
        load_tokenizer(path)
    assert message in str(error.value)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60)
@given(learned=texts, text=texts)
def test_no_token_is_longer_than_max_token_characters(kind, learned, text):
    tokenizer = learn(kind, learned + "the cat sat on the mat" * 2)
    longest = tokenizer.max_token_characters
    assert (longest is None) == (kind is WordTokenizer)
    assert len(tokenizer.encode(text)) >= (0 if longest is None else len(text) / longest)


@pytest.mark.parametrize("kind", [CharacterTokenizer, WordTokenizer])
@pytest.mark.parametrize("text", ["a-", "ώώ-", "the cat ", "ÀB."], ids=ascii)
def test_encoding_takes_at_most_encoding_bytes(kind, text):
    tokenizer, whole = learn(kind, "the cat sat"), text * 50_000
    tokenizer.encode(text)
    tracemalloc.start()
    tokenizer.encode(whole)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak <= tokenizer.encoding_bytes(len(whole.encode()))


@pytest.mark.parametrize("kind", KINDS)
def test_an_extended_tokenizer_encodes_known_text_as_before(kind):
    tokenizer = learn(kind, "the cat sat on the mat, the cat sat.")
    extended = tokenizer.extended(["the ünï", "cat☂!"], end_token=False)
    assert extended.tokens[: len(tokenizer)] == tokenizer.tokens
    new = extended.tokens[len(tokenizer) :]
    assert new == (("!", "ï", "ü", "☂") if kind in {CharacterTokenizer, ExactWordTokenizer} else ())
    assert extended.encode("the mat") == tokenizer.encode("the mat")
    assert extended.special == tokenizer.special
    if new:
        assert extended.decode(extended.encode("ü☂!")) == "ü☂!"


@pytest.mark.parametrize("kind", KINDS)
def test_an_extended_tokenizer_gets_the_end_token_of_documents(kind, tmp_path):
    tokenizer = learn(kind, "the cat sat on the mat, the cat sat.")
    extended = tokenizer.extended(["the mat"], end_token=True)
    assert len(extended) == len(tokenizer)
    assert extended.special.end == extended.special.start == tokenizer.special.start
    (tmp_path / "t.json").write_text(extended.to_json())
    again = [extended.extended([], end_token=end_token) for end_token in (True, False)]
    assert {each.to_json() for each in (*again, load_tokenizer(tmp_path / "t.json"))} == {extended.to_json()}


def test_characters_are_added_as_the_tokenizer_sees_them():
    """A tokenizer that lower-cases has no new characters in capitals."""
    tokenizer = CharacterTokenizer(["<pad>", "<unk>", *"abc"], lower=True)
    extended = tokenizer.extended(["ABÜ"], end_token=True)
    assert extended.tokens == (*tokenizer.tokens, "<end>", "ü")
    assert extended.encode("AÜ") == [2, 6]
