"""Imported tokenizers of Hugging Face's `tokenizers`: the library encodes.

Decoding gives the library's text, but incrementally. Only the usual decoders allow that: those
where the text of a token depends on nothing but whether another token precedes it.

Files of imported tokenizers have a post-processor, at least a no-op; files of this project's own units have none.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from contract.errors import TokenizerError
from contract.tokenizers.base import Detokenizer, as_json
from contract.tokenizers.byte_level import BYTES, ByteTexts
from contract.tokenizers.huggingface import read_library, without_surrogates
from contract.tokenizers.special_tokens import find_special_tokens

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Library

_UNITS = {"BPE": "subword", "Unigram": "subword", "WordPiece": "subword", "WordLevel": "word"}
# Decoders that insert spaces between tokens; and those whose tokens contain the spaces.
_SPACING = (None, "WordPiece", "BPEDecoder")
_DECODERS = (*_SPACING, "Metaspace", "Fuse", "ByteLevel")
# Sixteen times as many as the largest vocabularies in use.
MAX_TOKENS = 1 << 22
# Enough text to determine its first token, unless that is longer than any word.
_HEAD_CHARACTERS = 100


def is_imported(document: Any) -> bool:
    """Return whether `ImportedTokenizer` wrote this document."""
    return isinstance(document, dict) and document.get("post_processor") is not None


class ImportedTokenizer(ByteTexts):
    """A tokenizer backed by Hugging Face's library; only a byte-level decoder joins bytes.

    Tokens that the file marks as special have no text, as in the library. No text can spell one.
    """

    def __init__(self, document: Any) -> None:
        """Load from the parsed JSON of a file.

        Raises:
            TokenizerError: the library cannot read it, or its decoder does not allow incremental decoding.
        """
        self._document = _normalize(document)
        self._library = _build(self._document)
        model, decoder = self._document["model"], self._document.get("decoder")
        self.unit = _UNITS[model["type"]]
        self.decoder = _Decoder(self._library, decoder)
        names = {i: name for name, i in self._library.get_vocab().items()}
        if max(names, default=0) >= MAX_TOKENS:
            # Every id gets a name, including unused ids.
            raise TokenizerError(f"token ids must be below {MAX_TOKENS:,}, got {max(names):,}")
        self.tokens = tuple(names.get(i, f"<unused {i}>") for i in range(max(names, default=-1) + 1))
        self.special, textless = find_special_tokens(self._library, model, self.tokens)
        self.named_textless_ids = frozenset(textless)
        self.textless_ids = frozenset(textless | (set(range(len(self.tokens))) - names.keys()))
        self._bytes = ()
        if self.decoder.joins_bytes:
            self._bytes = tuple(b"" if i in self.textless_ids else _token_bytes(t) for i, t in enumerate(self.tokens))
        # Not before `find_special_tokens`. A post-processor would move token offsets behind the leading space.
        self._library.post_processor = None
        self._library.encode_special_tokens = True

    def encoding_bytes(self, num_bytes: int) -> int:
        # 370 bytes per byte were measured for one-byte tokens; text is not encoded in chunks here.
        return 400 * num_bytes

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._library.encode(without_surrogates(text), add_special_tokens=False).ids
        return ids

    def offsets(self, text: str) -> list[int]:
        encoding = self._library.encode(without_surrogates(text), add_special_tokens=False)
        return [start for start, _ in encoding.offsets]

    def decode(self, token_ids: Iterable[int]) -> str:
        if self.decoder.joins_bytes:
            return super().decode(token_ids)
        return self.decoder.text([self.tokens[i] for i in token_ids if i not in self.textless_ids])

    def detokenizer(self, beside: str = "", *, backward: bool = False) -> Detokenizer:
        """Return a detokenizer; if the decoder joins by spaces, one separates `beside` from the word at the edge."""
        if self.decoder.joins_bytes:
            return super().detokenizer(beside, backward=backward)
        return _BackwardImportedDetokenizer(self, beside) if backward else _ImportedDetokenizer(self, beside)

    def token_bytes(self, *, first: bool, backward: bool = False) -> tuple[bytes, ...] | None:
        """Return None for BPE with word suffixes, and for a backward model unless tokens are bytes.

        A token whose text depends on more of what precedes it than a separator, such as WordPiece's ##s, is none to
        begin with: it has no text there.
        """
        if self.decoder.joins_bytes:
            return self._bytes
        if backward or self.decoder.has_suffix:
            return None
        texts = self._texts_after(self.decoder.anchor)
        if first:
            pairs = zip(self._texts_after(), texts, strict=True)
            texts = [alone if text in (alone, f" {alone}") else "" for alone, text in pairs]
        return tuple(text.encode() for text in texts)

    def _texts_after(self, *previous: str) -> list[str]:
        """Return `token_text` of every token, in two thirds of the time."""
        start, text = len(self.decoder.text(previous)), self.decoder.text
        return ["" if i in self.textless_ids else text([*previous, name])[start:] for i, name in enumerate(self.tokens)]

    def token_text(self, token_id: int, previous: str | None) -> str:
        """Return the text that a token adds after the preceding one with text, if there is one."""
        return "" if token_id in self.textless_ids else self.decoder.token_text(self.tokens[token_id], previous)

    def label(self, token_id: int) -> str:
        """Return a token's text after another token, or its name if it has none."""
        if self.decoder.joins_bytes:
            return super().label(token_id)
        return self.token_text(token_id, self.decoder.anchor) or self.tokens[token_id]

    def token(self, token_id: int) -> str | None:
        """Return the decoder's input for an id; None if it has no text."""
        return None if token_id in self.textless_ids else self.tokens[token_id]

    def to_json(self) -> str:
        return as_json(self._document)


def _normalize(document: Any) -> dict[str, Any]:
    """Remove BPE dropout, truncation and padding, and add a post-processor, which marks the file as imported."""
    processor = document.get("post_processor") or {"type": "Sequence", "processors": []}
    model = document["model"]
    if model.get("dropout") is not None:
        model = {**model, "dropout": None}
    return {**document, "model": model, "truncation": None, "padding": None, "post_processor": processor}


def _build(document: Mapping[str, Any]) -> "Library":
    model, decoder = document["model"], document.get("decoder") or {}
    if model.get("type") not in _UNITS:
        raise TokenizerError(f"model.type must be one of {sorted(_UNITS)}, got {model.get('type')!r}")
    if decoder.get("type") not in _DECODERS:
        kinds = [part["type"] for part in decoder.get("decoders", [decoder])]
        served = ", ".join(kind for kind in _DECODERS if kind)
        raise TokenizerError(
            f"a decoder of {' + '.join(kinds)} is not supported; supported are {served}, and none at all"
        )
    return read_library(document)


def _token_bytes(token: str) -> bytes:
    """Return the bytes of a token; one outside GPT-2's alphabet is taken as text, as in the library."""
    try:
        return bytes(map(BYTES.__getitem__, token))
    except KeyError:
        return token.encode()


class _Decoder:
    """A decoder of token texts, whole or incremental.

    Attributes:
        joins_bytes: Whether tokens are bytes in GPT-2's alphabet.
        joins_by_spaces: Whether spaces are inserted between tokens.
        has_suffix: Whether a token's own suffix decides whether a space follows it.
        anchor: Placeholder for an unknown preceding token that ends a word.
    """

    def __init__(self, library: "Library", description: Any) -> None:
        kind = (description or {}).get("type")
        self.joins_bytes, self.joins_by_spaces = kind == "ByteLevel", kind in _SPACING
        suffix = description["suffix"] if kind == "BPEDecoder" else ""
        self.has_suffix = bool(suffix)
        self.anchor = "x" + suffix
        self._library = library.decoder
        if suffix and any(suffix in name.removesuffix(suffix) for name in library.get_vocab()):
            raise TokenizerError(f"a token has the decoder's suffix {suffix!r} in its middle")

    def text(self, tokens: Sequence[str]) -> str:
        """Return the text of tokens, unless they are bytes."""
        return " ".join(tokens) if self._library is None else self._library.decode(tokens)

    def token_text(self, token: str, previous: str | None) -> str:
        """Return the text that a token adds after `previous`; its whole text for None."""
        if previous is None:
            return self.text([token])
        return self.text([previous, token])[len(self.text([previous])) :]


class _ImportedDetokenizer(Detokenizer):
    def __init__(self, tokenizer: ImportedTokenizer, follows: str) -> None:
        self._tokenizer = tokenizer
        self._previous = tokenizer.decoder.anchor if follows else None
        self._is_set_off = tokenizer.decoder.joins_by_spaces and follows[-1:].isspace()

    def feed(self, token_ids: Iterable[int]) -> str:
        return "".join([self._append(token_id) for token_id in token_ids])

    def label(self, token_id: int) -> str:
        return self._token_text(token_id) or self._tokenizer.tokens[token_id]

    def save(self) -> Any:
        return [self._previous, self._is_set_off]

    def restore(self, saved: Any) -> None:
        self._previous, self._is_set_off = saved

    def _append(self, token_id: int) -> str:
        token_text, token = self._token_text(token_id), self._tokenizer.token(token_id)
        if token is not None:
            self._previous, self._is_set_off = token, False
        return token_text

    def _token_text(self, token_id: int) -> str:
        token_text = self._tokenizer.token_text(token_id, self._previous)
        return token_text.removeprefix(" ") if self._is_set_off else token_text


class _BackwardImportedDetokenizer(Detokenizer):
    """A backward detokenizer that buffers the first token: its text depends on whether another precedes it."""

    def __init__(self, tokenizer: ImportedTokenizer, precedes: str) -> None:
        self._tokenizer, self._precedes = tokenizer, precedes
        self._buffered: int | None = None
        # Tracked tokens without a final offset: the buffered one, and those without text before it.
        self._num_pending = 0

    def feed(self, token_ids: Iterable[int]) -> str:
        return "".join([self._prepend(token_id) for token_id in token_ids][::-1])

    def flush(self) -> str:
        return self._release(None)

    def track(self, token_id: int | None) -> tuple[str, Sequence[int]]:
        if token_id is not None and self._tokenizer.token(token_id) is None:
            if self._buffered is None:
                return "", (0,)
            self._num_pending += 1
            return "", ()
        text = self.flush() if token_id is None else self._prepend(token_id)
        offsets = (len(text),) * self._num_pending
        self._num_pending = int(token_id is not None)
        return text, offsets

    def label(self, token_id: int) -> str:
        return self._tokenizer.label(token_id)

    def save(self) -> Any:
        return [self._buffered, self._precedes[:_HEAD_CHARACTERS]]

    def restore(self, saved: Any) -> None:
        self._buffered, self._precedes = saved

    def _prepend(self, token_id: int) -> str:
        """Buffer a token, and return the text of the one that was buffered."""
        token = self._tokenizer.token(token_id)
        if token is None:
            return ""
        text = self._release(token)
        self._buffered = token_id
        return text

    def _release(self, previous: str | None) -> str:
        """Return the text of the buffered token, given the token before it."""
        if self._buffered is None:
            return ""
        text = self._tokenizer.token_text(self._buffered, previous) + self._separator(self._buffered)
        self._buffered, self._precedes = None, ""
        return text

    def _separator(self, token_id: int) -> str:
        """Return a space if the decoder puts one between the last token and the text that follows, else nothing."""
        if not self._precedes or self._precedes[0].isspace():
            return ""
        following = self._tokenizer.encode(self._precedes[:_HEAD_CHARACTERS])[:1]
        token_text = self._tokenizer.token_text(following[0], self._tokenizer.token(token_id)) if following else ""
        return " " if token_text[:1] == " " else ""
