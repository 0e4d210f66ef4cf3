"""Imported tokenizers: ids and texts are those of Hugging Face's library, when streamed too."""

import json
from itertools import dropwhile, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HuggingFaceTokenizer

from contract.errors import TokenizerError
from contract.tokenizers import ImportedTokenizer, load_tokenizer
from tests.unit.contract.imported_files import MADE
from tests.unit.contract.scripts import ALL, SCRIPTS, texts
from tests.unit.contract.test_detokenizers import DIRECTIONS, streamed, tracked

KINDS = {name: ImportedTokenizer(json.loads(library.to_str())) for name, library in MADE.items()}
kinds = pytest.mark.parametrize("name", MADE)
cuts = st.lists(st.integers(0, 40), max_size=6)
id_lists = st.lists(st.integers(0, 10_000), max_size=24)


def plain(name):
    """Return the library's tokenizer without special tokens, truncation, padding and dropout."""
    document = {**json.loads(MADE[name].to_str()), "post_processor": None, "truncation": None, "padding": None}
    document["model"].pop("dropout", None)
    return HuggingFaceTokenizer.from_str(json.dumps(document))


def nothing(tokenizer):
    """Return the unknown token's id if it is never sampled: the library decodes it to its name, and we to no text."""
    return {tokenizer.special.unknown} if tokenizer.special.never_sampled else set()


@kinds
@settings(max_examples=60)
@given(text=texts)
def test_ids_and_texts_equal_the_librarys(name, text):
    tokenizer, library = KINDS[name], plain(name)
    library.encode_special_tokens = True
    ids = tokenizer.encode(text)
    assert ids == library.encode(text).ids
    assert tokenizer.decode(ids) == library.decode([i for i in ids if i not in nothing(tokenizer)])


@kinds
@settings(max_examples=150)
@given(numbers=id_lists, places=cuts)
def test_streamed_deltas_joined_are_the_text_that_the_library_decodes(name, numbers, places):
    tokenizer = KINDS[name]
    ids = [number % len(tokenizer) for number in numbers]
    expected = plain(name).decode([i for i in ids if i not in nothing(tokenizer)])
    assert tokenizer.decode(ids) == expected
    for direction in DIRECTIONS:
        assert "".join(streamed(tokenizer, ids, places, direction)) == expected


@kinds
@settings(max_examples=80)
@given(numbers=id_lists)
def test_tracked_offsets_agree_in_both_directions(name, numbers):
    tokenizer = KINDS[name]
    ids = [number % len(tokenizer) for number in numbers]
    ids = [i for i in ids if tokenizer.token(i) is not None]
    whole = tokenizer.decode(ids)
    (shown, ahead), backward = (tracked(tokenizer, ids, direction) for direction in DIRECTIONS)
    assert shown == whole
    assert (shown, ahead) == backward
    if name in {"words", "fused"}:
        parts = [whole[a:b] for a, b in pairwise([*ahead, len(whole)])]
        assert [part.removeprefix(" ") for part in parts] == [tokenizer.decode([i]).removeprefix(" ") for i in ids]


@kinds
@pytest.mark.parametrize("text", SCRIPTS.values(), ids=SCRIPTS)
def test_offsets_ascend_within_the_text(name, text):
    """One per token, even where the library normalizes the text."""
    tokenizer = KINDS[name]
    offsets = tokenizer.offsets(text)
    assert len(offsets) == len(tokenizer.encode(text))
    assert offsets == sorted(offsets)
    assert all(0 <= place < len(text) for place in offsets)


def test_the_offset_of_a_token_is_that_of_its_leading_space():
    """The library's own offset for GPT-2 would be that of the letter after it."""
    tokenizer = KINDS["GPT-2"]
    assert tokenizer.offsets("a b") == [0, 1]
    assert [tokenizer.label(i) for i in tokenizer.encode("a b")] == ["a", " b"]


@kinds
def test_a_tokenizer_is_loaded_from_its_file_unchanged(name, tmp_path):
    tokenizer, path = KINDS[name], tmp_path / "tokenizer.json"
    path.write_text(tokenizer.to_json(), encoding="utf-8")
    again = load_tokenizer(path)
    assert (again.special, again.tokens, again.unit) == (tokenizer.special, tokenizer.tokens, tokenizer.unit)
    assert type(again) is type(tokenizer)
    assert again.to_json() == tokenizer.to_json()
    assert again.encode(ALL) == tokenizer.encode(ALL)
    assert HuggingFaceTokenizer.from_file(str(path)).get_vocab() == MADE[name].get_vocab()


@pytest.mark.parametrize(
    ("name", "follows", "expected"),
    [
        *((name, *case) for name in ("words", "word pieces") for case in (("", "a b"), ("a", " a b"), ("a ", "a b"))),
        *(("pairs with suffix", *case) for case in (("a", " a b"), ("a\n", "a b"))),
        *(("unigram", "a", " a b"), ("GPT-2", "a", "a b")),
    ],
)
def test_one_space_separates_the_text_from_its_prompt(name, follows, expected):
    tokenizer = KINDS[name]
    detokenizer = tokenizer.detokenizer(follows)
    ids = tokenizer.encode("a b")
    labels, pieces = [], []
    for token_id in ids:
        labels.append(detokenizer.label(token_id))
        pieces.append(detokenizer.feed([token_id]))
    assert "".join(pieces) == "".join(labels) == expected
    if not follows:
        assert expected == tokenizer.decode(ids)


@pytest.mark.parametrize(
    ("name", "precedes", "space"),
    [("words", "", ""), ("words", "c", " "), ("words", " c", ""), ("unigram", "c", " "), ("GPT-2", "c", "")],
)
def test_one_space_separates_the_text_from_its_suffix(name, precedes, space):
    tokenizer = KINDS[name]
    backward = tokenizer.detokenizer(precedes, backward=True)
    pieces = [backward.feed([i]) for i in tokenizer.encode("b a")[::-1]] + [backward.flush()]
    assert "".join(pieces[::-1]) == f"b a{space}"


def test_special_tokens_cannot_be_spelt_and_have_no_text():
    tokenizer = KINDS["GPT-2"]
    end = tokenizer.special.end
    assert tokenizer.tokens[end] == "<|endoftext|>"
    assert not {end, tokenizer.tokens.index("<|im_start|>")} & set(tokenizer.encode("a<|endoftext|><|im_start|>"))
    assert tokenizer.decode([end, *tokenizer.encode("a")]) == "a"
    assert tokenizer.label(end) == "<|endoftext|>"


def test_encoding_is_deterministic_despite_dropout_in_the_file():
    """Dropout of merges is for training only."""
    tokenizer = KINDS["bytes without marks"]
    assert len({tuple(tokenizer.encode("the the the the")) for _ in range(20)}) == 1


def test_a_lone_surrogate_becomes_u_fffd():
    """JSON can hold one, and the library cannot encode it."""
    tokenizer = KINDS["GPT-2"]
    assert tokenizer.decode(tokenizer.encode("a\ud83db")) == "a\ufffdb"
    assert len(tokenizer.offsets("a\ud83db")) == len(tokenizer.encode("a\ufffdb"))


def test_an_unassigned_id_is_a_token_without_text():
    """The model's output has a unit for it all the same."""
    document = json.loads(MADE["words"].to_str())
    document["model"]["vocab"]["late"] = len(KINDS["words"]) + 1
    tokenizer = ImportedTokenizer(document)
    hole = len(KINDS["words"])
    assert tokenizer.tokens[hole : hole + 2] == (f"<unused {hole}>", "late")
    assert tokenizer.decode([hole, hole + 1]) == "late"
    assert tokenizer.textless_ids == KINDS["words"].textless_ids | {hole}


def test_an_id_above_the_limit_is_rejected():
    """Every id below it gets a name, so that a file of a hundred bytes could use up all memory."""
    document = json.loads(MADE["words"].to_str())
    document["model"]["vocab"]["late"] = 4_000_000_000
    with pytest.raises(TokenizerError, match="token ids must be below 4,194,304, got 4,000,000,000"):
        ImportedTokenizer(document)


DAMAGES = {
    "no kind": (None, "model", {"type": "Magic", "vocab": {}}, "model.type must be one of .*, got 'Magic'"),
    "a decoder of speech": (None, "decoder", {"type": "CTC"}, "a decoder of CTC is not supported"),
    "damaged": ("model", "vocab", 5, "library cannot read it"),
    "no unknown token": ("model", "unk_token", "[NONE]", "unk_token '\\[NONE\\]' of the WordLevel model is not in its"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_unsupported_file_is_rejected_when_it_is_read(damage):
    part, key, value, message = DAMAGES[damage]
    document = json.loads(MADE["words"].to_str())
    (document if part is None else document[part])[key] = value
    with pytest.raises(TokenizerError, match=message):
        ImportedTokenizer(document)


def test_a_merge_of_tokens_that_the_vocabulary_has_lost_is_an_error():
    """The library panics, which is no `Exception`."""
    model = {"type": "BPE", "vocab": {"<unk>": 0, "sat": 1}, "merges": [["<unk>", "sat"]]}
    with pytest.raises(TokenizerError, match="library cannot read it"):
        ImportedTokenizer({"version": "1.0", "added_tokens": [], "model": model})


def test_a_word_suffix_in_the_middle_of_a_token_is_rejected():
    document = json.loads(MADE["pairs with suffix"].to_str())
    document["model"]["vocab"]["a</w>b"] = len(document["model"]["vocab"])
    with pytest.raises(TokenizerError, match="suffix '</w>' in its middle"):
        ImportedTokenizer(document)


@kinds
@settings(max_examples=60)
@given(numbers=id_lists)
def test_the_bytes_of_tokens_are_those_of_the_text(name, numbers):
    """Patterns are compiled from them. A suffix is dropped only at the end of a text, so such tokens have none."""
    tokenizer = KINDS[name]
    first, following = (tokenizer.token_bytes(first=first) for first in (True, False))
    if name == "pairs with suffix":
        assert first is following is None
        return
    with_text = [i for i in (number % len(tokenizer) for number in numbers) if first[i] or following[i]]
    ids = [*dropwhile(lambda i: not first[i], with_text)]
    found = b"".join([first[i] for i in ids[:1]] + [following[i] for i in ids[1:]])
    assert found.decode("utf-8", "replace") == tokenizer.decode(ids)


@kinds
def test_the_bytes_of_a_first_token_are_its_text_with_and_without_a_prompt(name):
    """A match begins with it. A part of a word, such as ##s, is spelled differently at the beginning of a text."""
    tokenizer = KINDS[name]
    for token_id, content in enumerate(tokenizer.token_bytes(first=True) or ()):
        for prompt in ("", "x", "x ") if content else ():
            text = tokenizer.detokenizer(prompt)
            shown = text.feed([token_id]) + text.flush()
            assert shown.removeprefix(" ") == content.decode(errors="replace").removeprefix(" ")


@kinds
def test_a_backward_models_tokens_have_bytes_only_if_each_token_is_bytes(name):
    bytes_of = [KINDS[name].token_bytes(first=first, backward=True) for first in (True, False)]
    assert (bytes_of == [None, None]) != KINDS[name].decoder.joins_bytes
