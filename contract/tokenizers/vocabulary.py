"""Shared base of all tokenizers: special tokens, ids, file format, and the `Tokenizer` and `Detokenizer` protocols."""

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from contract.errors import TokenizerError
from contract.tokenizers import huggingface

PADDING = "<pad>"
UNKNOWN = "<unk>"
START = "<start>"
END = "<end>"


@dataclass(frozen=True)
class SpecialIds:
    """Ids of tokens without text.

    Attributes:
        padding: Pads sequences of unequal length; 0 in every vocabulary except imported Hugging Face ones.
        unknown: Stands for out-of-vocabulary text; equals `padding` if there is no unknown token, or no other padding.
        start: Prefilled when there is no prompt; falls back to `end` or `padding` where there is no start token.
        end: Ends a document, and with it the sequence; None for a corpus that is one running text. In a vocabulary that
            was trained here it is also `start`: the end of one document is the start of the next.
    """

    padding: int
    unknown: int
    start: int
    end: int | None

    @property
    def never_sampled(self) -> tuple[int, ...]:
        """Ids that must not be sampled: all but the end token."""
        return tuple(sorted({self.padding, self.unknown, self.start} - {self.end}))


class Detokenizer(Protocol):
    """An incremental detokenizer of one sequence.

    A forward detokenizer returns text deltas to append. A backward one takes ids in sampling order, the one nearest to
    the end of the text first, and returns text deltas to prepend. Use either `feed` or `track` for a sequence.
    """

    def feed(self, token_ids: Iterable[int]) -> str:
        """Add tokens and return the text delta that is final; all deltas and the flush make up the whole text."""

    def flush(self) -> str:
        """Return the buffered text at the end of the sequence."""

    def track(self, token_id: int | None) -> tuple[str, Sequence[int]]:
        """Add one token, or flush for None. Return the text delta, and where tokens begin.

        A token begins at the character that contains its first byte. The offsets are those that are now final, in order
        of the tokens: distances in code points from the edge of all text returned before (its end; backwards, its
        beginning).
        """

    def label(self, token_id: int) -> str:
        r"""Return the text that the token would have as the next one.

        For a token without text, return its name; for one of incomplete characters its bytes, as OpenAI does:
        `bytes:\xe2\x82`.
        """

    def save(self) -> Any:
        """Return the state to resume from, as a JSON value."""

    def restore(self, saved: Any) -> None:
        """Resume from the saved state of another detokenizer of the same tokenizer and direction.

        Offsets of tokens before that are not returned: the other detokenizer returned them.
        """


class Tokenizer(Protocol):
    """The interface that the gateway and the exporter use, common to all units."""

    unit: str
    tokens: tuple[str, ...]
    special: SpecialIds
    # Ids of tokens without text: special tokens, and ids that an imported vocabulary does not use.
    textless_ids: frozenset[int]

    @property
    def max_token_characters(self) -> int | None:
        """Maximum number of input characters per token; None if unlimited."""

    def encoding_bytes(self, num_bytes: int) -> int:
        """Return the peak memory in bytes of encoding a text of this UTF-8 length, ids included."""

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, without start or end tokens.

        Out-of-vocabulary text becomes `special.unknown`, or is dropped if there is no unknown token.
        """

    def decode(self, token_ids: Iterable[int]) -> str:
        """Return the text of the ids; special tokens have none."""

    def offsets(self, text: str) -> list[int]:
        """Return the offset in `text` of each token of `encode(text)`, in code points."""

    def detokenizer(self, beside: str = "", *, backward: bool = False) -> Detokenizer:
        """Return a detokenizer for text that continues `beside`, or is generated right to left and precedes it."""

    def token_bytes(self, *, first: bool, backward: bool = False) -> tuple[bytes, ...] | None:
        """Return the UTF-8 bytes that each token adds to a text, b"" for one without text.

        Args:
            first: As the first token that is generated, without what separates it from a prompt; else after another.
            backward: Whether text is generated from right to left.

        Returns:
            None if the text of a token depends on more than that.
        """

    def to_json(self) -> str:
        """Serialize to JSON in Hugging Face `tokenizers` format."""


# Offset of a token, forwards, if nothing is buffered.
AT_THE_EDGE = (0,)


def padding_name(tokens: Iterable[str]) -> str:
    """Return the name of the padding token: `<pad>`, or, if an imported word has this name, with underscores added."""
    name, taken = PADDING, set(tokens)
    while name in taken:
        name += "_"
    return name


def _special_ids(tokens: Sequence[str], unknown: str | None, *, needs_padding: bool) -> SpecialIds:
    """Return the special ids of a vocabulary, found by token name."""
    index = {token: i for i, token in enumerate(tokens)}
    padded = bool(tokens) and tokens[0] == padding_name(tokens[1:])
    padded = padded or (not needs_padding and tokens[:1] == (unknown,))
    if not padded or (unknown is not None and unknown not in index):
        raise TokenizerError(f"a vocabulary needs {PADDING} = 0 and {unknown or 'words'}; got {tokens[:4]} …")
    end = index.get(END)
    start = index.get(START, 0 if end is None else end)
    return SpecialIds(padding=0, unknown=0 if unknown is None else index[unknown], start=start, end=end)


class Vocabulary:
    """Base class that maps tokens to ids.

    Attributes:
        unknown: Token for out-of-vocabulary text; None if that is dropped.
        needs_padding: Whether id 0 must be padding. Else it may be the unknown token, as in Keras's `StringLookup`.
    """

    unit: str
    needs_padding = True
    unknown: str | None

    def __init__(self, tokens: Sequence[str]) -> None:
        """Index a vocabulary: the token of each id, special ones included.

        Raises:
            TokenizerError: duplicate token, or a special token is missing.
        """
        self.tokens = tuple(tokens)
        self.special = _special_ids(self.tokens, self.unknown, needs_padding=self.needs_padding)
        self._ids = {token: i for i, token in enumerate(self.tokens)}
        if len(self._ids) != len(self.tokens):
            duplicate = next(token for token, count in Counter(self.tokens).items() if count > 1)
            raise TokenizerError(f"token {duplicate!r} occurs twice in the vocabulary")
        self.textless_ids = frozenset(i for i in vars(self.special).values() if i is not None)
        self._text_ids = {token: i for token, i in self._ids.items() if i not in self.textless_ids}
        self._texts = tuple("" if i in self.textless_ids else token for i, token in enumerate(self.tokens))

    def __len__(self) -> int:
        return len(self.tokens)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.tokens)} tokens)"

    def encoding_bytes(self, num_bytes: int) -> int:
        """See `Tokenizer`: the memory of Hugging Face's library, unless a subclass encodes by itself."""
        return huggingface.encoding_bytes(num_bytes)

    def _key(self) -> tuple[Any, ...]:
        """Return the values that equality and hash depend on."""
        return self.tokens, self.unknown

    def _json(self, model: Any, normalizer: Any, pre_tokenizer: Any, decoder: Any) -> str:
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        document = {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [{"id": i, "content": self.tokens[i], **flags} for i in sorted(self.textless_ids)],
            "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer,
            "post_processor": None,
            "decoder": decoder,
            "model": model,
        }
        return json.dumps(document, ensure_ascii=False, indent=1) + "\n"

    def _word_level(self) -> Any:
        # The format requires an unknown token. Without one it is padding, which has no text either.
        return {"type": "WordLevel", "vocab": self._ids, "unk_token": self.tokens[self.special.unknown]}


class JoinedVocabulary(Vocabulary):
    """A vocabulary whose token texts, concatenated, are the text."""

    def decode(self, token_ids: Iterable[int]) -> str:
        """Return the tokens joined; special tokens have no text."""
        texts = self._texts
        return "".join([texts[i] for i in token_ids])

    def token_bytes(self, *, first: bool, backward: bool = False) -> tuple[bytes, ...] | None:  # noqa: ARG002
        """See `Tokenizer`: it is the same everywhere."""
        return tuple(text.encode("utf-8", "surrogatepass") for text in self._texts)

    def detokenizer(self, beside: str = "", *, backward: bool = False) -> Detokenizer:  # noqa: ARG002 - as anywhere
        """Return a stateless detokenizer."""
        return _JoiningDetokenizer(self, backward=backward)


@dataclass
class UnbufferedDetokenizer(ABC):
    """Base class of detokenizers whose text deltas are final at once; see `Detokenizer`."""

    backward: bool

    @abstractmethod
    def feed(self, token_ids: Iterable[int]) -> str:
        """Add tokens and return the text delta."""

    def flush(self) -> str:
        """Return nothing: no text is buffered."""
        return ""

    def track(self, token_id: int | None) -> tuple[str, Sequence[int]]:
        """Add one token and return its text delta and offset; see `Detokenizer.track`."""
        if token_id is None:
            return "", ()
        text = self.feed((token_id,))
        return text, (len(text),) if self.backward else AT_THE_EDGE


class _JoiningDetokenizer(UnbufferedDetokenizer):
    def __init__(self, vocabulary: JoinedVocabulary, *, backward: bool) -> None:
        super().__init__(backward)
        self._vocabulary = vocabulary

    def feed(self, token_ids: Iterable[int]) -> str:
        return self._vocabulary.decode([*token_ids][::-1] if self.backward else token_ids)

    def label(self, token_id: int) -> str:
        return self._vocabulary.tokens[token_id]

    def save(self) -> Any:
        return None

    def restore(self, saved: Any) -> None:
        pass
