"""The random numbers behind every token: a pure function of seed, choice and position.

A token's uniform does not depend on the chunk that it was drawn in, on its neighbours or on the process, so the same
request has the same bytes wherever and however it runs.
"""

import numpy as np

# A call costs some 11 µs however few numbers it draws (measured), so a sequence draws ahead.
GENERATED_AHEAD = 256


def uniforms(seed: int, stream: int, first: int, count: int) -> np.ndarray:
    """Draw the uniforms of some positions.

    Philox 4×64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011) with the key (seed, stream);
    the counter's block of four gives positions 4·counter to 4·counter + 3; each is the top 24 bits of its word.
    `Generator.random(float32)` after `advance` would not do: it takes half a word a number.

    Args:
        seed: The request's; taken modulo 2⁶⁴.
        stream: Which of the seed's streams, below 2⁶⁴; for a text that goes on with nothing the index of the choice
            within its prompt, from 0.
        first: Position of the first token wanted, from 0.
        count: Tokens wanted.

    Returns:
        float32 (count,) in [0, 1).
    """
    block, skip = divmod(first, 4)
    key = np.array([seed % 2**64, stream], np.uint64)
    words = np.random.Philox(key=key, counter=block).random_raw(skip + count)[skip:]
    return (words >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)


class UniformStream:
    """The uniforms of one sequence, drawn ahead in blocks."""

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
