"""Vocabularies that Hugging Face's `tokenizers` encodes with: it splits text by regular expressions.

Training and serving use the same engine, configured by the tokenizer file: the Unicode version of Python's `re` depends
on the Python version, and it has no class for combining marks. The library is imported by the first tokenizer that
needs it: 16 ms, 7 MB.
"""

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

from contract.errors import TokenizerError
from contract.tokenizers.base import Vocabulary

if TYPE_CHECKING:
    import tokenizers

CHUNK_CHARACTERS = 1 << 15
# List entry and int object.
_BYTES_PER_ID = 40
# Maximum number of chunks without white space to learn merges from, about 4 million characters. Each character costs up
# to 90 bytes of memory and 10 µs; repeated words cost next to nothing.
MAX_ENDLESS_CHUNKS = 64
# Maximum number of characters without white space in one chunk of a `Chunker`.
MAX_ENDLESS = 1 << 22
# White space that belongs to no word: a run up to its last line break, then all of it but the last character.
WHITE_SPACE = r"\s*[\r\n]+|\s+(?!\S)|\s+"

# Start of white space, a line break if possible: a match of this project's own patterns crosses neither, one of a
# `RegexTokenizer` may cross a space. The characters are listed because Python's `\s` matches some that the library's
# does not (U+001C to U+001F).
_CUTS = (re.compile(r"(?<=\S)\n"), re.compile(r"(?<=\S)[ \t]"))
_SURROGATE = re.compile("[\ud800-\udfff]")


def split_by(pattern: str, behavior: str = "Isolated") -> dict[str, Any]:
    """Return the pre-tokenizer that splits text into all matches of a pattern, or, with "Removed", what is between."""
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": False}


def byte_pairs(vocabulary: Mapping[str, int], merges: Sequence[Sequence[str]], unknown: str | None) -> dict[str, Any]:
    """Return the description of a BPE model: merges are by priority.

    Without merges, each pre-tokenized word is one token if the vocabulary has it, else one token per character. The
    unknown token is for characters outside the vocabulary; None if it covers all.
    """
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": unknown,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": not merges,
        "vocab": vocabulary,
        "merges": merges,
    }


class Chunker:
    """An incremental splitter of texts into chunks with the tokens of the whole text; `feed` it parts, then `end` it.

    The text is split where white space begins, at a line break if possible. No word of any unit crosses such a
    boundary, and no rule looks across it: neither the pre-tokenizer patterns nor context-dependent lower-casing. Tokens
    of a `RegexTokenizer` may cross spaces: of its lines only those longer than `CHUNK_CHARACTERS` may be split inside a
    token, and then as `chunks` splits them. A long run without white space is split
    only where `chunks` would split it, so chunks are exact for exact words and subwords at any length. For words by
    Keras's rules they are exact for words of up to `max_endless` characters, and no word is longer.
    """

    def __init__(self, max_endless: int = MAX_ENDLESS) -> None:
        self._buffer, self._max_endless = "", max_endless
        # Position in the buffer from which to search; there is no boundary before it.
        self._searched = 0

    def feed(self, part: str) -> Iterator[str]:
        """Add the next part of the text and yield the chunks that are complete."""
        text, start, position = self._buffer + part, 0, self._searched
        size = CHUNK_CHARACTERS
        while len(text) - position > 2 * size:
            limit = position + 2 * size
            cut = next(filter(None, (cut.search(text, position + size, limit) for cut in _CUTS)), None)
            position = cut.start() if cut else limit
            if cut or position - start >= self._max_endless:
                yield text[start:position]
                start = position
        self._buffer, self._searched = text[start:], position - start

    def end(self) -> str:
        """Return the last chunk of the text; it is empty only if the text is."""
        last, self._buffer, self._searched = self._buffer, "", 0
        return last


def chunks(text: str) -> Iterator[str]:
    """Split a text into chunks; without white space within `CHUNK_CHARACTERS`, the split may be inside a word."""
    chunker = Chunker(max_endless=0)
    yield from chunker.feed(text)
    if last := chunker.end():
        yield last


def without_surrogates(text: str) -> str:
    """Replace lone surrogates, which UTF-8 cannot encode, by U+FFFD."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def build(model: Any, pre_tokenizer: Any) -> "tokenizers.Tokenizer":
    """Build the library's tokenizer, without special tokens: no text can spell one; raise as `read_library`."""
    return read_library({"version": "1.0", "model": model, "pre_tokenizer": pre_tokenizer})


def read_library(document: Mapping[str, Any]) -> "tokenizers.Tokenizer":
    """Read the library's tokenizer from the content of a file.

    Raises:
        TokenizerError: the library cannot read it.
    """
    from tokenizers import Tokenizer  # noqa: PLC0415 - see the module

    try:
        return Tokenizer.from_str(json.dumps(document))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        # The library raises nothing narrower, and a panic of Rust is no `Exception`.
        raise TokenizerError(f"Hugging Face's library cannot read it: {error}") from error


def count_words(texts: Iterable[str], pre_tokenizer: Any, min_frequency: int) -> list[str]:
    """Return pre-tokenized words that occur `min_frequency` times, by descending frequency, then by code points."""
    from tokenizers import trainers  # noqa: PLC0415 - see the module

    library = build({"type": "WordLevel", "vocab": {}, "unk_token": ""}, pre_tokenizer)
    trainer = trainers.WordLevelTrainer(
        vocab_size=2**32, min_frequency=min_frequency, special_tokens=[], show_progress=False
    )
    library.train_from_iterator(_all_chunks(texts), trainer)
    vocabulary = library.get_vocab()
    return sorted(vocabulary, key=vocabulary.__getitem__)


def learn_merges(
    texts: Iterable[str], pre_tokenizer: Any, vocab_size: int, special: Sequence[str], alphabet: Sequence[str]
) -> tuple[list[str], list[tuple[str, str]]]:
    """Train BPE and return the tokens by id, and the merges.

    Of chunks without white space only the first `MAX_ENDLESS_CHUNKS` are used.
    """
    from tokenizers import trainers  # noqa: PLC0415 - see the module

    library = build(byte_pairs({}, [], None), pre_tokenizer)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=list(special),
        initial_alphabet=list(alphabet),
        show_progress=False,
    )
    library.train_from_iterator(_limit_endless(_all_chunks(texts)), trainer)
    model = json.loads(library.to_str())["model"]
    return sorted(model["vocab"], key=model["vocab"].__getitem__), [(left, right) for left, right in model["merges"]]


def _limit_endless(text_chunks: Iterable[str]) -> Iterator[str]:
    """Drop chunks without white space after the first `MAX_ENDLESS_CHUNKS`."""
    num_endless = 0
    for chunk in text_chunks:
        num_endless += len(chunk) == 2 * CHUNK_CHARACTERS
        if len(chunk) < 2 * CHUNK_CHARACTERS or num_endless <= MAX_ENDLESS_CHUNKS:
            yield chunk


def _all_chunks(texts: Iterable[str]) -> Iterator[str]:
    return (chunk for text in texts for chunk in chunks(without_surrogates(text)))


class BytePairVocabulary(Vocabulary):
    """A vocabulary that the library encodes with, by BPE; texts of any length are encoded chunk by chunk.

    Attributes:
        pre_tokenizer: Splits texts into the words that are encoded one by one.
        decoder: For other programs that load the file.
        merges: Pairs of tokens to merge, by priority.
    """

    # Of one `encode` call of the library; about 140 were measured.
    bytes_per_character: ClassVar[int] = 150
    pre_tokenizer: Any
    decoder: ClassVar[Any]
    # Whether the model has an unknown token: bytes cover all text.
    has_unknown: ClassVar[bool]

    def __init__(
        self, tokens: Sequence[str], merges: Iterable[Sequence[str]] = (), labels: Collection[str] = ()
    ) -> None:
        """Index a vocabulary; see `Vocabulary`."""
        super().__init__(tokens, labels)
        self.merges = tuple((left, right) for left, right in merges)
        self._validate()
        self._model = byte_pairs(self._ids, self.merges, self.unknown if self.has_unknown else None)
        # A regular expression may match the name of a special token, but nothing with a line break in it.
        unknown = f"{self.unknown}\n" if self.has_unknown else None
        known = self._text_ids | ({} if unknown is None else {unknown: self.special.unknown})
        self._library = build(byte_pairs(known, self.merges, unknown), self.pre_tokenizer)

    def _validate(self) -> None:
        """Raise TokenizerError if the tokens or merges are inconsistent."""

    def encoding_bytes(self, num_bytes: int) -> int:
        per_byte = self.bytes_per_character
        return min(per_byte * num_bytes, per_byte * 2 * CHUNK_CHARACTERS) + _BYTES_PER_ID * num_bytes

    def encode(self, text: str) -> list[int]:
        encode, text_chunks = self._library.encode, chunks(without_surrogates(text))
        return [i for chunk in text_chunks for i in encode(chunk, add_special_tokens=False).ids]

    def _with_tokens(self, tokens: Sequence[str], labels: Collection[str]) -> Self:
        return type(self)(tokens, self.merges, labels)

    def to_json(self) -> str:
        return self._json(self._model, None, self.pre_tokenizer, self.decoder)
