"""Characters and words, with Keras's own tokenizer as the oracle for words; and what holds for every unit of text."""

import itertools
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras.src.legacy.preprocessing.text import Tokenizer as KerasTokenizer
from tokenizers import Tokenizer as HuggingFaceTokenizer

from contract.errors import TokenizerError
from contract.tokenizer import (
    CharacterTokenizer,
    ExactWordTokenizer,
    SubwordTokenizer,
    WordTokenizer,
    load_tokenizer,
)
from contract.tokenizers.vocabulary import END
from tests.unit.contract.scripts import ALL, SCRIPTS

KINDS = [CharacterTokenizer, WordTokenizer, ExactWordTokenizer, SubwordTokenizer]
texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=80)


def learn(kind, text, **options):
    """Train a tokenizer of any kind."""
    return kind.train(text if kind is CharacterTokenizer else [text], **options)


@pytest.mark.parametrize("text", SCRIPTS.values(), ids=SCRIPTS)
def test_characters_come_back_as_they_were(text):
    """Decoding what was encoded gives the same text, in any script."""
    tokenizer = CharacterTokenizer.train(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(deadline=None, max_examples=200)
@given(learnt=texts, text=texts)
def test_an_unseen_character_is_unknown_and_every_other_one_itself(learnt, text):
    """Each character is one id: its own where the vocabulary has it, else the unknown token, which has no text."""
    tokenizer = CharacterTokenizer.train(learnt)
    ids = tokenizer.encode(text)
    assert len(ids) == len(text)
    assert tokenizer.decode(ids) == "".join(c for c in text if c in learnt)
    assert all((i == tokenizer.special.unknown) == (c not in learnt) for c, i in zip(text, ids, strict=True))


@settings(deadline=None, max_examples=300)
@given(learnt=st.lists(texts, max_size=4), text=texts)
def test_words_are_kerass_words(learnt, text):
    """Word index and sequences equal those of Keras's legacy tokenizer, on any text."""
    oracle = KerasTokenizer(oov_token="<OOV>")
    oracle.fit_on_texts(learnt)
    tokenizer = WordTokenizer.train(learnt)
    assert tokenizer.word_index == oracle.word_index
    assert tokenizer.encode(text) == oracle.texts_to_sequences([text])[0]


@settings(deadline=None, max_examples=200)
@given(learnt=st.lists(texts, min_size=1, max_size=4), num_words=st.integers(3, 12))
def test_num_words_cuts_the_vocabulary_where_keras_does(learnt, num_words):
    """With num_words, rare words become unknown exactly where Keras makes them so."""
    oracle = KerasTokenizer(num_words=num_words, oov_token="<OOV>")
    oracle.fit_on_texts(learnt)
    tokenizer = WordTokenizer.train(learnt, num_words=num_words)
    assert [tokenizer.encode(text) for text in learnt] == oracle.texts_to_sequences(learnt)
    assert tokenizer.word_index == {word: i for word, i in oracle.word_index.items() if i < num_words}


def test_words_need_room_for_at_least_one():
    """A num_words that leaves no word is refused with the bound and the value."""
    with pytest.raises(TokenizerError, match=r"num_words must be at least 3 .*, got 2"):
        WordTokenizer.train(["a b"], num_words=2)


@pytest.mark.parametrize("end_token", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_have_no_text_and_only_the_end_may_be_drawn(kind, end_token):
    """Padding, unknown and start are never drawn; the end token exists only for documents, and begins the next one."""
    tokenizer = learn(kind, "some text", end_token=end_token)
    special = tokenizer.special
    assert tokenizer.decode([special.padding, special.unknown, special.start]) == ""
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
def test_the_name_of_a_special_token_in_a_text_is_only_text(kind, name):
    """A prompt cannot smuggle a special token in by spelling it, though the corpus is full of it."""
    tokenizer = learn(kind, name * 9 + " " + name, end_token=True)
    assert not set(tokenizer.encode(name)) & set(vars(tokenizer.special).values())
    assert tokenizer.decode(tokenizer.encode(name)) == name


@pytest.mark.parametrize(
    ("follows", "expected"), [("", "b a b"), ("a", " b a b"), ("a ", "b a b"), ("a\n", "b a b")], ids=repr
)
def test_words_are_set_off_from_the_prompt_by_one_space(follows, expected):
    """The first word gets a space only where the text before it does not end in white space."""
    tokenizer = WordTokenizer.train(["a b"])
    detokenizer = tokenizer.detokenizer(follows)
    a, b = tokenizer.encode("a b")
    assert detokenizer.feed([b]) + detokenizer.feed([0]) + detokenizer.feed([a, b]) == expected


@settings(deadline=None)
@given(text=st.text("abc \n.é", max_size=60), cuts=st.lists(st.integers(0, 60), max_size=5))
@pytest.mark.parametrize("kind", KINDS)
def test_pieces_joined_are_the_whole_text(kind, text, cuts):
    """However the ids are cut into chunks, the pieces joined are the text of all of them."""
    tokenizer = learn(kind, text)
    ids = tokenizer.encode(text)
    bounds = [0, *sorted(min(cut, len(ids)) for cut in cuts), len(ids)]
    detokenizer = tokenizer.detokenizer()
    pieces = [detokenizer.feed(ids[a:b]) for a, b in itertools.pairwise(bounds)]
    assert "".join(pieces) + detokenizer.flush() == tokenizer.decode(ids)


@pytest.mark.parametrize("end_token", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_gives_the_same_tokenizer_again(kind, end_token, tmp_path):
    """What is written and read is equal, special ids included."""
    tokenizer = learn(kind, ALL * 2, end_token=end_token)
    path = tmp_path / "tokenizer.json"
    path.write_text(tokenizer.to_json(), encoding="utf-8")
    again = load_tokenizer(path)
    assert again == tokenizer
    assert again.special == tokenizer.special
    assert again.encode(ALL) == tokenizer.encode(ALL)
    assert again.to_json() == tokenizer.to_json()


@pytest.mark.parametrize("kind", KINDS)
def test_two_trainings_give_one_file(kind):
    """To the byte, and in processes whose sets and dictionaries are in another order."""
    code = (
        "from contract import tokenizer as t; from tests.unit.contract.scripts import ALL; import hashlib; "
        f"made = t.{kind.__name__}.train({'ALL' if kind is CharacterTokenizer else '[ALL, ALL[::-1], ALL]'}); "
        "print(hashlib.sha256(made.to_json().encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=Path(__file__).parents[3],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("kind", "text"), [(CharacterTokenizer, "Abc, dé\n!"), (WordTokenizer, "The cat, the DOG! (a)")]
)
def test_the_file_is_one_that_hugging_faces_library_reads(kind, text):
    """The library that names the format encodes like us, but for words whose lower case depends on their neighbours."""
    tokenizer = kind.train([text] if kind is WordTokenizer else text)
    theirs = HuggingFaceTokenizer.from_str(tokenizer.to_json())
    assert theirs.encode(text).ids == tokenizer.encode(text)
    assert theirs.decode(tokenizer.encode(text)) == tokenizer.decode(tokenizer.encode(text))


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"model": 5}',
        '{"model": {"vocab": {"<pad>": 0, "<unk>": 2}, "unk_token": "<unk>"}}',
        '{"model": {"vocab": {"<pad>": 0}, "type": "BPE"}}',
        "\x00\x01",
        "[" * 100_000,
    ],
    ids=lambda content: content[:40],
)
def test_a_damaged_file_is_named(content, tmp_path):
    """Whatever a file holds that is no tokenizer, the error is one line and names the file."""
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(TokenizerError, match=r"^.*tokenizer\.json: [^\n]+$"):
        load_tokenizer(path)


def change(kind, part, key, value):
    """Return a tokenizer's document with something else in one place."""
    document = json.loads(learn(kind, "the cat the cat").to_json())
    (document if part is None else document[part])[key] = value(document) if callable(value) else value
    return document


def without(token):
    """Leave a token out; the ids close up."""

    def shortened(document):
        tokens = [kept for kept in document["model"]["vocab"] if kept != token]
        return {kept: i for i, kept in enumerate(tokens)}

    return shortened


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
    "another rule": (
        (SubwordTokenizer, None, "pre_tokenizer", None),
        "does not support its normalizer or pre_tokenizer",
    ),
    "a normalizer": (
        (ExactWordTokenizer, None, "normalizer", {"type": "NFC"}),
        "does not support its normalizer or pre_tokenizer",
    ),
    "words with merges": ((ExactWordTokenizer, "model", "merges", [["t", "h"]]), "exact words have no merges"),
    "another unknown token": ((ExactWordTokenizer, "model", "unk_token", "[UNK]"), "unk_token '<unk>', got '[UNK]'"),
    "no padding": ((ExactWordTokenizer, "model", "vocab", without("<pad>")), "a vocabulary needs <pad> = 0"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_is_damaged_inside_is_told_in_one_line(damage, tmp_path):
    """When it is read, not when the first text is encoded."""
    arguments, message = DAMAGES[damage]
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(change(*arguments)))
    with pytest.raises(TokenizerError, match=r"^.*tokenizer\.json: [^\n]+$") as error:
        load_tokenizer(path)
    assert message in str(error.value)


def test_a_token_that_stands_twice_is_named():
    """A vocabulary with a repeated token is refused."""
    with pytest.raises(TokenizerError, match="'a' occurs twice"):
        CharacterTokenizer(["<pad>", "<unk>", "<start>", "a", "a"])


def test_a_vocabulary_of_another_kind_is_refused(tmp_path):
    """Text must not be cut in another way than the file says."""
    path = tmp_path / "tokenizer.json"
    rule = {"normalizer": {"type": "Sequence", "normalizers": []}, "pre_tokenizer": {"type": "Whitespace"}}
    path.write_text(json.dumps({"model": {"vocab": {"[PAD]": 0}, "unk_token": "[UNK]"}, **rule}))
    with pytest.raises(TokenizerError, match="does not support its normalizer or pre_tokenizer"):
        load_tokenizer(path)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=60)
@given(learnt=texts, text=texts)
def test_a_text_has_as_many_tokens_as_its_length_says(kind, learnt, text):
    """No token stands for more characters than the tokenizer says, so length alone can refuse a text."""
    tokenizer = learn(kind, learnt + "the cat sat on the mat" * 2)
    longest = tokenizer.max_token_characters
    assert (longest is None) == (kind is WordTokenizer)
    assert len(tokenizer.encode(text)) >= (0 if longest is None else len(text) / longest)


@pytest.mark.parametrize("kind", [CharacterTokenizer, WordTokenizer])
@pytest.mark.parametrize("text", ["a-", "ώώ-", "the cat ", "ÀB."], ids=ascii)
def test_encoding_takes_no_more_memory_than_it_says(kind, text):
    """At its worst, which is words of one character; what the library takes is not seen from here."""
    tokenizer, whole = learn(kind, "the cat sat"), text * 50_000
    tokenizer.encode(text)
    tracemalloc.start()
    tokenizer.encode(whole)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak <= tokenizer.encoding_bytes(len(whole.encode()))
