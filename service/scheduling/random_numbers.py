"""The random numbers of a sequence: a function of seed, stream and position (Philox)."""

import threading

import numpy as np

# A call costs some 6 µs however few numbers it generates (measured), so a sequence generates ahead.
GENERATED_AHEAD = 256


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
