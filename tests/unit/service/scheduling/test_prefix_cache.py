"""The prefix cache: longest prefix, least recently used eviction, isolated namespaces."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.scheduling import prefix_cache
from service.scheduling.prefix_cache import (
    BLOCK,
    FAR,
    MAX_HASHES,
    OVERHEAD_BYTES,
    SPACING,
    Prefix,
    PrefixCache,
    block_hashes,
)

STATE_BYTES = 16


def empty(namespace="here"):
    """Return the prefix of no tokens."""
    return Prefix(block_hashes(namespace, np.zeros(0, np.int32))[0])


def named(token_ids, namespace="here"):
    prefix = empty(namespace)
    prefix.extend(np.array(token_ids, np.int32))
    return prefix


def state(number):
    return np.full(STATE_BYTES // 4, number, np.float32)


def kept(*texts, entries=100, namespace="here"):
    """Return a cache for `entries` prefixes that holds these; the state of each is its index."""
    cache = PrefixCache(entries * (STATE_BYTES + OVERHEAD_BYTES))
    for number, text in enumerate(texts):
        cache.keep(named(text, namespace), state(number))
    return cache


def find(cache, token_ids, namespace="here"):
    """Return (prefix, state) of a lookup, or None."""
    token_ids = np.array(token_ids, np.int32)
    return cache.find(block_hashes(namespace, token_ids), token_ids)


def found(cache, token_ids, namespace="here"):
    hit = find(cache, token_ids, namespace)
    return (0, None) if hit is None else (hit[0].length, int(hit[1][0]))


# Beginnings of one text, each with one of two tokens after it.
TEXTS = st.builds(lambda length, end: [*range(length), end], st.integers(0, 3 * BLOCK), st.integers(1000, 1001))


@given(texts=st.lists(TEXTS, max_size=12), wanted=TEXTS)
def test_the_longest_prefix_is_found_across_blocks(texts, wanted):
    best = max((one for one in texts if wanted[: len(one)] == one), key=len, default=[])
    assert found(kept(*texts), wanted) == (len(best), texts.index(best) if best else None)


@pytest.mark.parametrize("length", [BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK])
def test_a_lookup_ignores_hashes_beyond_its_tokens(length):
    """A prompt's last token must be read by the model, so its block hashes cover more tokens than are looked up."""
    text = np.arange(3 * BLOCK, dtype=np.int32)
    cache = kept(text[:length])
    assert cache.find(block_hashes("here", text), text[: length - 1]) is None
    assert cache.find(block_hashes("here", text), text[:length])[0].length == length


@pytest.fixture
def count_hashes(monkeypatch):
    counts = [0]
    honest = prefix_cache._hash

    def counting(parent, tokens):
        counts[0] += 1
        return honest(parent, tokens)

    monkeypatch.setattr(prefix_cache, "_hash", counting)
    return counts


def test_the_cost_of_a_lookup_does_not_grow_with_cached_lengths(count_hashes):
    text = np.arange(3000, dtype=np.int32)
    cache, prefix = PrefixCache(10**7), empty()
    for token_id in text:
        prefix.extend([token_id])
        cache.keep(prefix, state(0))
    other = np.concatenate([text[:1], text[2:]])
    for wanted, length in ((text, 3000), (other, 1)):
        blocks = block_hashes("here", wanted)
        count_hashes[0] = 0
        assert cache.find(blocks, wanted)[0].length == length
        assert count_hashes[0] <= BLOCK


def test_an_adversarial_prompt_costs_a_bounded_number_of_hashes(count_hashes):
    text = np.arange(20 * BLOCK, dtype=np.int32)
    cache = PrefixCache(10**7)
    for length in range(1, len(text)):
        cache.keep(named([*text[: length - 1], 10**6]), state(0))
    blocks = block_hashes("here", text)
    count_hashes[0] = 0
    assert cache.find(blocks, text) is None
    assert count_hashes[0] <= MAX_HASHES


@given(st.lists(st.integers(1, 2 * BLOCK), min_size=1, max_size=6))
def test_a_key_does_not_depend_on_slices(sizes):
    prefix, text = empty(), list(range(sum(sizes)))
    for end, size in zip(np.cumsum(sizes), sizes, strict=True):
        part = text[end - size : end]
        prefix.extend(np.array(part, np.int32) if size % 2 else part)
    assert (prefix.key, prefix.length) == (named(text).key, len(text))


def test_namespaces_are_isolated():
    cache = kept([1, 2, 3], namespace=("anna", "demo"))
    assert found(cache, [1, 2, 3], ("anna", "demo")) == (3, 0)
    assert found(cache, [1, 2, 3], ("bert", "demo")) == (0, None)
    assert found(cache, [1, 2, 3], ("anna", "other")) == (0, None)


def test_the_least_recently_used_entry_is_evicted():
    cache = kept([1], [2], [3], entries=3)
    assert found(cache, [1]) == (1, 0)
    cache.keep(named([2]), state(1))
    cache.keep(named([4]), state(3))
    assert [found(cache, [i])[0] for i in (1, 2, 3, 4)] == [1, 1, 0, 1]
    assert (len(cache), cache.num_evicted) == (3, 1)
    assert cache.num_bytes == 3 * (STATE_BYTES + OVERHEAD_BYTES)


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5), max_size=30))
def test_eviction_leaves_nothing_behind(texts):
    cache = kept(*texts, entries=2)
    assert len(cache) == min(2, len({tuple(text) for text in texts}))
    assert cache.num_bytes == len(cache) * (STATE_BYTES + OVERHEAD_BYTES)
    assert sum(sum(tails.values()) for tails in cache._tails.values()) == len(cache)
    for number in range(10):
        cache.keep(named([9], namespace=number), state(0))
    assert len(cache._tails) == 2


def test_a_cached_state_is_a_copy():
    """A view of a reply would change with it and keep all of it in memory."""
    reply = np.arange(64 * 4, dtype=np.float32).reshape(64, 4)
    cache = PrefixCache(10_000)
    cache.keep(named([1]), reply[0])
    reply[0] = 7
    known = find(cache, [1])[1]
    np.testing.assert_array_equal(known, [0, 1, 2, 3])
    assert known.base is None


@pytest.mark.parametrize(("max_bytes", "token_ids"), [(0, [1]), (STATE_BYTES + OVERHEAD_BYTES - 1, [1]), (10_000, [])])
def test_an_entry_that_is_too_large_or_empty_is_not_cached(max_bytes, token_ids):
    """One larger than the cache evicts nothing, and the state before the first token is zero."""
    cache = PrefixCache(max_bytes)
    cache.keep(named(token_ids), state(0))
    assert (len(cache), cache.num_bytes, cache.num_evicted) == (0, 0, 0)


def test_states_are_cached_at_a_distance_during_prefill():
    cache, prefix = PrefixCache(10**6), empty()
    for _ in range(100):
        prefix.extend([1] * 50)
        cache.keep_if_due(prefix, state(0))
    lengths = sorted({found(cache, [1] * length)[0] for length in range(5001)} - {0})
    gaps = np.diff([0, *lengths])
    assert [gap for length, gap in zip(lengths, gaps, strict=True) if length <= FAR] == [150] * 6
    assert set(gaps[6:]) == {1050}
    assert SPACING <= 150
    assert found(cache, [1] * 400)[0] == 300


def test_the_distance_to_the_next_cached_state_counts_from_the_hit():
    cache = kept([1] * 100)
    prefix, _ = find(cache, [1] * 120)
    prefix.extend([1] * (SPACING - 1))
    cache.keep_if_due(prefix, state(1))
    assert len(cache) == 1
    prefix.extend([1])
    cache.keep_if_due(prefix, state(1))
    assert len(cache) == 2
