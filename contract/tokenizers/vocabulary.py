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
        padding: Fills rows of unequal length; 0 in every vocabulary but those of Hugging Face's from elsewhere.
        unknown: Whatever the vocabulary does not hold; padding where no token is for that.
        start: Read first when there is no prompt; padding in a vocabulary from elsewhere that has no mark.
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
    """Turns one sequence's token ids into text, a few at a time.

    Forwards each piece goes behind those so far. Backwards ids come in the order in which they are drawn, the nearest
    to the text's end first, and each piece goes before those so far. A sequence is either fed or tracked.
    """

    def feed(self, token_ids: Iterable[int]) -> str:
        """Return the text that is certain after the next tokens; the pieces and the flush joined are the whole text."""

    def flush(self) -> str:
        """Return what is still held, now that no more tokens come."""

    def track(self, token_id: int | None) -> tuple[str, Sequence[int]]:
        """Take one token and tell where tokens begin, too; None: no more come.

        A token begins with the character that holds its first byte.

        Returns:
            What `feed` or `flush` would, and the places that have become certain, in order of the tokens: distances
            in code points from the edge of all text returned before, behind it or, backwards, before it.
        """

    def label(self, token_id: int) -> str:
        r"""Return a token by its text, as it would be if the token came next.

        One without text has its name; one that is not whole characters is told by its bytes, as OpenAI does:
        `bytes:\xe2\x82`.
        """

    def save(self) -> Any:
        """Return what is carried over to the next token, as a value of JSON."""

    def restore(self, saved: Any) -> None:
        """Go on where another detokenizer of the same tokenizer and direction was saved, in place of a beginning.

        Nothing is known of the tokens before: their places were told by the other one.
        """


class Tokenizer(Protocol):
    """What the gateway and the exporter need of any unit of text."""

    unit: str
    tokens: tuple[str, ...]
    special: SpecialIds

    @property
    def max_token_characters(self) -> int | None:
        """Most characters of a text that one token stands for; None where there is no bound."""

    def encoding_bytes(self, num_bytes: int) -> int:
        """Return the most bytes of memory that encoding takes, ids included, for a text of this length in UTF-8."""

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, without start or end marks.

        What is not in the vocabulary is `special.unknown`, or dropped where no token is for it.
        """

    def decode(self, token_ids: Iterable[int]) -> str:
        """Return the text of the ids; special tokens have none."""

    def offsets(self, text: str) -> list[int]:
        """Return the place in `text` at which each token of `encode(text)` begins, in code points."""

    def detokenizer(self, follows: str = "") -> Detokenizer:
        """Return a detokenizer for text that continues `follows`."""

    def backward_detokenizer(self, precedes: str = "") -> Detokenizer:
        """Return a detokenizer for text that is written from its end and leads up to `precedes`."""

    def to_json(self) -> str:
        """Return the file's text, in Hugging Face `tokenizers` format."""


# Where a token begins, forwards, if nothing is held.
AT_THE_EDGE = (0,)


def padding_name(tokens: Iterable[str]) -> str:
    """Return what padding is called beside these tokens: `<pad>`, if no word from elsewhere is called so."""
    name, taken = PADDING, set(tokens)
    while name in taken:
        name += "_"
    return name


def _special_ids(tokens: Sequence[str], unknown: str | None) -> SpecialIds:
    """Find the special tokens of a vocabulary by their names.

    Raises:
        TokenizerError: padding or unknown is missing.
    """
    index = {token: i for i, token in enumerate(tokens)}
    padded = bool(tokens) and tokens[0] == padding_name(tokens[1:])
    if not padded or (unknown is not None and unknown not in index):
        raise TokenizerError(f"a vocabulary needs {PADDING} = 0 and {unknown or 'words'}; got {tokens[:4]} …")
    end = index.get(END)
    start = index.get(START, 0 if end is None else end)
    return SpecialIds(padding=0, unknown=0 if unknown is None else index[unknown], start=start, end=end)


class Vocabulary:
    """Tokens and their ids.

    Attributes:
        unknown: Token for what the vocabulary does not hold; None where that is dropped.
    """

    unit: str
    unknown: str | None

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
        return isinstance(other, type(self)) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.tokens)} tokens)"

    def _key(self) -> tuple[Any, ...]:
        """Return all that the tokenizer is made of."""
        return self.tokens, self.unknown

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
        # The format needs a token for what is unknown. Where there is none it is padding, which has no text either.
        return {"type": "WordLevel", "vocab": self._ids, "unk_token": self.tokens[self.special.unknown]}


class JoinedVocabulary(Vocabulary):
    """Tokens that are pieces of text: joined, they are the text."""

    def decode(self, token_ids: Iterable[int]) -> str:
        """Return the tokens joined; special ones have no text."""
        texts = self._texts
        return "".join([texts[i] for i in token_ids])

    def text(self, token_id: int) -> str:
        """Return what one token adds."""
        return self._texts[token_id]

    def detokenizer(self, follows: str = "") -> Detokenizer:  # noqa: ARG002 - these join the same way anywhere
        """Return a detokenizer; nothing is carried over from one call to the next."""
        return _JoiningDetokenizer(self)

    def backward_detokenizer(self, precedes: str = "") -> Detokenizer:  # noqa: ARG002 - as above
        """Return a backward detokenizer; nothing is carried over either."""
        return _BackwardJoiningDetokenizer(self)


@dataclass(frozen=True)
class _JoiningDetokenizer:
    vocabulary: JoinedVocabulary

    def feed(self, token_ids: Iterable[int]) -> str:
        return self.vocabulary.decode(token_ids)

    def flush(self) -> str:
        return ""

    def track(self, token_id: int | None) -> tuple[str, Sequence[int]]:
        return ("", ()) if token_id is None else (self.vocabulary.text(token_id), AT_THE_EDGE)

    def label(self, token_id: int) -> str:
        return self.vocabulary.tokens[token_id]

    def save(self) -> Any:
        return None

    def restore(self, saved: Any) -> None:
        pass


class _BackwardJoiningDetokenizer(_JoiningDetokenizer):
    def feed(self, token_ids: Iterable[int]) -> str:
        return self.vocabulary.decode([*token_ids][::-1])

    def track(self, token_id: int | None) -> tuple[str, Sequence[int]]:
        if token_id is None:
            return "", ()
        text = self.vocabulary.text(token_id)
        return text, (len(text),)
