r"""Tokenizer by regular expressions, such as of molecules, music or the fields of a table: a token is a match.

Where several expressions match, the first one wins; what none matches is a character. No token contains a line break,
and no expression looks across one.

The library runs the expressions (Oniguruma), on prompts, too. They may take exponential time, those in `PRESETS` take
linear time on any text: each has a bounded length, or ends at its own first character, or fails at most once a line.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final, Self

from contract.errors import TokenizerError
from contract.tokenizers.exact_words import SpelledVocabulary, learn_words
from contract.tokenizers.huggingface import split_by

PRESETS: Final = {
    # SMILES: atoms in brackets, numbers of rings of two digits, and the other elements of two letters, as in REINVENT:
    # https://github.com/MolecularAI/REINVENT4, `reinvent/models/reinvent/models/vocabulary.py`
    "smiles": (r"\[[^\[\]]*\]", r"%\d\d", "Br|Cl"),
    # ABC notation, https://abcnotation.com/wiki/abc:standard:v2.1
    "abc": (
        r"^[KLMQR]:.*",  # key, unit note length, meter, tempo, rhythm; then the name of any other field of the header
        r"^[A-Za-z+]:(?![|:])",
        r"\[[KLMQRV]:[^\[\]]*\]",  # fields within a line
        r'"[^"]*"',  # chords
        r"![^!]*!",  # decorations
        r":?\|[|:\]1-9]?|::|\[[|1-9]",  # bars, repeats, and the endings of repeats
        r"\([2-9]",  # tuplets
        r"[_=^]{0,2}[A-Ga-g][,']{0,4}",  # notes, without their lengths
        r"\d{1,2}(?:/\d{1,2})?|/{1,3}\d{0,2}",
    ),
    # CSV and TSV: a quoted cell, or what is between separators, which are characters. The quantifier is possessive: a
    # quote that nothing closes would be tried again from each doubled quote behind it.
    "fields": (r'"(?:[^"]|"")*+"', r'[^,;\t|"]+'),
}
_LINE_BREAKS = split_by(r"[\r\n]")
_CHARACTER = r"|[\s\S]"
# A reference to a group, which has another number once expressions are joined.
_REFERENCE = re.compile(r"(?<!\\)(?:\\\\)*\\(?:[1-9]|[gk][<'])")
# No character: no expression matches it by name.
_PROBE = "\ufdd0"


class RegexTokenizer(SpelledVocabulary):
    """A tokenizer whose tokens are matches of regular expressions; a rare match is spelled in characters."""

    unit = "regex"
    # 367 were measured, where each character is a match; the library makes an object of each match.
    bytes_per_character = 400

    def __init__(
        self,
        tokens: Sequence[str],
        regexes: str,
        merges: Iterable[Sequence[str]] = (),
        labels: Collection[str] = (),
    ) -> None:
        """Index a vocabulary; see `Vocabulary`. The expressions are joined by `join_regexes`."""
        self.regexes = regexes
        self.pre_tokenizer = _pre_tokenizer(regexes)
        super().__init__(tokens, merges, labels)

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        *,
        regexes: Sequence[str],
        num_words: int | None = None,
        vocab_size: int | None = None,
        end_token: bool = False,
    ) -> Self:
        """Build a vocabulary of the most frequent matches; see `join_regexes` and `learn_words`."""
        joined = join_regexes(regexes)
        return cls(learn_words(texts, _pre_tokenizer(joined), num_words, vocab_size, end_token=end_token), joined)

    def _with_tokens(self, tokens: Sequence[str], labels: Collection[str]) -> Self:
        return type(self)(tokens, self.regexes, labels=labels)


def join_regexes(regexes: Sequence[str]) -> str:
    """Return one regular expression of several, or of names in `PRESETS`.

    Raises:
        TokenizerError: one does not compile, matches the empty string or refers to a group; the message names it.
    """
    expanded = [regex for given in regexes for regex in PRESETS.get(given, (given,))]
    for regex in expanded:
        _check(regex)
    joined = "|".join(f"(?:{regex})" for regex in expanded)
    _compile(joined, f"regular expressions {', '.join(map(repr, expanded))} together")
    return joined


def read_regexes(pre_tokenizer: Any) -> str | None:
    """Return the joined regular expressions of a pre-tokenizer in a file; None if it is another one."""
    try:
        joined = pre_tokenizer["pretokenizers"][1]["pattern"]["Regex"].removesuffix(_CHARACTER)
    except (LookupError, TypeError, AttributeError):
        return None
    return joined if pre_tokenizer == _pre_tokenizer(joined) else None


def _pre_tokenizer(joined: str) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": [_LINE_BREAKS, split_by(joined + _CHARACTER)]}


def _check(regex: str) -> None:
    what = f"regular expression {regex!r}"
    _compile(regex, what)
    if _REFERENCE.search(regex):
        raise TokenizerError(f"{what} refers to a group, whose number changes as expressions are joined")
    # At the beginning and at the end of a line, so that anchors match there, too.
    for around in (rf"\A(?:{regex}){_PROBE}", rf"{_PROBE}(?:{regex})\z"):
        if not _compile(around, what).pre_tokenize_str(_PROBE):
            raise TokenizerError(f"{what} matches the empty string")


def _compile(regex: str, what: str) -> Any:
    """Return the pre-tokenizer that removes the matches."""
    from tokenizers import Regex, pre_tokenizers  # noqa: PLC0415 - see `huggingface`

    try:
        return pre_tokenizers.Split(Regex(regex), "removed")
    except Exception as error:
        # The library raises nothing narrower.
        raise TokenizerError(f"{what} does not compile: {error}") from error
