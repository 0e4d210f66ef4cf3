"""Text to token ids and back: characters, and words by the rules of Keras's legacy `Tokenizer`.

Knows vocabularies, special tokens and how pieces of text are joined. Knows nothing of models or requests.

Files are Hugging Face `tokenizers` JSON (a WordLevel model), so any program with that library reads them. Here they are
read directly: a dictionary look-up per character encodes 1.1 million characters in 20 ms where the library takes 900,
and Keras lower-cases by context ("ΟΔΟΣ" becomes "οδος"), which the library does not.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from contract.errors import TokenizerError

PADDING = "<pad>"
UNKNOWN_CHARACTER = "<unk>"
UNKNOWN_WORD = "<OOV>"
START = "<start>"
END = "<end>"

# Keras's default `filters`: each of these parts words and is dropped.
# https://github.com/keras-team/keras/blob/v3.15.0/keras/src/legacy/preprocessing/text.py
KERAS_FILTERS = '!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~\t\n'
_KERAS_TRANSLATION = str.maketrans(KERAS_FILTERS, " " * len(KERAS_FILTERS))
_KERAS_WORD = re.compile(f"[^ {re.escape(KERAS_FILTERS)}]+")


@dataclass(frozen=True)
class SpecialIds:
    """Token ids that stand for no text.

    Attributes:
        padding: Fills rows of unequal length. Always 0.
        unknown: Whatever the vocabulary does not hold.
        start: Read first when there is no prompt.
        end: Ends a document, and with it the text; None for a corpus that is one running text. Where there is one it
            is also `start`: what ends one document begins the next.
    """

    padding: int
    unknown: int
    start: int
    end: int | None

    @property
    def never_drawn(self) -> tuple[int, ...]:
        """Ids that sampling must not choose: all but the end mark, which is how a document ends."""
        return tuple(sorted({self.padding, self.unknown, self.start} - {self.end}))


class Detokenizer(Protocol):
    """Turns one sequence's token ids into text, a few at a time."""

    def feed(self, token_ids: Iterable[int]) -> str:
        """Return the text of the next tokens; the pieces joined are the whole text."""

    def label(self, token_id: int) -> str:
        """Return the text that a token would add if it came next; the name of a special token, which adds none."""


class Tokenizer(Protocol):
    """What the gateway and the exporter need of any unit of text."""

    unit: str
    tokens: tuple[str, ...]
    special: SpecialIds

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, without start or end marks; what is not in the vocabulary is `special.unknown`."""

    def decode(self, token_ids: Iterable[int]) -> str:
        """Return the text of the ids; special tokens have none."""

    def offsets(self, text: str) -> list[int]:
        """Return the place in `text` at which each token of `encode(text)` begins, in code points."""

    def detokenizer(self, follows: str = "") -> Detokenizer:
        """Return a detokenizer for text that continues `follows`."""

    def to_json(self) -> str:
        """Return the file's text, in Hugging Face `tokenizers` format."""


def _special_ids(tokens: Sequence[str], unknown: str) -> SpecialIds:
    """Find the special tokens of a vocabulary by their names.

    Raises:
        TokenizerError: padding, unknown or both of start and end are missing.
    """
    index = {token: i for i, token in enumerate(tokens)}
    end = index.get(END)
    start = index.get(START, end)
    if index.get(PADDING) != 0 or unknown not in index or start is None:
        raise TokenizerError(f"a vocabulary needs {PADDING} = 0, {unknown}, and {START} or {END}; got {tokens[:4]} …")
    return SpecialIds(padding=0, unknown=index[unknown], start=start, end=end)


class _Vocabulary:
    """Tokens and their ids; the part that all units of text share."""

    unit: str
    unknown: str

    def __init__(self, tokens: Sequence[str]) -> None:
        """Index a vocabulary.

        Args:
            tokens: Token of each id, special ones included.

        Raises:
            TokenizerError: a token stands twice, or a special one is missing.
        """
        self.tokens = tuple(tokens)
        self.special = _special_ids(self.tokens, self.unknown)
        self._ids = {token: i for i, token in enumerate(self.tokens)}
        if len(self._ids) != len(self.tokens):
            twice = next(token for token, count in Counter(self.tokens).items() if count > 1)
            raise TokenizerError(f"token {twice!r} stands twice in the vocabulary")
        special = {0, self.special.unknown, self.special.start, self.special.end}
        self._text_ids = {token: i for token, i in self._ids.items() if i not in special}
        self._texts = tuple("" if i in special else token for i, token in enumerate(self.tokens))

    def __len__(self) -> int:
        return len(self.tokens)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and self.tokens == other.tokens

    def __hash__(self) -> int:
        return hash(self.tokens)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.tokens)} tokens)"

    def _json(self, normalizer: Any, pre_tokenizer: Any, decoder: Any) -> str:
        marks = sorted({i for i in vars(self.special).values() if i is not None})
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        document = {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [{"id": i, "content": self.tokens[i], **flags} for i in marks],
            "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer,
            "post_processor": None,
            "decoder": decoder,
            "model": {"type": "WordLevel", "vocab": self._ids, "unk_token": self.unknown},
        }
        return json.dumps(document, ensure_ascii=False, indent=1) + "\n"


class CharacterTokenizer(_Vocabulary):
    """One token per Unicode code point, in the order of code points."""

    unit = "character"
    unknown = UNKNOWN_CHARACTER

    @classmethod
    def train(cls, text: str, *, end_mark: bool = False) -> Self:
        """Take every character of `text` into the vocabulary.

        Args:
            text: The training text; what is held out must not be in it.
            end_mark: Whether documents end, and their end can be drawn.
        """
        return cls([PADDING, UNKNOWN_CHARACTER, END if end_mark else START, *sorted(set(text))])

    def encode(self, text: str) -> list[int]:
        """Return one id per character; one that the vocabulary does not hold is `special.unknown`."""
        look_up, unknown = self._text_ids.get, self.special.unknown
        return [look_up(character, unknown) for character in text]

    def decode(self, token_ids: Iterable[int]) -> str:
        """Return the characters joined; special tokens have none."""
        texts = self._texts
        return "".join([texts[i] for i in token_ids])

    def offsets(self, text: str) -> list[int]:
        """Return the place of each character."""
        return list(range(len(text)))

    def detokenizer(self, follows: str = "") -> Detokenizer:  # noqa: ARG002 - characters join the same way anywhere
        """Return a detokenizer; characters carry nothing over from one call to the next."""
        return _CharacterDetokenizer(self)

    def to_json(self) -> str:
        """Return the file's text, in Hugging Face `tokenizers` format."""
        every_character = {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False}
        return self._json(None, every_character, {"type": "Fuse"})


@dataclass(frozen=True)
class _CharacterDetokenizer:
    tokenizer: CharacterTokenizer

    def feed(self, token_ids: Iterable[int]) -> str:
        return self.tokenizer.decode(token_ids)

    def label(self, token_id: int) -> str:
        return self.tokenizer.tokens[token_id]


def keras_words(text: str) -> list[str]:
    """Split a text as `keras.preprocessing.text.text_to_word_sequence` does: lower case, `KERAS_FILTERS` part words."""
    return [word for word in text.lower().translate(_KERAS_TRANSLATION).split(" ") if word]


class WordTokenizer(_Vocabulary):
    """Words by the rules of Keras's legacy `Tokenizer(oov_token="<OOV>")`.

    Ids run from 2 by falling frequency, then by first appearance; 0 is padding and 1 any word that is not held. The
    start or end mark follows the last word, so every word keeps the id that Keras gives it.
    """

    unit = "word"
    unknown = UNKNOWN_WORD

    @classmethod
    def train(cls, texts: Iterable[str], *, num_words: int | None = None, end_mark: bool = False) -> Self:
        """Count the words of some texts.

        Args:
            texts: The training texts; what is held out must not be among them.
            num_words: Keep ids below this one, as Keras does; None keeps every word.
            end_mark: Whether documents end, and their end can be drawn.

        Raises:
            TokenizerError: `num_words` leaves no word.
        """
        if num_words is not None and num_words < 3:
            raise TokenizerError(f"num_words must be at least 3 (ids 0 and 1 are special), got {num_words}")
        counts = Counter(word for text in texts for word in keras_words(text))
        words = [word for word, _ in counts.most_common()]
        kept = words if num_words is None else words[: num_words - 2]
        return cls([PADDING, UNKNOWN_WORD, *kept, END if end_mark else START])

    @property
    def word_index(self) -> dict[str, int]:
        """Id of each word, and of `<OOV>`, as Keras's attribute of the same name."""
        return {UNKNOWN_WORD: self.special.unknown, **self._text_ids}

    def encode(self, text: str) -> list[int]:
        """Return one id per word; one that the vocabulary does not hold is 1."""
        look_up, unknown = self._text_ids.get, self.special.unknown
        return [look_up(word, unknown) for word in keras_words(text)]

    def decode(self, token_ids: Iterable[int]) -> str:
        """Return the words joined by spaces; special tokens have none."""
        return " ".join(self._held(token_ids))

    def offsets(self, text: str) -> list[int]:
        """Return the place in `text` at which each word begins.

        Found in the text as it is given: lower-casing, which can change its length, neither makes nor removes a place
        at which words part.
        """
        return [match.start() for match in _KERAS_WORD.finditer(text)]

    def detokenizer(self, follows: str = "") -> Detokenizer:
        """Return a detokenizer whose first word is set off from `follows` by one space where it needs one."""
        return _WordDetokenizer(self, begins_text=not follows or follows[-1].isspace())

    def to_json(self) -> str:
        """Return the file's text, in Hugging Face `tokenizers` format."""
        escaped = "".join(f"\\{character}" for character in KERAS_FILTERS if character not in "\t\n")
        filters = {"type": "Replace", "pattern": {"Regex": f"[{escaped}\\t\\n]"}, "content": " "}
        normalizer = {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, filters]}
        spaces = {"type": "Split", "pattern": {"String": " "}, "behavior": "Removed", "invert": False}
        return self._json(normalizer, spaces, None)

    def _held(self, token_ids: Iterable[int]) -> Iterator[str]:
        return (self._texts[i] for i in token_ids if self._texts[i])


@dataclass
class _WordDetokenizer:
    tokenizer: WordTokenizer
    begins_text: bool

    def feed(self, token_ids: Iterable[int]) -> str:
        text = self.tokenizer.decode(token_ids)
        if not text:
            return ""
        piece = text if self.begins_text else " " + text
        self.begins_text = False
        return piece

    def label(self, token_id: int) -> str:
        word = self.tokenizer.decode([token_id])
        return (word if self.begins_text else " " + word) if word else self.tokenizer.tokens[token_id]


_UNITS: dict[str, type[CharacterTokenizer] | type[WordTokenizer]] = {
    UNKNOWN_CHARACTER: CharacterTokenizer,
    UNKNOWN_WORD: WordTokenizer,
}


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer that `to_json` wrote.

    Raises:
        TokenizerError: the file is missing, is not JSON, or holds a tokenizer of another kind.
    """
    try:
        model = json.loads(path.read_text(encoding="utf-8"))["model"]
        vocabulary, unknown = dict(model["vocab"]), model["unk_token"]
        tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TokenizerError(f"{path}: not a tokenizer file ({type(error).__name__}: {error})") from error
    if [vocabulary[token] for token in tokens] != list(range(len(tokens))):
        raise TokenizerError(f"{path}: token ids must run from 0 to {len(tokens) - 1} without a gap")
    if unknown not in _UNITS:
        raise TokenizerError(f"{path}: unk_token must be one of {sorted(_UNITS)}, got {unknown!r}")
    return _UNITS[unknown](tokens)
