"""Special tokens of imported tokenizers, and the tokens that replace missing ones."""

import json

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from contract.errors import TokenizerError
from contract.tokenizers import ImportedTokenizer
from tests.unit.contract.imported_files import MADE


def special(library):
    tokenizer = ImportedTokenizer(json.loads(library.to_str()))
    found = {role: i for role, i in vars(tokenizer.special).items() if role != "labels"}
    return {role: None if i is None else tokenizer.tokens[i] for role, i in found.items()}


def words(marks):
    library = Tokenizer(models.WordLevel({f"w{i}": i for i in range(10)}, unk_token="w0"))
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    library.add_special_tokens(marks)
    return library


@pytest.mark.parametrize(
    ("name", "padding", "unknown", "start", "end"),
    [
        ("GPT-2", "<|endoftext|>", "<|endoftext|>", "<|endoftext|>", "<|endoftext|>"),
        ("words", "[PAD]", "[UNK]", "[CLS]", "[SEP]"),
        ("pairs", "<PAD>", "<UNK>", "<PAD>", None),
        ("pairs with suffix", "<unk>", "<unk>", "<unk>", None),
        ("unigram", "<pad>", "<unk>", "<s>", "</s>"),
        ("fused", "<eos>", "<eos>", "<eos>", "<eos>"),
    ],
)
def test_special_tokens_are_found_by_name(name, padding, unknown, start, end):
    """A missing one is replaced by another: EOS or padding serves as the start token."""
    assert special(MADE[name]) == {"padding": padding, "unknown": unknown, "start": start, "end": end}


def test_the_post_processor_determines_start_and_eos_token():
    library = words(["<eos>", "<go>", "<halt>"])
    added = [("<go>", 11), ("<halt>", 12)]
    library.post_processor = processors.TemplateProcessing("<go> $A <halt>", special_tokens=added)
    found = special(library)
    assert (found["start"], found["end"]) == ("<go>", "<halt>")


def test_a_lone_eos_token_is_the_start_token_and_can_be_sampled():
    library = words(["</s>", "<pad>"])
    tokenizer = ImportedTokenizer(json.loads(library.to_str()))
    assert special(library) == {"padding": "<pad>", "unknown": "w0", "start": "</s>", "end": "</s>"}
    assert tokenizer.special.never_sampled == (0, 11)


def test_without_special_tokens_the_start_token_is_a_line_feed():
    """Every token can be sampled, and each has text."""
    library = MADE["bytes without marks"]
    tokenizer = ImportedTokenizer(json.loads(library.to_str()))
    assert set(special(library).values()) == {"Ċ", None}
    assert (tokenizer.special.never_sampled, tokenizer.textless_ids) == ((), frozenset())
    assert tokenizer.decode([tokenizer.special.start]) == "\n"


def test_a_unigram_model_without_an_unknown_token_is_rejected():
    library = Tokenizer(models.Unigram([("a", -1.0)]))
    with pytest.raises(TokenizerError, match="a Unigram model needs unk_id"):
        ImportedTokenizer(json.loads(library.to_str()))
