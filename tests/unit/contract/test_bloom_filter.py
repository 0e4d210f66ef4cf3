"""A Bloom filter finds every hash that was added, and others at the rate that it was sized for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract import splitmix64
from contract.bloom_filter import MIN_BYTES, BloomFilter

HASHES = st.lists(st.integers(0, 2**64 - 1)).map(lambda values: np.array(values, np.uint64))


def hashes(start, stop):
    return splitmix64.mix(np.arange(start, stop, dtype=np.uint64))


def filled(num_entries, rate):
    """Return a filter with as many entries as it was sized for."""
    bloom = BloomFilter.sized(num_entries, rate)
    bloom.add(hashes(0, num_entries))
    return bloom


def test_splitmix64_computes_the_values_of_its_authors():
    """The first outputs of the generator with seed 1234567, as published with https://prng.di.unimi.it/splitmix64.c."""
    states = np.arange(1, 4, dtype=np.uint64) * splitmix64.STEP + np.uint64(1234567)
    assert splitmix64.mix(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@given(added=HASHES, others=HASHES, rate=st.sampled_from([0.3, 1e-3, 1e-7]))
def test_whatever_was_added_is_found(added, others, rate):
    bloom = BloomFilter.sized(1, rate)
    for part in (others, added[::2], added[1::2]):
        bloom.add(part)
    assert bloom.find(added).tolist() == [*range(len(added))]


def test_an_empty_filter_finds_nothing():
    bloom = BloomFilter.sized(0, 1e-3)
    assert (bloom.find(hashes(0, 100)).tolist(), bloom.false_positive_rate()) == ([], 0.0)
    assert len(bloom.bits) == MIN_BYTES


@pytest.mark.parametrize("rate", [0.1, 1e-2, 1e-3])
def test_other_hashes_are_found_at_the_rate_that_the_filter_was_sized_for(rate):
    """The rate that follows from its bits is that one, too."""
    bloom, num_others = filled(20_000, rate), 300_000
    expected = num_others * rate
    num_found = len(bloom.find(hashes(20_000, 20_000 + num_others)))
    # Four standard deviations of a binomial distribution, and 5% for the bits that happen to be set.
    assert abs(num_found - expected) < 4 * expected**0.5 + 0.05 * expected
    assert bloom.false_positive_rate() == pytest.approx(rate, rel=0.05)


def test_a_small_filter_keeps_a_low_rate():
    """The bits of an entry are independent: in arithmetic progression they would find ten of these."""
    bloom = filled(250, 1e-7)
    assert len(bloom.bits) < 1.1 * MIN_BYTES
    assert len(bloom.find(hashes(250, 1_000_000))) <= 2


def test_the_position_of_a_found_hash_is_returned():
    bloom = BloomFilter.sized(100, 1e-7)
    bloom.add(hashes(0, 2))
    queries = np.concatenate([hashes(10, 14), hashes(1, 2), hashes(14, 16), hashes(0, 1)])
    assert bloom.find(queries).tolist() == [4, 7]
