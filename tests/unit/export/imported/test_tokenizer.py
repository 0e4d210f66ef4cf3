"""Imported tokenizers: those of Keras encode as Keras does, and unreadable files are refused with a one-line error."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from keras.src.legacy.preprocessing.text import Tokenizer as KerasTokenizer
from tokenizers import Tokenizer as HuggingFaceTokenizer
from tokenizers import models, pre_tokenizers

from contract.errors import TokenizerError
from contract.tokenizers import (
    CharacterTokenizer,
    ExactWordTokenizer,
    ImportedTokenizer,
    SubwordTokenizer,
    WordTokenizer,
    load_tokenizer,
)
from export.imported.tokenizer import read_tokenizer
from tests.unit.contract.scripts import ALL, SCRIPTS, texts

# Characters that lowercasing, filters and separators treat specially.
_odd = st.text(alphabet="aAbBİΣσς. -|,!\\]^[\t\n\0é<>", max_size=40)
_any_text = st.one_of(texts, _odd, st.sampled_from([*SCRIPTS.values()]))
options = st.fixed_dictionaries(
    {
        "filters": st.one_of(st.just(KerasTokenizer().filters), st.text("aAİςi.-|!\\]^[&\t\n\0 é", max_size=6)),
        "lower": st.booleans(),
        "split": st.one_of(st.just(" "), st.text(" -|a.\n", min_size=1, max_size=3)),
        "char_level": st.booleans(),
        "oov_token": st.sampled_from([None, "<OOV>", "[unk]", "UNK", "a b"]),
        "num_words": st.one_of(st.none(), st.integers(0, 30)),
    }
)
# All examples of a property share the test's `tmp_path`.
property_test = settings(
    deadline=None,
    max_examples=300,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much],
)


def fitted(learned, **options):
    oracle = KerasTokenizer(**options)
    oracle.fit_on_texts(learned)
    return oracle


def write(folder, content, name="tokenizer.json"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def servable(oracle):
    """Return whether the oracle encodes some word and gives each word an id of its own.

    An OOV token that is also a word of the text shares its id.
    """
    index, limit = oracle.word_index, oracle.num_words or len(oracle.word_index) + 1
    if oracle.oov_token is not None and index.get(oracle.oov_token, 0) != 1:
        return False
    return limit > 1 and any(i < limit for word, i in index.items() if word != oracle.oov_token)


@property_test
@given(options=options, learned=st.lists(_any_text, min_size=1, max_size=3), text=_any_text)
def test_ids_equal_those_of_keras(tmp_path, options, learned, text):
    oracle = fitted(learned, **options)
    assume(servable(oracle))
    tokenizer = read_tokenizer(write(tmp_path, oracle.to_json()))
    again = load_tokenizer(write(tmp_path, tokenizer.to_json(), "again.json"))
    assert type(again) is type(tokenizer)
    assert (again.special, again.to_json()) == (tokenizer.special, tokenizer.to_json())
    for each in (text, *learned):
        assert tokenizer.encode(each) == again.encode(each) == oracle.texts_to_sequences([each])[0]


@property_test
@given(options=options, learned=st.lists(_any_text, min_size=1, max_size=3), text=_any_text)
def test_offsets_point_at_the_words_of_the_text(tmp_path, options, learned, text):
    oracle = fitted(learned, **options)
    assume(servable(oracle))
    tokenizer = read_tokenizer(write(tmp_path, oracle.to_json()))
    offsets = tokenizer.offsets(text)
    assert offsets == sorted(offsets)
    for place, token_id in zip(offsets, tokenizer.encode(text), strict=True):
        first = tokenizer.decode([token_id])[:1]
        source = text[place]
        # The lower case of Σ depends on its neighbors.
        lowered = source.lower() + ("ς" if source == "Σ" else "")
        assert first in (lowered if options["lower"] else source)


@property_test
@given(options=options, learned=st.lists(_any_text, min_size=1, max_size=3), text=_any_text)
def test_the_tokenizers_library_gives_the_same_ids(tmp_path, options, learned, text):
    text = text.replace("Σ", "").replace("<", "").replace("\0", "")
    oracle = fitted([each.replace("Σ", "").replace("<", "") for each in learned], **options)
    assume(servable(oracle))
    tokenizer = read_tokenizer(write(tmp_path, oracle.to_json()))
    # The library parses the name of the OOV token as the token itself.
    assume(oracle.oov_token is None or oracle.oov_token not in text)
    theirs = HuggingFaceTokenizer.from_str(tokenizer.to_json()).encode(text).ids
    assert [i for i in theirs if i] == tokenizer.encode(text)


@pytest.mark.parametrize("times", [1, 2])
def test_json_within_a_json_string_is_read(tmp_path, times):
    """`json.dump(tokenizer.to_json(), file)` is common in notebooks."""
    oracle = fitted(["the cat sat"], oov_token="<unk>")
    content = oracle.to_json()
    if times == 2:
        content = json.dumps(content)
    assert read_tokenizer(write(tmp_path, content)).encode("The dog") == oracle.texts_to_sequences(["The dog"])[0]


def test_an_unknown_word_becomes_the_oov_token_or_is_dropped(tmp_path):
    """Keras does the same. Without an OOV token, the unknown token is padding, which is never sampled."""
    with_token = read_tokenizer(write(tmp_path, fitted(["a b"], oov_token="[?]").to_json()))
    without = read_tokenizer(write(tmp_path, fitted(["a b"]).to_json()))
    assert with_token.tokens == ("<pad>", "[?]", "a", "b")
    assert (with_token.encode("b c a"), with_token.decode([1, 2])) == ([3, 1, 2], "a")
    assert without.tokens == ("<pad>", "a", "b")
    assert (without.encode("b c a"), without.offsets("b c a")) == ([2, 1], [0, 4])
    assert (without.special.unknown, without.special.never_sampled) == (0, (0,))
    assert without.encode("x y") == []


def test_without_special_words_padding_is_the_start_token_and_no_eos_exists(tmp_path):
    special = read_tokenizer(write(tmp_path, fitted(["a b"], oov_token="<OOV>").to_json())).special
    assert (special.start, special.end, special.never_sampled) == (0, None, (0, 1))


def test_start_and_end_words_are_special_tokens_that_prompts_may_contain(tmp_path):
    """Texts of Keras's own examples stand between `<start>` and `<end>`."""
    oracle = fitted(["<start> a man <end>", "<start> a dog <end>"], filters="", oov_token="<unk>")
    tokenizer = read_tokenizer(write(tmp_path, oracle.to_json()))
    start, end = oracle.word_index["<start>"], oracle.word_index["<end>"]
    assert (tokenizer.special.start, tokenizer.special.end) == (start, end)
    assert start in tokenizer.special.never_sampled
    assert end not in tokenizer.special.never_sampled
    ids = tokenizer.encode("<start> a dog <end>")
    assert ids == oracle.texts_to_sequences(["<start> a dog <end>"])[0]
    assert tokenizer.decode(ids) == "a dog"


def test_a_pad_word_with_id_0_is_padding_and_with_another_id_a_word(tmp_path):
    """Some notebooks add `<pad>` to the index. Where it is a word of the text, the padding token gets another name."""
    oracle = fitted(["a b"])
    oracle.word_index["<pad>"] = 0
    assert read_tokenizer(write(tmp_path, oracle.to_json())).tokens == ("<pad>", "a", "b")
    oracle = fitted(["a <pad> <pad>"], filters="")
    tokenizer = read_tokenizer(write(tmp_path, oracle.to_json()))
    assert tokenizer.tokens == ("<pad>_", "<pad>", "a")
    assert tokenizer.encode("a <pad>") == [2, 1]
    assert load_tokenizer(write(tmp_path, tokenizer.to_json())).to_json() == tokenizer.to_json()


@pytest.mark.parametrize(
    ("options", "follows", "expected"),
    [
        ({"split": "\n", "filters": ""}, "x", "\na b\nc"),
        ({"split": "\n", "filters": ""}, "x\n", "a b\nc"),
        ({"split": "\n", "filters": ""}, "x ", "\na b\nc"),
        ({"split": "::", "filters": ""}, "", "a b\nc"),
        ({"char_level": True}, "x", "ab"),
    ],
)
def test_decoding_joins_words_with_their_separator(tmp_path, options, follows, expected):
    tokenizer = read_tokenizer(write(tmp_path, fitted(["a b\nc"], **options).to_json()))
    ids = [i for i in tokenizer.encode("a b\nc") if tokenizer.decode([i]).strip()]
    if options.get("char_level"):
        ids = ids[:2]
    detokenizer = tokenizer.detokenizer(follows)
    assert "".join(detokenizer.feed([i]) for i in ids) == expected
    backward = tokenizer.detokenizer(backward=True)
    assert "".join([backward.feed([i]) for i in ids[::-1]][::-1]) == tokenizer.decode(ids)


@pytest.mark.parametrize("kind", [CharacterTokenizer, WordTokenizer, ExactWordTokenizer, SubwordTokenizer])
def test_this_projects_own_tokenizer_files_are_read(tmp_path, kind):
    """The tokenizer of a published version can be wrapped again."""
    tokenizer = kind.train(ALL if kind is CharacterTokenizer else [ALL])
    assert read_tokenizer(write(tmp_path, tokenizer.to_json())).to_json() == tokenizer.to_json()


def test_a_hugging_face_tokenizer_is_imported(tmp_path):
    vocabulary = {"<pad>": 0, "<unk>": 1, "cat": 2}
    library = HuggingFaceTokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    library.add_special_tokens(["<pad>", "<unk>"])
    tokenizer = read_tokenizer(write(tmp_path, library.to_str()))
    assert isinstance(tokenizer, ImportedTokenizer)
    assert tokenizer.encode("cat dog") == [2, 1]
    assert load_tokenizer(write(tmp_path, tokenizer.to_json())).to_json() == tokenizer.to_json()


def test_a_vocabulary_may_begin_like_a_pickle(tmp_path):
    (tmp_path / "words.txt").write_bytes(b"cat\nsat\nmat\n")
    assert {"cat", "sat", "mat"} < set(read_tokenizer(tmp_path / "words.txt").tokens)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", ["my tokenizer's.pickle", "t.PKL", "tokenizer.bin"])
def test_a_pickle_is_refused_with_a_working_conversion_command(tmp_path, monkeypatch, name, protocol):
    """Unpickling can execute arbitrary code. The command converts it where it was written and is trusted."""
    monkeypatch.chdir(tmp_path)
    oracle = fitted(["The cat"], oov_token="<OOV>")
    Path(name).write_bytes(pickle.dumps(oracle, protocol))
    with pytest.raises(TokenizerError, match=r"^[^\n]+ can execute arbitrary code,[^\n]+$") as error:
        read_tokenizer(Path(name))
    command = str(error.value).partition("with: ")[2]
    assert command.startswith("python -c ")
    if (name, protocol) == ("my tokenizer's.pickle", 4):
        command = command.replace("python", sys.executable, 1)
        subprocess.run(command, shell=True, check=True, env={"TF_CPP_MIN_LOG_LEVEL": "3"})
        assert read_tokenizer(Path("my tokenizer's.json")).encode("a cat") == [1, 3]


def changed(**changes):
    document = json.loads(fitted(["a b c"], oov_token="<OOV>").to_json())
    document["config"].update(changes)
    return json.dumps(document)


def index(**ids):
    """Return a word index as Keras writes it."""
    return json.dumps({"<OOV>": 1, **ids})


BAD = {
    "nothing": ("", "this is not JSON"),
    "text": ("the\ncat\n", "this is not JSON"),
    "half": (changed()[:-9], "this is not JSON"),
    "a list": ("[1, 2]", "JSON is not a tokenizer: list"),
    "a string in a string": (json.dumps(json.dumps("x")), "JSON is not a tokenizer: str"),
    "deep": ("[" * 100_000, "this is not JSON"),
    "another object": ('{"a": {}}', "neither class_name nor model"),
    "a vocabulary": ('{"the": 1, "cat": 2}', "only an index, without the rules of tokenization"),
    "another class": ('{"class_name": "TextVectorization"}', "class_name must be 'Tokenizer', got 'TextVectorization'"),
    "no config": ('{"class_name": "Tokenizer"}', "config: "),
    "no index": ('{"class_name": "Tokenizer", "config": {}}', "word_index: Field required"),
    "an index of no JSON": (changed(word_index="{"), "word_index: "),
    "words without ids": (changed(word_index='{"a": "b"}'), "word_index.a: "),
    "a gap": (changed(word_index=index(a=2, b=4)), "ids must run from 1 to 3 without a gap, got 'b' = 4 instead of 3"),
    "one id twice": (changed(word_index=index(a=2, b=2)), "got 'b' = 2 instead of 3"),
    "one word twice": (changed(word_index='{"<OOV>": 1, "a": 2, "a": 3}'), "'a' occurs twice"),
    "a late beginning": (changed(oov_token=None, word_index='{"a": 2, "b": 3}'), "got 'a' = 2 instead of 1$"),
    "an id below": (changed(word_index=index(a=-1)), "got 'a' = -1 instead of 1"),
    "the unknown token as a word": (
        changed(word_index='{"<OOV>": 3, "a": 2}'),
        "oov_token '<OOV>' is a word of the texts",
    ),
    "no unknown token": (changed(oov_token="[UNK]"), r"oov_token '\[UNK\]' is not in word_index"),
    "an unknown token that is cut off": (
        changed(word_index='{"a": 1, "b": 2, "<OOV>": 3}', num_words=3),
        "oov_token '<OOV>' has the id 3, which num_words = 3 cuts off",
    ),
    "no words": (changed(word_index="{}", oov_token=None), "it has no words"),
    "too few words": (changed(num_words=2), "it has no words: word_index has 4 entries, num_words is 2"),
    "a negative bound": (changed(num_words=-1), "num_words.*: .*got '-1'"),
    "no separator": (changed(split=""), "split: "),
    "no filters": (changed(filters=None), "filters: .*got 'None'"),
    "half a character": (changed(word_index=index(**{"a\ud83d": 2})), "is a lone surrogate"),
    "UTF-16": (changed().encode("utf-16"), "this is UTF-16, not UTF-8; .*iconv"),
    "Latin-1": (json.dumps({"ä": "Größe, süß"}, ensure_ascii=False).encode("latin-1"), "most likely CP1252"),
    "a model of no kind": ('{"model": {"type": "Magic", "vocab": {}}}', "model.type must be one of .*, got 'Magic'"),
    "a model that is none": ('{"model": 5}', "damaged"),
    "a model without a vocabulary": ('{"model": {"type": "BPE"}}', "library cannot read it: "),
    "a decoder that is not served": (
        '{"model": {"type": "BPE"}, "decoder": {"type": "Sequence", "decoders": [{"type": "CTC"}, {"type": "Fuse"}]}}',
        r"a decoder of CTC \+ Fuse is not supported",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_an_invalid_tokenizer_is_refused_in_one_line(tmp_path, case):
    content, message = BAD[case]
    path = write(tmp_path, content)
    with pytest.raises(TokenizerError, match=rf"^[^\n]*tokenizer\.json: [^\n]*{message}[^\n]*$"):
        read_tokenizer(path)


@pytest.mark.parametrize(("name", "message"), [("none.json", "No such file or directory"), ("", "Is a directory")])
def test_a_missing_file_or_a_directory_is_named(tmp_path, name, message):
    with pytest.raises(TokenizerError, match=rf"^{tmp_path / name}: {message}$"):
        read_tokenizer(tmp_path / name)
