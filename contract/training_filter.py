"""The training filter: recognizes copies of the training split in generated text, by a Bloom filter in a file.

It has one of two kinds. `documents`, of a corpus of short documents, recognizes a whole document by its text: another
sequence of tokens may stand for the same text. `spans`, of a running text or of long documents, recognizes any
`span_tokens` consecutive tokens of it by their ids, in the order in which the model generates them.

`export.corpora.training_filter` writes the file.
"""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from contract import splitmix64
from contract.bloom_filter import MAX_HASHES, BloomFilter
from contract.card import FilterKind, TrainingFilterDescription
from contract.errors import ContractError
from contract.files import read_file

DOCUMENTS: Final = "documents"
SPANS: Final = "spans"

# A multiplier of Steele and Vigna 2021 (https://arxiv.org/abs/2001.05304). As it is odd, it has an inverse mod 2^64.
_FACTOR = 0xD1342543DE82EF95
_MODULUS = 1 << 64
_INVERSE = pow(_FACTOR, -1, _MODULUS)

# Magic bytes with the version of the format, kind, hashes per entry, tokens per span, stride, bits, entries and
# false-positive rate; little endian. Then the bits.
_HEADER = struct.Struct("<16s4I2Qd8x")
_MAGIC = b"training-filter1"
# Maximum size of the bits. More documents have no filter; spans then start at fewer tokens.
MAX_BYTES = 64 << 20
_KINDS: tuple[FilterKind, ...] = (DOCUMENTS, SPANS)


def polynomials(symbols: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """Return the polynomials of parts of a sequence, of which `splitmix64.mix` makes hashes for a Bloom filter.

    Args:
        symbols: Token ids, or bytes of UTF-8: unsigned integers (symbols,).
        starts: Index of the first symbol of each part, int64 (parts,).
        stops: Index after the last one.

    Returns:
        uint64 (parts,): Σ (symbols[i] + 1) · factor^(i - start) mod 2^64. The length of a part costs no time.
    """
    terms = (symbols.astype(np.uint64) + np.uint64(1)) * _powers(_FACTOR, len(symbols))
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(terms, dtype=np.uint64)])
    parts: np.ndarray = (sums[stops] - sums[starts]) * _powers(_INVERSE, len(symbols) + 1)[starts]
    return parts


def concatenated(head: int, head_length: int, tail: int) -> int:
    """Return the polynomial of a part from those of its first `head_length` symbols and of the rest."""
    return (head + tail * pow(_FACTOR, head_length, _MODULUS)) % _MODULUS


def _powers(base: int, count: int) -> np.ndarray:
    """Return base^0, base^1, … mod 2^64: uint64 (count,)."""
    factors = np.full(count, base, np.uint64)
    factors[:1] = 1
    return np.cumprod(factors, dtype=np.uint64)


@dataclass(frozen=True)
class TrainingFilter:
    """A filter of a training split; see the module for its kinds. No document is missed.

    Attributes:
        bloom: The Bloom filter.
        num_entries: Number of documents or spans that were added.
        false_positive_rate: Probability that another document, or another span, is found.
        span_tokens: Tokens of a span; 0 for documents.
        stride: Spans start at every `stride`-th token of the training split. So every copy of `span_tokens` + `stride`
            - 1 tokens has one. 1 for documents.
    """

    kind: FilterKind
    bloom: BloomFilter
    num_entries: int
    false_positive_rate: float
    span_tokens: int = 0
    stride: int = 1

    def contains(self, token_ids: Sequence[int], text: str, prompt_ids: Sequence[int] | np.ndarray = ()) -> bool:
        """Return whether prompt and generation are a training document, or have a span whose last half was generated.

        Args:
            token_ids: The sampled tokens in the order of sampling, with or without the end token. Only spans need them.
            text: Prompt and generated text in reading order. Only documents need it. It is compared exactly, in the
                form in which the model generates it: Keras's words in lower case, with a space between two. An empty
                text is no copy.
            prompt_ids: The tokens before `token_ids`. A span with more than half of its tokens among them was not
                generated: a line feed after a verse would complete it.
        """
        if self.kind == SPANS:
            num_given = min(len(prompt_ids), self.span_tokens // 2)
            return len(self.find_spans([*prompt_ids[len(prompt_ids) - num_given :], *token_ids])) > 0
        symbols = np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)
        return len(symbols) > 0 and len(self._find(symbols, np.zeros(1, np.int64), len(symbols))) > 0

    def find_spans(self, token_ids: Sequence[int]) -> np.ndarray:
        """Return where spans of the training split start in sampled tokens: int64, ascending; empty for documents."""
        if self.kind != SPANS:
            return np.empty(0, np.int64)
        symbols = np.asarray(token_ids, np.uint64)
        return self._find(symbols, np.arange(max(0, len(symbols) - self.span_tokens + 1)), self.span_tokens)

    def _find(self, symbols: np.ndarray, starts: np.ndarray, length: int) -> np.ndarray:
        return self.bloom.find(splitmix64.mix(polynomials(symbols, starts, starts + length)))

    @property
    def num_bytes(self) -> int:
        """Size of the file, and upper bound of the memory in use."""
        return _HEADER.size + len(self.bloom.bits)

    def to_bytes(self) -> bytes:
        header = _HEADER.pack(
            _MAGIC,
            _KINDS.index(self.kind),
            self.bloom.num_hashes,
            self.span_tokens,
            self.stride,
            self.bloom.num_bits,
            self.num_entries,
            self.false_positive_rate,
        )
        return header + self.bloom.bits.tobytes()

    def sha256(self) -> str:
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def description(self) -> TrainingFilterDescription:
        names = ("kind", "num_entries", "span_tokens", "stride", "false_positive_rate")
        return TrainingFilterDescription(sha256=self.sha256(), **{name: getattr(self, name) for name in names})

    @classmethod
    def from_buffer(cls, content: np.ndarray) -> "TrainingFilter":
        """Read the content of a file, uint8 (bytes,), without copying its bits.

        Raises:
            ContractError: it is damaged or of another format.
        """
        if len(content) < _HEADER.size or content[: len(_MAGIC)].tobytes() != _MAGIC:
            raise ContractError(f"not a training filter: it must start with {_MAGIC!r} and have a whole header")
        _, kind, num_hashes, span_tokens, stride, num_bits, num_entries, rate = _HEADER.unpack(
            content[: _HEADER.size].tobytes()
        )
        bits = content[_HEADER.size :]
        if not num_bits or num_bits != 8 * len(bits):
            raise ContractError(f"the header says {num_bits} bits, but the file has {8 * len(bits)}")
        if kind >= len(_KINDS) or (_KINDS[kind] == SPANS) != (span_tokens > 0) or not stride:
            raise ContractError(
                f"kind {kind} (0 documents, 1 spans) with {span_tokens} tokens per span and stride {stride}"
            )
        if not 0 < num_hashes <= MAX_HASHES:
            raise ContractError(f"hashes per entry must be from 1 to {MAX_HASHES}, got {num_hashes}")
        return cls(_KINDS[kind], BloomFilter(bits, num_hashes), num_entries, rate, span_tokens, stride)


def load_training_filter(path: Path, sha256: str | None = None) -> TrainingFilter | None:
    """Load the filter of a version, `signatures.TRAINING_FILTER_FILE` in its assets; None if the file is absent.

    Args:
        path: The file.
        sha256: Hash of the file in the card; None: do not check it.

    Raises:
        ContractError: the file cannot be read, is damaged or of another format, or has another hash.
    """
    try:
        content = read_file(path, MAX_BYTES + _HEADER.size)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ContractError(f"{path}: {error.strerror or error}") from error
    try:
        loaded = TrainingFilter.from_buffer(np.frombuffer(content, np.uint8))
    except ContractError as error:
        raise ContractError(f"{path}: {error}") from error
    actual = hashlib.sha256(content).hexdigest()
    if sha256 not in (None, actual):
        raise ContractError(f"{path}: has the hash {actual[:12]}…, but the card says {sha256[:12]}…")
    return loaded
