"""The files that Transformers' `AutoTokenizer.from_pretrained` loads, for tools that tokenize by themselves.

They encode and decode as the tokenizer does. A published `tokenizer.json` nearly does so; see `contract.tokenizers`.
"""

import json
import re
from typing import Any

from contract.errors import TokenizerError
from contract.tokenizers.base import Tokenizer
from contract.tokenizers.characters import CharacterTokenizer
from contract.tokenizers.huggingface import byte_pairs, split_by
from contract.tokenizers.imported import ImportedTokenizer
from contract.tokenizers.regexes import RegexTokenizer
from contract.tokenizers.rules import LOWERCASE, WhitespaceRules, WordRules
from contract.tokenizers.words import WordTokenizer

# A final sigma: Python lower-cases Σ to ς at the end of a word, Hugging Face's library always to σ. Section 3.13 of the
# Unicode Standard, Final_Sigma.
_CASED = r"[\p{Cased}&&[^\p{Case_Ignorable}]]"
_FINAL_SIGMA = {
    "type": "Replace",
    "pattern": {"Regex": rf"(?<={_CASED}\p{{Case_Ignorable}}*)Σ(?!\p{{Case_Ignorable}}*{_CASED})"},
    "content": "ς",
}


def tokenizer_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the content of `tokenizer.json`, for Hugging Face's `tokenizers`.

    Raises:
        TokenizerError: the library has no equal tokenizer.
    """
    if any("\ud800" <= character <= "\udfff" for token in tokenizer.tokens for character in token):
        raise TokenizerError("a token has a lone surrogate, which UTF-8 cannot encode")
    document: dict[str, Any] = json.loads(tokenizer.to_json())
    if isinstance(tokenizer, WordTokenizer):
        _require_words_of_the_library(tokenizer)
        before = [_FINAL_SIGMA] if isinstance(tokenizer.rules, WordRules) and tokenizer.rules.lower else []
        steps = [*before, *(document["normalizer"] or {"normalizers": []})["normalizers"], *_unknown_padding(tokenizer)]
        document["normalizer"] = {"type": "Sequence", "normalizers": steps}
    elif isinstance(tokenizer, CharacterTokenizer):
        if tokenizer.unknown is None:
            # A WordLevel model has a token for unknown characters; this one drops them, too.
            document["model"] = byte_pairs(document["model"]["vocab"], [], None)
        if tokenizer.lower:
            document["normalizer"] = {"type": "Sequence", "normalizers": [_FINAL_SIGMA, LOWERCASE]}
    elif isinstance(tokenizer, RegexTokenizer):
        # A match with the name of a special token is spelled. All of them begin with this character.
        names = "|".join(re.escape(tokenizer.tokens[i].removeprefix("<")) for i in sorted(tokenizer.textless_ids))
        document["pre_tokenizer"]["pretokenizers"].append(split_by(rf"\A<(?=(?:{names})\z)"))
    elif isinstance(tokenizer, ImportedTokenizer):
        # Its post-processor would add special tokens.
        document["post_processor"] = None
        document["added_tokens"] = _with_textless(document["added_tokens"], tokenizer)
    return document


def tokenizer_config(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the content of `tokenizer_config.json`: the special tokens, and that no text spells one."""
    special, textless = tokenizer.special, tokenizer.textless_ids
    ids = {
        "bos_token": special.start,
        "eos_token": special.end,
        "pad_token": special.padding,
        "unk_token": None if special.unknown == special.padding else special.unknown,
    }
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        # A token with text would lose it: Transformers marks these tokens as special.
        **{name: tokenizer.tokens[i] if i in textless else None for name, i in ids.items()},
        "split_special_tokens": True,
        "clean_up_tokenization_spaces": False,
    }


def _require_words_of_the_library(tokenizer: WordTokenizer) -> None:
    """Refuse a tokenizer of words that the library cannot imitate."""
    if tokenizer.unknown is None:
        raise TokenizerError("it drops unknown words, and Hugging Face's library has a token for them")
    if tokenizer.rules.split != " ":
        raise TokenizerError(f"it joins words by {tokenizer.rules.split!r}, and Hugging Face's library by spaces")


def _unknown_padding(tokenizer: WordTokenizer) -> list[dict[str, Any]]:
    """Return the normalizer that replaces the word `<pad>`, which is unknown, by the unknown token."""
    if tokenizer.special.padding == tokenizer.special.unknown:
        return []
    word, other = tokenizer.tokens[tokenizer.special.padding], "[^ ]"
    if isinstance(tokenizer.rules, WhitespaceRules):
        other = "[^ \\t\\n\\x0b\\x0c\\r]"
    return [{"type": "Replace", "pattern": {"Regex": f"(?<!{other}){word}(?!{other})"}, "content": tokenizer.unknown}]


def _with_textless(added_tokens: list[dict[str, Any]], tokenizer: ImportedTokenizer) -> list[dict[str, Any]]:
    """Mark every token without text as special, so that decoding leaves it out."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    by_id = {token["id"]: token for token in added_tokens}
    for i in tokenizer.named_textless_ids:
        by_id[i] = {"id": i, "content": tokenizer.tokens[i], **flags, **by_id.get(i, {}), "special": True}
    return [by_id[i] for i in sorted(by_id)]
