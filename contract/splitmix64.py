"""SplitMix64 (Steele, Lea and Flood 2014, https://doi.org/10.1145/2660193.2660195): a fixed bijection on 64 bits.

For the training filter and the shuffle of documents; sampling uses Philox. It depends on neither the platform nor the
release of a library, so files may depend on it.
"""

import numpy as np

# The increment of the generator's state: 2^64 divided by the golden ratio, odd.
STEP = np.uint64(0x9E3779B97F4A7C15)
_FACTORS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def mix(z: np.ndarray) -> np.ndarray:
    """Return the bits of each value well mixed; uint64 of any shape."""
    for shift, factor in zip((30, 27), _FACTORS, strict=True):
        z = (z ^ (z >> np.uint64(shift))) * factor
    mixed: np.ndarray = z ^ (z >> np.uint64(31))
    return mixed
