"""The files for Transformers: Hugging Face's library encodes and decodes by them as the tokenizer does."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HuggingFaceTokenizer
from tokenizers import models, pre_tokenizers

from contract.errors import TokenizerError
from contract.tokenizers import (
    CharacterTokenizer,
    ExactWordTokenizer,
    ImportedTokenizer,
    RegexTokenizer,
    SubwordTokenizer,
    WordRules,
    WordTokenizer,
)
from contract.tokenizers.pretrained import tokenizer_config, tokenizer_json
from tests.unit.contract.imported_files import MADE
from tests.unit.contract.scripts import ALL

GREEK = "ΟΔΟΣ ΣΟΦΟΣ. σοφός, Σ ΑΣ’Β Σʰ\u0301"
WORDS = ["<pad>", "<unk>", *dict.fromkeys((ALL + GREEK.lower()).split())]
CHARACTERS = ["<pad>", "<unk>", *sorted(set((ALL + GREEK).lower()))]
# Its unknown token is in the vocabulary, and not marked as special.
UNMARKED = HuggingFaceTokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
UNMARKED.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
KINDS = {
    "characters": CharacterTokenizer.train(ALL + GREEK, end_token=True),
    "lower-cased characters": CharacterTokenizer(CHARACTERS, lower=True),
    "characters without unknown": CharacterTokenizer(["<pad>", *CHARACTERS[2:]], unknown=None, lower=True),
    "words": WordTokenizer.train([ALL, GREEK]),
    "words as written": WordTokenizer(WORDS, WordRules(filters="", lower=False), "<unk>"),
    "words without marks": WordTokenizer(WORDS, WordRules(filters=".,’-^]\\"), "<unk>"),
    "exact words": ExactWordTokenizer.train([ALL, ALL, GREEK], end_token=True),
    "regex": RegexTokenizer.train([ALL, ALL, GREEK], regexes=["fields", r"\n +"], end_token=True),
    "regex with labels": RegexTokenizer.train([ALL], regexes=["fields"]).extended(
        (), end_token=True, labels=["<s=a.b c>"]
    ),
    "subwords": SubwordTokenizer.train([ALL, GREEK], vocab_size=400, end_token=True),
    **{name: ImportedTokenizer(json.loads(made.to_str())) for name, made in (MADE | {"unmarked": UNMARKED}).items()},
}
LIBRARIES = {}
# Letters that Python does not know yet are lower-cased by the library alone.
KNOWN = st.characters(exclude_categories=["Cs", "Cn", "Co"])
WORDS_AND_SPACES = st.sampled_from([*ALL.split(" "), *GREEK.split(), " ", "\n"])
TEXTS = st.lists(st.text(KNOWN, max_size=20) | WORDS_AND_SPACES).map("".join)
kinds = pytest.mark.parametrize("name", KINDS)


def library(name):
    """Return Hugging Face's tokenizer by a tokenizer's files, as Transformers sets it by `split_special_tokens`."""
    if name not in LIBRARIES:
        LIBRARIES[name] = HuggingFaceTokenizer.from_str(json.dumps(tokenizer_json(KINDS[name])))
        LIBRARIES[name].encode_special_tokens = tokenizer_config(KINDS[name])["split_special_tokens"]
    return LIBRARIES[name]


@kinds
@settings(max_examples=100)
@given(text=TEXTS)
def test_the_library_encodes_alike(name, text):
    assert library(name).encode(text).ids == KINDS[name].encode(text)


@kinds
@settings(max_examples=100)
@given(numbers=st.lists(st.integers(0, 10**6), max_size=30))
def test_the_library_decodes_alike(name, numbers):
    tokenizer = KINDS[name]
    ids = [number % len(tokenizer.tokens) for number in numbers]
    assert library(name).decode(ids) == tokenizer.decode(ids)


@kinds
def test_the_names_of_special_tokens_are_text(name):
    for token in ("<start>", "<pad>", "<s=a.b c>", "a <PAD> <pad>b", "a <end>b", "<unk> [UNK] </s><|endoftext|>"):
        assert library(name).encode(token).ids == KINDS[name].encode(token)


@kinds
def test_the_config_names_the_special_tokens_of_the_model(name):
    tokenizer, config = KINDS[name], tokenizer_config(KINDS[name])
    special = tokenizer.special
    for field, token_id in (("bos", special.start), ("eos", special.end), ("pad", special.padding)):
        token = config[f"{field}_token"]
        if token_id in tokenizer.textless_ids:
            assert (token, library(name).token_to_id(token)) == (tokenizer.tokens[token_id], token_id)
        else:
            assert token is None
    assert library(name).get_vocab_size() <= len(tokenizer.tokens)


@pytest.mark.parametrize(
    ("tokenizer", "reason"),
    [
        (WordTokenizer(["<pad>", "a"], unknown=None), "drops unknown words"),
        (WordTokenizer(["<pad>", "<OOV>", "a"], WordRules(split="_")), "joins words by '_'"),
        (CharacterTokenizer(["<pad>", "<unk>", "\ud800"]), "lone surrogate"),
    ],
    ids=["unknown", "split", "surrogate"],
)
def test_a_tokenizer_without_an_equal_is_refused(tokenizer, reason):
    with pytest.raises(TokenizerError, match=reason):
        tokenizer_json(tokenizer)
