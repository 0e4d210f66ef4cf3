"""What a sequence is sampled with: its parameters, its random numbers, and the adjustments of its logits."""

import itertools
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

# A call costs some 6 µs however few numbers it generates (measured), so a sequence generates ahead.
GENERATED_AHEAD = 256
# Rows of the table of `Adjustments`.
_COUNT, _SEEN, _BIAS = range(3)


@dataclass(frozen=True)
class SamplingParams:
    """Sampling parameters; see `export.graphs.sampling.Controls` and `signatures` there for the meaning of each."""

    temperature: float = 1.0
    top_k: int = 0  # 0 is off
    top_p: float = 1.0  # 1 is off
    min_p: float = 0.0  # 0 is off
    presence_penalty: float = 0.0  # 0 is off
    frequency_penalty: float = 0.0  # 0 is off
    repetition_penalty: float = 1.0  # 1 is off
    bias: tuple[tuple[int, float], ...] = ()  # (token id, value added to its logit); ids are unique
    min_tokens: int = 0  # the EOS token is not sampled among the first `min_tokens` tokens

    @property
    def is_greedy(self) -> bool:
        """Whether the most probable token is always chosen: then every choice of a prompt has the same text."""
        return self.temperature == 0 or self.top_k == 1 or self.top_p == 0

    @property
    def counts_tokens(self) -> bool:
        """Whether a penalty is on: prompt and sampled tokens adjust the logits."""
        return bool(self.presence_penalty or self.frequency_penalty) or self.repetition_penalty != 1

    @cached_property
    def adjusts(self) -> bool:
        return self.counts_tokens or any(value for _, value in self.bias) or self.min_tokens > 0


class _Generator(threading.local):
    """The generator of a thread: a new one costs 15 µs, as numpy asks the system for a seed; setting a state 1 µs."""

    def __init__(self) -> None:
        self.philox = np.random.Philox(key=np.zeros(2, np.uint64))
        # The state before any number was generated.
        self.state = self.philox.state


_generator = _Generator()


def uniforms(seed: int, stream: int, first: int, count: int) -> np.ndarray:
    """Generate the uniforms of consecutive positions, float32 (count,) in [0, 1).

    A pure function of seed, stream and position: a token's uniform does not depend on the decode call that sampled it,
    on the other sequences of the batch or on the process.

    Philox 4×64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011) with the key (seed, stream); the
    counter's block of four gives positions 4·counter to 4·counter + 3; each is the top 24 bits of its word.
    `Generator.random(float32)` after `advance` does not work: it consumes half a word per number.

    The seed is taken modulo 2⁶⁴. The stream is below 2⁶⁴: for a sequence that resumes nothing, the index of its choice
    within the prompt, from 0.
    """
    block, skip = divmod(first, 4)
    philox, state = _generator.philox, _generator.state
    state["state"] = {
        "counter": np.array([block, 0, 0, 0], np.uint64),
        "key": np.array([seed % 2**64, stream], np.uint64),
    }
    philox.state = state
    words = philox.random_raw(skip + count)[skip:]
    return (words >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)


class UniformStream:
    """The uniforms of one sequence, generated ahead in blocks."""

    def __init__(self, seed: int, stream: int) -> None:
        self._seed, self._stream = seed, stream
        self._first, self._block = 0, np.zeros(0, np.float32)

    def take(self, position: int, count: int) -> np.ndarray:
        """Return float32 (count,) for the positions from `position` on."""
        offset = position - self._first
        if offset < 0 or offset + count > self._block.size:
            self._first, offset = position, 0
            self._block = uniforms(self._seed, self._stream, position, max(count, GENERATED_AHEAD))
        return self._block[offset : offset + count]


class Adjustments:
    """Logit bias of a sequence, and the token counts behind its penalties; their formulas are in the graph.

    A sparse list of the token ids that are in the prompt, were sampled or have a bias, in order of first occurrence.
    """

    def __init__(
        self,
        bias: Sequence[tuple[int, float]],
        seen: np.ndarray,
        *,
        counts: bool,
        sampled: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        """Start with a prompt.

        Args:
            bias: (token id, value added to its logit); ids are unique.
            seen: int32 (ids,): unique ids of the prompt; empty where no penalty needs them.
            counts: Whether to count sampled tokens.
            sampled: int32 (ids,) and float32 (ids,): ids sampled by earlier requests and their counts; None: none were.
        """
        self._counting = counts
        self._index: dict[int, int] = {}
        self._ids = np.zeros(0, np.int32)
        self._table = np.zeros((3, 0), np.float32)
        # Most sequences have neither, and NumPy takes microseconds to do nothing.
        if bias:
            self._add([token_id for token_id, _ in bias])
            self._table[_BIAS, : len(bias)] = [value for _, value in bias]
        if seen.size:
            self._mark_seen(seen.tolist())
        if sampled is not None:
            ids, sample_counts = sampled
            self._mark_seen(ids.tolist())
            self._table[_COUNT, [self._index[token_id] for token_id in ids.tolist()]] = sample_counts

    def __len__(self) -> int:
        return len(self._index)

    def note(self, token_ids: Sequence[int]) -> None:
        """Count sampled tokens."""
        if self._counting:
            self._mark_seen(token_ids)
            np.add.at(self._table[_COUNT], [self._index[token_id] for token_id in token_ids], 1.0)

    def write(self, ids: np.ndarray, counts: np.ndarray, seen: np.ndarray, bias: np.ndarray) -> None:
        """Write the list into the first elements of each array, (N,) with N ≥ len(self); keep the others."""
        size = len(self)
        ids[:size] = self._ids[:size]
        counts[:size], seen[:size], bias[:size] = self._table[:, :size]

    def _mark_seen(self, token_ids: Sequence[int]) -> None:
        self._add(token_ids)
        self._table[_SEEN, [self._index[token_id] for token_id in token_ids]] = 1.0

    def _add(self, token_ids: Sequence[int]) -> None:
        """Append the ids that are not in the list yet."""
        first = len(self)
        for token_id in token_ids:
            self._index.setdefault(token_id, len(self._index))
        new = len(self) - first
        if len(self) > self._ids.size:
            # Capacity doubles, so that a growing sequence is rarely copied.
            growth = max(new, self._ids.size)
            self._ids = np.concatenate([self._ids, np.zeros(growth, np.int32)])
            self._table = np.concatenate([self._table, np.zeros((3, growth), np.float32)], axis=1)
        if new:
            self._ids[first : first + new] = [*itertools.islice(reversed(self._index), new)][::-1]
