"""The marks of a tokenizer from elsewhere are found, or something stands for them."""

import json

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from contract.errors import TokenizerError
from contract.tokenizer import ImportedTokenizer
from tests.unit.contract.imported_files import MADE


def special(library):
    """Return the special ids by the names of their tokens."""
    tokenizer = ImportedTokenizer(json.loads(library.to_str()))
    found = vars(tokenizer.special)
    return {role: None if i is None else tokenizer.tokens[i] for role, i in found.items()}


def words(marks, unknown="w0"):
    """Return a tokenizer of ten words, with marks behind them."""
    library = Tokenizer(models.WordLevel({f"w{i}": i for i in range(10)}, unk_token=unknown))
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
def test_marks_are_found_by_their_names(name, padding, unknown, start, end):
    """Where one is missing another stands for it: an end begins texts, and so does padding."""
    assert special(MADE[name]) == {"padding": padding, "unknown": unknown, "start": start, "end": end}


def test_what_the_file_puts_around_a_text_are_its_marks_whatever_they_are_called():
    """They come before names."""
    library = words(["<eos>", "<go>", "<halt>"])
    library.post_processor = processors.TemplateProcessing(
        "<go> $A <halt>", special_tokens=[("<go>", 11), ("<halt>", 12)]
    )
    found = special(library)
    assert (found["start"], found["end"]) == ("<go>", "<halt>")


def test_an_end_alone_begins_texts_and_can_be_drawn():
    """As documents do that one mark parts."""
    library = words(["</s>", "<pad>"])
    tokenizer = ImportedTokenizer(json.loads(library.to_str()))
    assert special(library) == {"padding": "<pad>", "unknown": "w0", "start": "</s>", "end": "</s>"}
    assert tokenizer.special.never_sampled == (0, 11)


def test_without_any_mark_a_text_begins_with_a_line_feed_that_may_be_drawn():
    """No token is kept from being drawn, and each has its text."""
    library = MADE["bytes without marks"]
    tokenizer = ImportedTokenizer(json.loads(library.to_str()))
    assert set(special(library).values()) == {"Ċ", None}
    assert tokenizer.special.never_sampled == ()
    assert tokenizer.decode([tokenizer.special.start]) == "\n"


def test_a_model_that_would_fail_on_what_it_does_not_hold_is_refused():
    """Not when a client sends such a text."""
    with pytest.raises(TokenizerError, match="unk_token '<unk>' of the WordLevel model is not in its vocabulary"):
        ImportedTokenizer(json.loads(words([], unknown="<unk>").to_str()))
    library = Tokenizer(models.Unigram([("a", -1.0)]))
    with pytest.raises(TokenizerError, match="a Unigram model needs unk_id"):
        ImportedTokenizer(json.loads(library.to_str()))
