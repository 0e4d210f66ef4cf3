"""Tokenizers of every unit (character, word, subword, regex): encoding, detokenization and loading from a file.

Each unit has a module; `base` is what they share.

Files are in Hugging Face `tokenizers` format, so any program with that library can load them. It encodes as this module
does, with three exceptions: it parses the name of a special token as that token, it lower-cases without context, and
it encodes an unknown word as padding where an imported vocabulary has no unknown token (here the word is dropped).
"""

import json
from pathlib import Path
from typing import Any, Final

from contract.errors import TokenizerError
from contract.files import read_file
from contract.tokenizers.base import UNKNOWN, Detokenizer, SpecialIds, Tokenizer, padding_name
from contract.tokenizers.characters import EVERY_CHARACTER, CharacterTokenizer
from contract.tokenizers.exact_words import ExactWordTokenizer
from contract.tokenizers.imported import ImportedTokenizer, is_imported
from contract.tokenizers.regexes import RegexTokenizer, read_regexes
from contract.tokenizers.rules import KERAS_FILTERS, KERAS_RULES, LOWERCASE, Standardization, WhitespaceRules, WordRules
from contract.tokenizers.subwords import SubwordTokenizer
from contract.tokenizers.words import WordTokenizer

__all__ = [
    "KERAS_FILTERS",
    "KERAS_RULES",
    "CharacterTokenizer",
    "Detokenizer",
    "ExactWordTokenizer",
    "ImportedTokenizer",
    "RegexTokenizer",
    "SpecialIds",
    "Standardization",
    "SubwordTokenizer",
    "Tokenizer",
    "WhitespaceRules",
    "WordRules",
    "WordTokenizer",
    "load_tokenizer",
    "padding_name",
]

# Four times what `export` imports: it writes each token and each merge on a line of its own.
MAX_BYTES: Final = 256 * 2**20
_OTHER_RULE = "this release does not support its normalizer or pre_tokenizer"


def load_tokenizer(path: Path) -> Tokenizer:
    """Load a tokenizer that `to_json` wrote. The file determines the unit.

    Raises:
        TokenizerError: the file is missing, is not JSON, or holds an unsupported tokenizer.
    """
    try:
        return _read(json.loads(read_file(path, MAX_BYTES).decode()))
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error}") from error
    except OSError as error:
        raise TokenizerError(f"{path}: {error.strerror or error}") from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise TokenizerError(f"{path}: not a tokenizer file ({type(error).__name__}: {error})") from error


def _read(document: Any) -> Tokenizer:
    if is_imported(document):
        return ImportedTokenizer(document)
    model = document["model"]
    vocabulary = dict(model["vocab"])
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    if [vocabulary[token] for token in tokens] != list(range(len(tokens))):
        raise TokenizerError(f"token ids must run from 0 to {len(tokens) - 1} without a gap")
    special = [token["content"] for token in document.get("added_tokens", ())]
    if model.get("type") == "BPE":
        return _byte_pairs(document, tokens, special)
    return _word_level(document, tokens, special)


def _word_level(document: Any, tokens: list[str], special: list[str]) -> Tokenizer:
    """Build a character or word tokenizer, depending on the pre-tokenizer."""
    unknown, normalizer, rule = document["model"]["unk_token"], document["normalizer"], document["pre_tokenizer"]
    if unknown == tokens[0] == padding_name(tokens[1:]):
        unknown = None
    if rule == EVERY_CHARACTER:
        return _characters(tokens, unknown, normalizer, special)
    rules = WordRules.read(normalizer, rule) or WhitespaceRules.read(normalizer, rule)
    if rules is None:
        raise TokenizerError(_OTHER_RULE)
    return WordTokenizer(tokens, rules, unknown, special)


def _characters(tokens: list[str], unknown: str | None, normalizer: Any, special: list[str]) -> CharacterTokenizer:
    if normalizer == LOWERCASE:
        return CharacterTokenizer(tokens, unknown=unknown, lower=True, labels=special)
    standardization = Standardization.read(normalizer)
    if standardization is None:
        raise TokenizerError(_OTHER_RULE)
    return CharacterTokenizer(tokens, unknown=unknown, standardization=standardization, labels=special)


def _byte_pairs(document: Any, tokens: list[str], special: list[str]) -> Tokenizer:
    """Build a tokenizer of exact words or regular expressions if there is an unknown token, else of subwords."""
    unknown, merges = document["model"]["unk_token"], document["model"]["merges"]
    regexes = read_regexes(document["pre_tokenizer"])
    if unknown == UNKNOWN and regexes is not None and document["normalizer"] is None:
        return RegexTokenizer(tokens, regexes, merges, special)
    kind = SubwordTokenizer if unknown is None else ExactWordTokenizer
    if document["pre_tokenizer"] != kind.pre_tokenizer or document["normalizer"] is not None:
        raise TokenizerError(_OTHER_RULE)
    if unknown not in (None, UNKNOWN):
        raise TokenizerError(f"exact words have unk_token {UNKNOWN!r}, got {unknown!r}")
    return kind(tokens, merges, special)
