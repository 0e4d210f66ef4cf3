"""Text to token ids and back, whatever the unit of text; and reading the files of any of them.

Knows vocabularies, special tokens and how pieces of text are joined. Knows nothing of models or requests.

Files are in the format of Hugging Face's `tokenizers`, so any program with that library reads them, and encodes as is
done here but for two things: it takes the name of a special token for the token, and lower-cases words without context.
"""

import json
from pathlib import Path
from typing import Any

from contract.errors import TokenizerError
from contract.tokenizers import exact_words, subwords
from contract.tokenizers.characters import CharacterTokenizer
from contract.tokenizers.exact_words import ExactWordTokenizer
from contract.tokenizers.subwords import SubwordTokenizer
from contract.tokenizers.vocabulary import END, PADDING, START, UNKNOWN, Detokenizer, SpecialIds, Tokenizer
from contract.tokenizers.words import KERAS_FILTERS, UNKNOWN_WORD, WordTokenizer, keras_words

__all__ = [
    "END",
    "KERAS_FILTERS",
    "PADDING",
    "START",
    "UNKNOWN",
    "UNKNOWN_WORD",
    "CharacterTokenizer",
    "Detokenizer",
    "ExactWordTokenizer",
    "SpecialIds",
    "SubwordTokenizer",
    "Tokenizer",
    "WordTokenizer",
    "keras_words",
    "load_tokenizer",
]


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer that `to_json` wrote; the file says of which unit it is.

    Raises:
        TokenizerError: the file is missing, is not JSON, or holds a tokenizer of another kind.
    """
    try:
        return _read(json.loads(path.read_text(encoding="utf-8")))
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error}") from error
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise TokenizerError(f"{path}: not a tokenizer file ({type(error).__name__}: {error})") from error


def _read(document: Any) -> Tokenizer:
    model = document["model"]
    vocabulary = dict(model["vocab"])
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    if [vocabulary[token] for token in tokens] != list(range(len(tokens))):
        raise TokenizerError(f"token ids must run from 0 to {len(tokens) - 1} without a gap")
    if model.get("type") == "BPE":
        return _byte_pairs(document, tokens)
    return _word_level(model["unk_token"], tokens)


def _word_level(unknown: Any, tokens: list[str]) -> Tokenizer:
    """Tell characters from words by the name of what is unknown."""
    if unknown == UNKNOWN:
        return CharacterTokenizer(tokens)
    if unknown == UNKNOWN_WORD:
        return WordTokenizer(tokens)
    raise TokenizerError(f"unk_token must be one of {sorted((UNKNOWN, UNKNOWN_WORD))}, got {unknown!r}")


def _byte_pairs(document: Any, tokens: list[str]) -> Tokenizer:
    """Tell exact words from subwords by whether anything can be unknown."""
    model = document["model"]
    exact = model["unk_token"] is not None
    rule = (exact_words if exact else subwords).PRE_TOKENIZER
    if document["pre_tokenizer"] != rule or document["normalizer"] is not None:
        raise TokenizerError("text is cut or changed by a rule that is not this release's: see pre_tokenizer")
    if not exact:
        return SubwordTokenizer(tokens, model["merges"])
    if model["merges"] or model["unk_token"] != UNKNOWN:
        raise TokenizerError(f"exact words have no merges and unk_token {UNKNOWN!r}, got {model['unk_token']!r}")
    return ExactWordTokenizer(tokens)
