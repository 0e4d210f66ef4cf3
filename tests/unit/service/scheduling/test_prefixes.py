"""Known beginnings: the longest is found, the last used stay, nobody finds another's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.scheduling.prefixes import FAR, OVERHEAD_BYTES, SPACING, Prefix, PrefixCache

STATE_BYTES = 16


def named(token_ids, scope="here"):
    """Return the name of some tokens."""
    prefix = Prefix(scope)
    prefix.extend(np.array(token_ids, np.int32))
    return prefix


def state(number):
    """Return a state that can be told from others."""
    return np.full(STATE_BYTES // 4, number, np.float32)


def kept(*texts, entries=100, scope="here"):
    """Return a cache with room for so many entries that has kept texts, each with its place as its state."""
    cache = PrefixCache(entries * (STATE_BYTES + OVERHEAD_BYTES))
    for number, text in enumerate(texts):
        cache.keep(named(text, scope), state(number))
    return cache


def found(cache, token_ids, scope="here"):
    """Return the length and the number of what is found."""
    prefix, known = cache.find(scope, np.array(token_ids, np.int32))
    return prefix.length, None if known is None else int(known[0])


@given(
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), max_size=20),
    st.lists(st.integers(0, 2), max_size=10),
)
def test_the_longest_known_beginning_is_found(texts, wanted):
    """Whatever was kept, what is found is the longest of it that the tokens begin with."""
    cache = kept(*texts)
    best = max((text for text in texts if wanted[: len(text)] == text), key=len, default=[])
    assert found(cache, wanted) == (len(best), texts.index(best) if best else None)


@pytest.mark.parametrize("split", range(1, 5))
def test_a_name_does_not_depend_on_how_the_tokens_came(split):
    """Read in slices of any length, as an array or as a list, the same tokens are found."""
    cache, prefix = kept([1, 2, 3, 4, 5]), Prefix("here")
    prefix.extend([1, 2, 3, 4, 5][:split])
    prefix.extend(np.array([1, 2, 3, 4, 5][split:], np.int32))
    assert prefix.key == named([1, 2, 3, 4, 5]).key
    twin = prefix.copy()
    twin.extend([6])
    assert (prefix.length, twin.length) == (5, 6)
    assert prefix.key == cache.find("here", np.array([1, 2, 3, 4, 5, 6], np.int32))[0].key


def test_scopes_are_strangers():
    """What one tenant or model has read is not found by another, though the tokens are the same."""
    cache = kept([1, 2, 3], scope=("anna", "demo"))
    assert found(cache, [1, 2, 3], ("anna", "demo")) == (3, 0)
    assert found(cache, [1, 2, 3], ("bert", "demo")) == (0, None)
    assert found(cache, [1, 2, 3], ("anna", "other")) == (0, None)


def test_the_last_used_stay():
    """When there is no more room the entry goes that was neither kept nor found for longest."""
    cache = kept([1], [2], [3], entries=3)
    assert found(cache, [1]) == (1, 0)
    cache.keep(named([2]), state(1))
    cache.keep(named([4]), state(3))
    assert [found(cache, [i])[0] for i in (1, 2, 3, 4)] == [1, 1, 0, 1]
    assert (len(cache), cache.num_evicted) == (3, 1)
    assert cache.num_bytes == 3 * (STATE_BYTES + OVERHEAD_BYTES)


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5), max_size=30))
def test_what_is_evicted_leaves_nothing(texts):
    """After any number of evictions the counts are those of what is left, and lengths without an entry are gone."""
    cache = kept(*texts, entries=2)
    assert len(cache) == min(2, len({tuple(text) for text in texts}))
    assert cache.num_bytes == len(cache) * (STATE_BYTES + OVERHEAD_BYTES)
    assert sum(sum(lengths.values()) for lengths in cache._lengths.values()) == len(cache)
    for number in range(10):
        cache.keep(named([9], scope=number), state(0))
    assert len(cache._lengths) == 2


def test_a_kept_state_is_no_view_of_a_call():
    """A row of a reply is copied: it may change, and must not keep the whole reply in memory."""
    reply = np.arange(64 * 4, dtype=np.float32).reshape(64, 4)
    cache = PrefixCache(10_000)
    cache.keep(named([1]), reply[0])
    reply[0] = 7
    known = cache.find("here", np.array([1], np.int32))[1]
    np.testing.assert_array_equal(known, [0, 1, 2, 3])
    assert known.base is None


@pytest.mark.parametrize(("max_bytes", "token_ids"), [(0, [1]), (STATE_BYTES + OVERHEAD_BYTES - 1, [1]), (10_000, [])])
def test_what_does_not_fit_or_has_no_tokens_is_not_kept(max_bytes, token_ids):
    """An entry larger than all the room pushes nobody out, and the zero state is nothing to keep."""
    cache = PrefixCache(max_bytes)
    cache.keep(named(token_ids), state(0))
    assert (len(cache), cache.num_bytes, cache.num_evicted) == (0, 0, 0)


def test_states_on_the_way_are_kept_apart():
    """While a long text is read, its states are kept at a distance that grows once."""
    cache, prefix = PrefixCache(10**6), Prefix("here")
    for _ in range(100):
        prefix.extend([1] * 50)
        cache.keep_now_and_then(prefix, state(0))
    lengths = sorted(cache._lengths["here"])
    gaps = np.diff([0, *lengths])
    assert [gap for length, gap in zip(lengths, gaps, strict=True) if length <= FAR] == [150] * 6
    assert set(gaps[6:]) == {1050}
    assert SPACING <= 150
    assert found(cache, [1] * 400)[0] == 300


def test_what_was_found_counts_as_kept():
    """A text that goes on from a known state keeps its next one only at a distance."""
    cache = kept([1] * 100)
    prefix, _ = cache.find("here", np.ones(120, np.int32))
    prefix.extend([1] * (SPACING - 1))
    cache.keep_now_and_then(prefix, state(1))
    assert len(cache) == 1
    prefix.extend([1])
    cache.keep_now_and_then(prefix, state(1))
    assert len(cache) == 2
