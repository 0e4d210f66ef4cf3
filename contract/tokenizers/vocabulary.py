"""What every unit of text shares: special tokens, ids, the file's frame, and what is asked of a tokenizer."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from contract.errors import TokenizerError

PADDING = "<pad>"
UNKNOWN = "<unk>"
START = "<start>"
END = "<end>"


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
        """Return the text that is certain after the next tokens; the pieces and the flush joined are the whole text."""

    def flush(self) -> str:
        """Return what is still held, now that no more tokens come."""

    def label(self, token_id: int) -> str:
        r"""Return a token by its text, as it would be if the token came next.

        One without text has its name; one that is not whole characters is told by its bytes, as OpenAI does:
        `bytes:\xe2\x82`.
        """


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


class Vocabulary:
    """Tokens and their ids."""

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

    def _json(self, model: Any, normalizer: Any, pre_tokenizer: Any, decoder: Any) -> str:
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
            "model": model,
        }
        return json.dumps(document, ensure_ascii=False, indent=1) + "\n"

    def _word_level(self) -> Any:
        return {"type": "WordLevel", "vocab": self._ids, "unk_token": self.unknown}


class JoinedVocabulary(Vocabulary):
    """Tokens that are pieces of text: joined, they are the text."""

    def decode(self, token_ids: Iterable[int]) -> str:
        """Return the tokens joined; special ones have no text."""
        texts = self._texts
        return "".join([texts[i] for i in token_ids])

    def detokenizer(self, follows: str = "") -> Detokenizer:  # noqa: ARG002 - these join the same way anywhere
        """Return a detokenizer; nothing is carried over from one call to the next."""
        return _JoiningDetokenizer(self)


@dataclass(frozen=True)
class _JoiningDetokenizer:
    vocabulary: JoinedVocabulary

    def feed(self, token_ids: Iterable[int]) -> str:
        return self.vocabulary.decode(token_ids)

    def flush(self) -> str:
        return ""

    def label(self, token_id: int) -> str:
        return self.vocabulary.tokens[token_id]
