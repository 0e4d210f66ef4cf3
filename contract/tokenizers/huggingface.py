"""Hugging Face's `tokenizers`, which cuts text by regular expressions and encodes what it cut.

One engine for training and serving, which reads what the files say: Python's `re` knows other versions of Unicode under
other Pythons, and no combining marks. It is imported when the first tokenizer needs it: 16 ms, 7 MB.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tokenizers

# The library takes some 140 bytes of memory for each character of what it encodes at once.
CHUNK_CHARACTERS = 1 << 15
_CHUNK_BYTES = 150 * 2 * CHUNK_CHARACTERS
# Of an id in a list: the place and the object.
_BYTES_PER_ID = 40
# Chunks without white space that merges are learnt from, some 4 million characters: they cost up to 90 bytes of memory
# and 10 µs each, where words repeat next to nothing.
MAX_ENDLESS_CHUNKS = 64
# White space that no word takes along: a run up to its last line end, then all of it but the last character.
WHITE_SPACE = r"\s*[\r\n]+|\s+(?!\S)|\s+"

# Where white space begins: no match of the expressions used here reaches into it from what stands before. It is spelt
# out because `\s` of Python has characters that the library's has not (U+001C to U+001F).
CUT = re.compile(r"(?<=\S)(?=[ \t\n])")
_SURROGATE = re.compile("[\ud800-\udfff]")


def split_by(pattern: str) -> dict[str, Any]:
    """Describe the cutting of a text into all matches of a pattern."""
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def byte_pairs(vocabulary: Mapping[str, int], merges: Sequence[Sequence[str]], unknown: str | None) -> dict[str, Any]:
    """Describe byte pair encoding.

    Args:
        vocabulary: Ids of the tokens.
        merges: Pairs of tokens that become one, the first to be merged first. Without any, what is cut out of a text is
            one token if the vocabulary has it, and else a token per character.
        unknown: Token for a character that the vocabulary does not have; None if it has all.
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


def chunks(text: str) -> Iterator[str]:
    """Cut a text into pieces that encode one by one as they would together.

    Where there is no white space among `CHUNK_CHARACTERS`, the cut is anywhere.
    """
    start = 0
    while len(text) - start > 2 * CHUNK_CHARACTERS:
        limit = start + 2 * CHUNK_CHARACTERS
        cut = CUT.search(text, start + CHUNK_CHARACTERS, limit)
        end = cut.start() if cut else limit
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


def encoding_bytes(num_bytes: int) -> int:
    """Return the most bytes of memory that encoding takes, ids included, for a text of this length in UTF-8."""
    return min(150 * num_bytes, _CHUNK_BYTES) + _BYTES_PER_ID * num_bytes


def without_surrogates(text: str) -> str:
    """Replace halves of surrogate pairs, which are no characters and have no UTF-8, by U+FFFD."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def build(model: Any, pre_tokenizer: Any) -> "tokenizers.Tokenizer":
    """Make the library's own object. It knows no special tokens: no text can spell one."""
    from tokenizers import Tokenizer  # noqa: PLC0415 - see the module

    return Tokenizer.from_str(json.dumps({"version": "1.0", "model": model, "pre_tokenizer": pre_tokenizer}))


def count_words(texts: Iterable[str], pre_tokenizer: Any, min_frequency: int) -> list[str]:
    """Return what texts are cut into, if it occurs often enough: by falling frequency, then by code points."""
    from tokenizers import trainers  # noqa: PLC0415 - see the module

    library = build({"type": "WordLevel", "vocab": {}, "unk_token": ""}, pre_tokenizer)
    trainer = trainers.WordLevelTrainer(
        vocab_size=2**32, min_frequency=min_frequency, special_tokens=[], show_progress=False
    )
    library.train_from_iterator(_cut(texts), trainer)
    vocabulary = library.get_vocab()
    return sorted(vocabulary, key=vocabulary.__getitem__)


def learn_merges(
    texts: Iterable[str], pre_tokenizer: Any, vocab_size: int, special: Sequence[str], alphabet: Sequence[str]
) -> tuple[list[str], list[tuple[str, str]]]:
    """Learn byte pair encoding; return the tokens in order of their ids, and the merges.

    Of text that is cut for want of white space the first `MAX_ENDLESS_CHUNKS` chunks are learnt from.
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
    library.train_from_iterator(_few_endless(_cut(texts)), trainer)
    model = json.loads(library.to_str())["model"]
    return sorted(model["vocab"], key=model["vocab"].__getitem__), [(left, right) for left, right in model["merges"]]


def _few_endless(pieces: Iterable[str]) -> Iterator[str]:
    """Leave out the later ones of the chunks that `chunks` cut where there was no place to cut."""
    num_endless = 0
    for piece in pieces:
        num_endless += len(piece) == 2 * CHUNK_CHARACTERS
        if len(piece) < 2 * CHUNK_CHARACTERS or num_endless <= MAX_ENDLESS_CHUNKS:
            yield piece


def _cut(texts: Iterable[str]) -> Iterator[str]:
    return (chunk for text in texts for chunk in chunks(without_surrogates(text)))


class Engine:
    """Encodes texts of any length."""

    def __init__(self, model: Any, pre_tokenizer: Any) -> None:
        self._library = build(model, pre_tokenizer)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""
        encode, pieces = self._library.encode, chunks(without_surrogates(text))
        return [i for piece in pieces for i in encode(piece, add_special_tokens=False).ids]
