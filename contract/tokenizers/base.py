"""Base classes of all tokenizers: special tokens, ids, detokenization and the file format."""

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from contract.errors import TokenizerError

PADDING = "<pad>"
UNKNOWN = "<unk>"
START = "<start>"
END = "<end>"
# Offset of a token, forwards, if nothing is buffered.
AT_THE_EDGE = (0,)


@dataclass(frozen=True)
class SpecialIds:
    """Ids of tokens without text.

    Attributes:
        padding: Pads sequences of unequal length; 0 in every vocabulary except imported Hugging Face ones.
        unknown: Stands for out-of-vocabulary text; equals `padding` if there is no unknown token, or no other padding.
        start: Prefilled when there is no prompt; falls back to `end` or `padding` where there is no start token.
        end: Ends a document, and with it the sequence; None for a corpus that is one running text. In a vocabulary that
            was trained here it is also `start`: the end of one document is the start of the next.
        labels: Label tokens, which precede a document; see `contract.label_columns`.
    """

    padding: int
    unknown: int
    start: int
    end: int | None
    labels: tuple[int, ...] = ()

    @property
    def ids(self) -> frozenset[int]:
        named = (self.padding, self.unknown, self.start, self.end)
        return frozenset((*(i for i in named if i is not None), *self.labels))

    @property
    def never_sampled(self) -> tuple[int, ...]:
        """Ids that must not be sampled: all but the end token."""
        return tuple(sorted(i for i in self.ids if i != self.end))


class Detokenizer(ABC):
    """An incremental detokenizer of one sequence; in this base class the text of a token is final at once.

    A forward detokenizer returns text deltas to append. A backward one takes ids in sampling order, the one nearest to
    the end of the text first, and returns text deltas to prepend. Use either `feed` or `track` for a sequence.
    """

    backward = False

    @abstractmethod
    def feed(self, token_ids: Iterable[int]) -> str:
        """Add tokens and return the text delta that is final; all deltas and the flush make up the whole text."""

    def flush(self) -> str:
        """Return the buffered text at the end of the sequence."""
        return ""

    def track(self, token_id: int | None) -> tuple[str, Sequence[int]]:
        """Add one token, or flush for None. Return the text delta, and where tokens begin.

        A token begins at the character that contains its first byte. The offsets are those that are now final, in order
        of the tokens: distances in code points from the edge of all text returned before (its end; backwards, its
        beginning).
        """
        if token_id is None:
            return "", ()
        text = self.feed((token_id,))
        return text, (len(text),) if self.backward else AT_THE_EDGE

    @abstractmethod
    def label(self, token_id: int) -> str:
        r"""Return the text that the token would have as the next one.

        For a token without text, return its name; for one of incomplete characters its bytes, as OpenAI does:
        `bytes:\xe2\x82`.
        """

    def save(self) -> Any:
        """Return the state to resume from, as a JSON value."""
        return None

    def restore(self, saved: Any) -> None:  # noqa: B027 - most have no state
        """Resume from the saved state of another detokenizer of the same tokenizer and direction.

        Offsets of tokens before that are not returned: the other detokenizer returned them.
        """


class Tokenizer(ABC):
    """The interface that the gateway and the exporter use, common to all units.

    Attributes:
        unit: "character", "word", "exact_word", "subword" or "regex".
        tokens: Token of each id, special ones included.
        textless_ids: Ids of tokens without text: special tokens, and ids that an imported vocabulary does not use.
    """

    unit: str
    tokens: tuple[str, ...]
    special: SpecialIds
    textless_ids: frozenset[int]

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def max_token_characters(self) -> int | None:
        """Maximum number of input characters per token; None if unlimited."""
        return None

    @property
    def changes_text(self) -> bool:
        """Whether text is lower-cased, standardized or split into words before it is encoded.

        Then decoding does not restore it.
        """
        return False

    @abstractmethod
    def encoding_bytes(self, num_bytes: int) -> int:
        """Return the peak memory in bytes of encoding a text of this UTF-8 length, ids included."""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, without start or end tokens.

        Out-of-vocabulary text becomes `special.unknown`, or is dropped if there is no unknown token.
        """

    @abstractmethod
    def offsets(self, text: str) -> list[int]:
        """Return the offset in `text` of each token of `encode(text)`, in code points.

        Tokens within one character share its offset.
        """

    def first_length(self, text: str, *, backward: bool) -> int:
        """Return the characters of the token that a model reads first, which is the last one of a backward model."""
        offsets = [*self.offsets(text), len(text)]
        if len(offsets) == 1:
            return len(text)  # it has no token
        return offsets[-1] - offsets[-2] if backward else offsets[1]

    @abstractmethod
    def decode(self, token_ids: Iterable[int]) -> str:
        """Return the text of the ids; special tokens have none."""

    @abstractmethod
    def token_bytes(self, *, first: bool, backward: bool = False) -> tuple[bytes, ...] | None:
        """Return the UTF-8 bytes that each token adds to a text, b"" for one without text.

        Args:
            first: As the first token that is generated, without what separates it from a prompt; else after another.
            backward: Whether text is generated from right to left.

        Returns:
            None if the text of a token depends on more than that.
        """

    @abstractmethod
    def detokenizer(self, beside: str = "", *, backward: bool = False) -> Detokenizer:
        """Return a detokenizer for text that continues `beside`, or is generated right to left and precedes it."""

    @abstractmethod
    def to_json(self) -> str:
        """Serialize to JSON in Hugging Face `tokenizers` format."""


def padding_name(tokens: Iterable[str]) -> str:
    """Return the name of the padding token: `<pad>`, or, if an imported word has this name, with underscores added."""
    name, taken = PADDING, set(tokens)
    while name in taken:
        name += "_"
    return name


def as_json(document: Mapping[str, Any]) -> str:
    """Format a tokenizer file: each token and each merge is on a line of its own."""
    return json.dumps(document, ensure_ascii=False, indent=1) + "\n"


class Vocabulary(Tokenizer):
    """A tokenizer of this project's own: maps tokens to ids, and knows special tokens by name.

    Attributes:
        unknown: Token for out-of-vocabulary text; None if that is dropped.
    """

    unknown: str | None = UNKNOWN

    def __init__(self, tokens: Sequence[str], labels: Collection[str] = ()) -> None:
        """Index a vocabulary: the token of each id, special ones included.

        Those of `labels` that are no other special token are label tokens.

        Raises:
            TokenizerError: duplicate token, or a special token is missing.
        """
        self.tokens = tuple(tokens)
        self._ids = {token: i for i, token in enumerate(self.tokens)}
        if len(self._ids) != len(self.tokens):
            duplicate = next(token for token, count in Counter(self.tokens).items() if count > 1)
            raise TokenizerError(f"token {duplicate!r} occurs twice in the vocabulary")
        self.special = self._find_special_ids()
        own = {self._ids[name] for name in labels if name in self._ids} - self.special.ids
        self.special = replace(self.special, labels=tuple(sorted(own)))
        self.textless_ids = self.special.ids
        self._text_ids = {token: i for token, i in self._ids.items() if i not in self.textless_ids}
        self._texts = tuple("" if i in self.textless_ids else token for i, token in enumerate(self.tokens))

    def _find_special_ids(self) -> SpecialIds:
        """Return the ids by name. Id 0 is padding, or the unknown token, as in Keras's `StringLookup`."""
        tokens, ids, unknown = self.tokens, self._ids, self.unknown
        is_padded = bool(tokens) and tokens[0] in (unknown, padding_name(tokens[1:]))
        if not is_padded or (unknown is not None and unknown not in ids):
            raise TokenizerError(f"a vocabulary needs {PADDING} = 0 and {unknown or 'words'}; got {tokens[:4]} …")
        end = ids.get(END)
        start = ids.get(START, 0 if end is None else end)
        return SpecialIds(padding=0, unknown=0 if unknown is None else ids[unknown], start=start, end=end)

    def extended(self, texts: Iterable[str], *, end_token: bool, labels: Iterable[str] = ()) -> Self:
        """Return a tokenizer that also has the new characters of some texts, and labels; other tokens keep their ids.

        Words and subwords have no new characters. A missing end token takes the id of the start token, or a new one.

        Raises:
            TokenizerError: a label is a token of the text.
        """
        tokens = list(self.tokens)
        if end_token and END not in self._ids:
            tokens = [END if token == START else token for token in tokens]
            tokens += [] if END in tokens else [END]
        known = [self.tokens[i] for i in self.special.labels]
        added = [label for label in labels if label not in known]
        return self._with_tokens([*tokens, *sorted(self._new_characters(texts)), *added], [*known, *added])

    def _new_characters(self, texts: Iterable[str]) -> set[str]:  # noqa: ARG002 - most encode or drop them anyhow
        """Return the characters of texts that would be tokens, but are not in the vocabulary."""
        return set()

    @abstractmethod
    def _with_tokens(self, tokens: Sequence[str], labels: Collection[str]) -> Self:
        """Return the same tokenizer with other tokens, and other names of label tokens."""

    def _json(self, model: Any, normalizer: Any, pre_tokenizer: Any, decoder: Any) -> str:
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        return as_json(
            {
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
        )


class LookupVocabulary(Vocabulary):
    """A vocabulary that encodes by looking up each part of a text: a character or a word."""

    def __init__(self, tokens: Sequence[str], labels: Collection[str] = ()) -> None:
        super().__init__(tokens, labels)
        # A word of a Keras vocabulary may have the name of a special token; text can contain it unless "<" is filtered.
        excluded = {self.special.padding, *self.special.labels}
        self._part_ids = {token: i for token, i in self._ids.items() if i not in excluded}

    @abstractmethod
    def _parts(self, text: str) -> Sequence[str]: ...

    @abstractmethod
    def _part_offsets(self, text: str) -> list[int]: ...

    def encode(self, text: str) -> list[int]:
        ids, unknown = self._part_ids, self.special.unknown
        if self.unknown is None:
            return [ids[part] for part in self._parts(text) if part in ids]
        return [ids.get(part, unknown) for part in self._parts(text)]

    def offsets(self, text: str) -> list[int]:
        offsets = self._part_offsets(text)
        if self.unknown is None:
            pairs = zip(offsets, self._parts(text), strict=True)
            return [offset for offset, part in pairs if part in self._part_ids]
        return offsets

    def _word_level(self) -> Any:
        # The format requires an unknown token. Without one it is padding, which has no text either.
        return {"type": "WordLevel", "vocab": self._ids, "unk_token": self.tokens[self.special.unknown]}


class JoinedTexts(Vocabulary):
    """A vocabulary whose token texts, concatenated, are the text."""

    def decode(self, token_ids: Iterable[int]) -> str:
        texts = self._texts
        return "".join([texts[i] for i in token_ids])

    def token_bytes(self, *, first: bool, backward: bool = False) -> tuple[bytes, ...] | None:  # noqa: ARG002
        return tuple(text.encode("utf-8", "surrogatepass") for text in self._texts)

    def detokenizer(self, beside: str = "", *, backward: bool = False) -> Detokenizer:  # noqa: ARG002 - as anywhere
        return _JoiningDetokenizer(self, backward=backward)


class _JoiningDetokenizer(Detokenizer):
    def __init__(self, vocabulary: JoinedTexts, *, backward: bool) -> None:
        self._vocabulary, self.backward = vocabulary, backward

    def feed(self, token_ids: Iterable[int]) -> str:
        return self._vocabulary.decode([*token_ids][::-1] if self.backward else token_ids)

    def label(self, token_id: int) -> str:
        return self._vocabulary.tokens[token_id]
