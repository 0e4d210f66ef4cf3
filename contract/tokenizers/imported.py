"""Tokenizers of Hugging Face's `tokenizers` that were made elsewhere.

Encoded by the library. Decoded as the library does, a few tokens at a time, which only its usual decoders allow: each
token's text depends on no more than whether one stands before it.

A file of this kind has a post-processor, if only one that does nothing, and those of this project's own units none.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from contract.errors import TokenizerError
from contract.tokenizers.huggingface import without_surrogates
from contract.tokenizers.special_tokens import find_special_tokens
from contract.tokenizers.subwords import BYTES, backward_byte_detokenizer, byte_detokenizer, byte_label
from contract.tokenizers.vocabulary import AT_THE_EDGE, Detokenizer

if TYPE_CHECKING:
    import tokenizers

_UNITS = {"BPE": "subword", "Unigram": "subword", "WordPiece": "subword", "WordLevel": "word"}
# Decoders that join tokens by spaces, which stand in no token; and those whose tokens hold theirs.
_SPACING = (None, "WordPiece", "BPEDecoder")
_DECODERS = (*_SPACING, "Metaspace", "Fuse", "ByteLevel")
# Sixteen times as many as the largest vocabularies in use.
MAX_TOKENS = 1 << 22
# Enough of a text to know its first token, but for one that is longer than any word.
_HEAD_CHARACTERS = 100


def is_imported(document: Any) -> bool:
    """Say whether `ImportedTokenizer` wrote this."""
    return isinstance(document, dict) and document.get("post_processor") is not None


class ImportedTokenizer:
    """A tokenizer that the library encodes by.

    Tokens that the file calls special have no text, as in the library. No text can spell one.
    """

    def __init__(self, document: Any) -> None:
        """Take a file's content.

        Raises:
            TokenizerError: the library cannot read it, or texts cannot be decoded piece by piece.
        """
        self._document = _normal(document)
        self._library = _build(self._document)
        model, decoder = self._document["model"], self._document.get("decoder")
        self.unit = _UNITS[model["type"]]
        self._decoder = _Decoder(self._library, decoder)
        names = {i: name for name, i in self._library.get_vocab().items()}
        if max(names, default=0) >= MAX_TOKENS:
            # A name is made for every id, also for those that the file leaves out.
            raise TokenizerError(f"token ids must be below {MAX_TOKENS:,}, got {max(names):,}")
        self.tokens = tuple(names.get(i, f"<unused {i}>") for i in range(max(names, default=-1) + 1))
        self.special, self._silent = find_special_tokens(self._library, model, self.tokens)
        self._silent |= set(range(len(self.tokens))) - names.keys()
        # Only now: it would shift the places of tokens to the letter after their space.
        self._library.post_processor = None
        self._library.encode_special_tokens = True

    def __len__(self) -> int:
        return len(self.tokens)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ImportedTokenizer) and self._document == other._document

    def __hash__(self) -> int:
        return hash(self.tokens)

    def __repr__(self) -> str:
        return f"ImportedTokenizer({self._document['model']['type']}, {len(self.tokens)} tokens)"

    @property
    def max_token_characters(self) -> int | None:
        """None: a normalizer may drop characters, and a word of any length may be unknown."""
        return None

    def encoding_bytes(self, num_bytes: int) -> int:
        """See `Tokenizer`: 370 were measured for tokens of one byte; such a text cannot be encoded in chunks."""
        return 400 * num_bytes

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without marks."""
        ids: list[int] = self._library.encode(without_surrogates(text), add_special_tokens=False).ids
        return ids

    def offsets(self, text: str) -> list[int]:
        """Return the place at which each token begins; tokens inside of one character share its place."""
        encoding = self._library.encode(without_surrogates(text), add_special_tokens=False)
        return [start for start, _ in encoding.offsets]

    def decode(self, token_ids: Iterable[int]) -> str:
        """Return the text that the library has for the ids; special tokens have none."""
        return self._decoder.text([self.tokens[i] for i in token_ids if i not in self._silent])

    def detokenizer(self, follows: str = "") -> Detokenizer:
        """Return a detokenizer; where the decoder joins by spaces, one stands between `follows` and the first word."""
        if self._decoder.joins_bytes:
            return byte_detokenizer(self)
        return _PieceDetokenizer(self, follows)

    def backward_detokenizer(self, precedes: str = "") -> Detokenizer:
        """Return a backward detokenizer, which holds the first token until it is known what stands before it."""
        if self._decoder.joins_bytes:
            return backward_byte_detokenizer(self)
        return _BackwardPieceDetokenizer(self, precedes)

    def join(self, token_ids: Iterable[int]) -> bytes:
        """Return the bytes of the ids, of a vocabulary of bytes; special tokens have none."""
        return b"".join([_token_bytes(self.tokens[i]) for i in token_ids if i not in self._silent])

    def piece(self, token_id: int, previous: str | None) -> str:
        """Return what a token adds to a text.

        Args:
            token_id: Any id.
            previous: The token before it that has text; None for none.
        """
        return "" if token_id in self._silent else self._decoder.piece(self.tokens[token_id], previous)

    def label(self, token_id: int) -> str:
        """Return a token's text within a text, or its name if it has none."""
        if self._decoder.joins_bytes:
            return byte_label(self.join([token_id]), self.tokens[token_id])
        return self.piece(token_id, self.anchor) or self.tokens[token_id]

    @property
    def anchor(self) -> str:
        """What stands for a token at the end of a word that is not known."""
        return self._decoder.anchor

    @property
    def joins_by_spaces(self) -> bool:
        """Whether spaces stand between tokens and not in them."""
        return self._decoder.kind in _SPACING

    def token(self, token_id: int) -> str | None:
        """Return a token for the decoder; None if it has no text."""
        return None if token_id in self._silent else self.tokens[token_id]

    def to_json(self) -> str:
        """Return the file's text, in Hugging Face `tokenizers` format."""
        return json.dumps(self._document, ensure_ascii=False, indent=1) + "\n"


def _normal(document: Any) -> dict[str, Any]:
    """Leave out what would change a text's ids from one call to the next, or cut them; and mark the file."""
    processor = document.get("post_processor") or {"type": "Sequence", "processors": []}
    model = document["model"]
    if model.get("dropout") is not None:
        model = {**model, "dropout": None}
    return {**document, "model": model, "truncation": None, "padding": None, "post_processor": processor}


def _build(document: Mapping[str, Any]) -> "tokenizers.Tokenizer":
    from tokenizers import Tokenizer  # noqa: PLC0415 - see `huggingface`

    model, decoder = document["model"], document.get("decoder") or {}
    if model.get("type") not in _UNITS:
        raise TokenizerError(f"model.type must be one of {sorted(_UNITS)}, got {model.get('type')!r}")
    if decoder.get("type") not in _DECODERS:
        kinds = [part["type"] for part in decoder.get("decoders", [decoder])]
        served = ", ".join(kind for kind in _DECODERS if kind)
        raise TokenizerError(f"a decoder of {' + '.join(kinds)} is not served; served are {served}, and none at all")
    try:
        return Tokenizer.from_str(json.dumps(document))
    except Exception as error:
        # The library raises nothing narrower.
        raise TokenizerError(f"Hugging Face's library cannot read it: {error}") from error


def _token_bytes(token: str) -> bytes:
    """Return the bytes of a token; one that is not written in GPT-2's alphabet is its own text, as in the library."""
    try:
        return bytes(map(BYTES.__getitem__, token))
    except KeyError:
        return token.encode()


class _Decoder:
    """The text of tokens, all at once and one after another."""

    def __init__(self, library: "tokenizers.Tokenizer", description: Any) -> None:
        self.kind = (description or {}).get("type")
        self.joins_bytes = self.kind == "ByteLevel"
        suffix = description["suffix"] if self.kind == "BPEDecoder" else ""
        self.anchor = "x" + suffix
        self._library = library.decoder
        if suffix and any(suffix in name.removesuffix(suffix) for name in library.get_vocab()):
            raise TokenizerError(f"a token has the decoder's suffix {suffix!r} in its middle")

    def text(self, tokens: Sequence[str]) -> str:
        """Return the text of tokens."""
        if self.joins_bytes:
            return b"".join(map(_token_bytes, tokens)).decode("utf-8", "replace")
        return " ".join(tokens) if self._library is None else self._library.decode(tokens)

    def piece(self, token: str, previous: str | None) -> str:
        """Return what a token adds to a text that ends in another; all of its text for None."""
        if previous is None:
            return self.text([token])
        return self.text([previous, token])[len(self.text([previous])) :]


class _PieceDetokenizer:
    def __init__(self, tokenizer: ImportedTokenizer, follows: str) -> None:
        self._tokenizer = tokenizer
        self._previous = tokenizer.anchor if follows else None
        self._is_set_off = tokenizer.joins_by_spaces and follows[-1:].isspace()

    def feed(self, token_ids: Iterable[int]) -> str:
        return "".join([self._take(token_id) for token_id in token_ids])

    def flush(self) -> str:
        return ""

    def track(self, token_id: int | None) -> tuple[str, Sequence[int]]:
        return ("", ()) if token_id is None else (self._take(token_id), AT_THE_EDGE)

    def label(self, token_id: int) -> str:
        return self._piece(token_id) or self._tokenizer.tokens[token_id]

    def save(self) -> Any:
        return [self._previous, self._is_set_off]

    def restore(self, saved: Any) -> None:
        self._previous, self._is_set_off = saved

    def _take(self, token_id: int) -> str:
        piece, token = self._piece(token_id), self._tokenizer.token(token_id)
        if token is not None:
            self._previous, self._is_set_off = token, False
        return piece

    def _piece(self, token_id: int) -> str:
        piece = self._tokenizer.piece(token_id, self._previous)
        return piece.removeprefix(" ") if self._is_set_off else piece


class _BackwardPieceDetokenizer:
    """Holds the token that is first so far: what it adds depends on whether one stands before it."""

    def __init__(self, tokenizer: ImportedTokenizer, precedes: str) -> None:
        self._tokenizer, self._precedes = tokenizer, precedes
        self._held: int | None = None
        # Tokens tracked whose place is not told yet: the held one, and those without text before it.
        self._num_unplaced = 0

    def feed(self, token_ids: Iterable[int]) -> str:
        return "".join([self._take(token_id) for token_id in token_ids][::-1])

    def flush(self) -> str:
        return self._release(None)

    def track(self, token_id: int | None) -> tuple[str, Sequence[int]]:
        if token_id is not None and self._tokenizer.token(token_id) is None:
            if self._held is None:
                return "", (0,)
            self._num_unplaced += 1
            return "", ()
        text = self.flush() if token_id is None else self._take(token_id)
        places = (len(text),) * self._num_unplaced
        self._num_unplaced = int(token_id is not None)
        return text, places

    def label(self, token_id: int) -> str:
        return self._tokenizer.label(token_id)

    def save(self) -> Any:
        return [self._held, self._precedes[:_HEAD_CHARACTERS]]

    def restore(self, saved: Any) -> None:
        self._held, self._precedes = saved

    def _take(self, token_id: int) -> str:
        """Take a token, and return the text of the one behind it."""
        token = self._tokenizer.token(token_id)
        if token is None:
            return ""
        text = self._release(token)
        self._held = token_id
        return text

    def _release(self, previous: str | None) -> str:
        """Return the text of the held token, now that it is known what stands before it."""
        if self._held is None:
            return ""
        text = self._tokenizer.piece(self._held, previous) + self._joint(self._held)
        self._held, self._precedes = None, ""
        return text

    def _joint(self, token_id: int) -> str:
        """Return the space between the last token and the text that is there already, if one belongs there."""
        if not self._precedes or self._precedes[0].isspace():
            return ""
        following = self._tokenizer.encode(self._precedes[:_HEAD_CHARACTERS])[:1]
        piece = self._tokenizer.piece(following[0], self._tokenizer.token(token_id)) if following else ""
        return " " if piece[:1] == " " else ""
