"""The prefix cache: the longest prefix is a hit, the last used stay, no namespace hits another's entries."""

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


def named(token_ids, namespace="here"):
    """Return the name of some tokens."""
    prefix = Prefix(namespace)
    prefix.extend(np.array(token_ids, np.int32))
    return prefix


def state(number):
    """Return a state that can be told from others."""
    return np.full(STATE_BYTES // 4, number, np.float32)


def kept(*texts, entries=100, namespace="here"):
    """Return a cache with room for so many entries that has kept texts, each with its place as its state."""
    cache = PrefixCache(entries * (STATE_BYTES + OVERHEAD_BYTES))
    for number, text in enumerate(texts):
        cache.keep(named(text, namespace), state(number))
    return cache


def find(cache, token_ids, namespace="here"):
    """Return what a lookup gives."""
    token_ids = np.array(token_ids, np.int32)
    return cache.find(block_hashes(namespace, token_ids), token_ids)


def found(cache, token_ids, namespace="here"):
    """Return the length and the number of the hit; of a miss 0 and None."""
    hit = find(cache, token_ids, namespace)
    return (0, None) if hit is None else (hit[0].length, int(hit[1][0]))


@given(
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), max_size=20),
    st.lists(st.integers(0, 2), max_size=10),
)
def test_the_longest_known_beginning_is_found(texts, wanted):
    """Whatever was kept, what is found is the longest of it that the tokens begin with."""
    cache = kept(*texts)
    best = max((text for text in texts if wanted[: len(text)] == text), key=len, default=[])
    assert found(cache, wanted) == (len(best), texts.index(best) if best else None)


@given(
    st.lists(st.tuples(st.integers(0, 3 * BLOCK), st.integers(0, 1)), max_size=12),
    st.integers(0, 3 * BLOCK),
    st.integers(0, 1),
)
def test_the_longest_prefix_is_found_across_blocks(lengths, length, last):
    """Of prefixes that end anywhere in a block, the longest is the hit, and one whose last token differs is none."""
    text = list(range(3 * BLOCK))
    texts = [[*text[:size], 1000 + end] for size, end in lengths]
    wanted = [*text[:length], 1000 + last]
    best = max((one for one in texts if wanted[: len(one)] == one), key=len, default=[])
    assert found(kept(*texts), wanted) == (len(best), texts.index(best) if best else None)


@pytest.mark.parametrize("length", [BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK])
def test_a_prompt_is_looked_up_up_to_its_end_alone(length):
    """Blocks of more tokens than are wanted, as of a prompt whose last token must be read, find nothing beyond."""
    text = np.arange(3 * BLOCK, dtype=np.int32)
    cache = kept(text[:length])
    assert cache.find(block_hashes("here", text), text[: length - 1]) is None
    assert cache.find(block_hashes("here", text), text[:length])[0].length == length


@pytest.fixture
def count_hashes(monkeypatch):
    """Count the hashes that are computed."""
    counts = [0]
    honest = prefix_cache._hash

    def counting(parent, tokens):
        counts[0] += 1
        return honest(parent, tokens)

    monkeypatch.setattr(prefix_cache, "_hash", counting)
    return counts


def test_a_lookup_costs_blocks_and_not_cached_lengths(count_hashes):
    """With a state after each of 3,000 tokens cached, a prompt of another text, and the same, take a hash or two."""
    text = np.arange(3000, dtype=np.int32)
    cache, prefix = PrefixCache(10**7), Prefix("here")
    for token_id in text:
        prefix.extend([token_id])
        cache.keep(prefix, state(0))
    other = np.concatenate([text[:1], text[2:]])
    for wanted, length in ((text, 3000), (other, 1)):
        blocks = block_hashes("here", wanted)
        count_hashes[0] = 0
        assert cache.find(blocks, wanted)[0].length == length
        assert count_hashes[0] <= BLOCK


def test_a_prompt_made_to_meet_many_entries_is_a_miss(count_hashes):
    """Entries that share every block with a prompt and differ behind it cost one lookup a bounded number of hashes."""
    text = np.arange(20 * BLOCK, dtype=np.int32)
    cache = PrefixCache(10**7)
    for length in range(1, len(text)):
        cache.keep(named([*text[: length - 1], 10**6]), state(0))
    blocks = block_hashes("here", text)
    count_hashes[0] = 0
    assert cache.find(blocks, text) is None
    assert count_hashes[0] <= MAX_HASHES


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
    assert prefix.key == find(cache, [1, 2, 3, 4, 5, 6])[0].key


@given(st.lists(st.integers(1, 2 * BLOCK), min_size=1, max_size=6))
def test_a_long_name_does_not_depend_on_slices_either(sizes):
    """Slices that end within, at or beyond the end of a block make the same name as all tokens at once."""
    prefix, text = Prefix("here"), list(range(sum(sizes)))
    for end, size in zip(np.cumsum(sizes), sizes, strict=True):
        prefix.extend(text[end - size : end])
    assert (prefix.key, prefix.length) == (named(text).key, len(text))


def test_scopes_are_strangers():
    """What one tenant or model has read is not found by another, though the tokens are the same."""
    cache = kept([1, 2, 3], namespace=("anna", "demo"))
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
    assert sum(sum(tails.values()) for tails in cache._tails.values()) == len(cache)
    for number in range(10):
        cache.keep(named([9], namespace=number), state(0))
    assert len(cache._tails) == 2


def test_a_kept_state_is_no_view_of_a_call():
    """A row of a reply is copied: it may change, and must not keep the whole reply in memory."""
    reply = np.arange(64 * 4, dtype=np.float32).reshape(64, 4)
    cache = PrefixCache(10_000)
    cache.keep(named([1]), reply[0])
    reply[0] = 7
    known = find(cache, [1])[1]
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
        cache.keep_if_due(prefix, state(0))
    lengths = sorted({found(cache, [1] * length)[0] for length in range(5001)} - {0})
    gaps = np.diff([0, *lengths])
    assert [gap for length, gap in zip(lengths, gaps, strict=True) if length <= FAR] == [150] * 6
    assert set(gaps[6:]) == {1050}
    assert SPACING <= 150
    assert found(cache, [1] * 400)[0] == 300


def test_what_was_found_counts_as_kept():
    """A text that goes on from a known state keeps its next one only at a distance."""
    cache = kept([1] * 100)
    prefix, _ = find(cache, [1] * 120)
    prefix.extend([1] * (SPACING - 1))
    cache.keep_if_due(prefix, state(1))
    assert len(cache) == 1
    prefix.extend([1])
    cache.keep_if_due(prefix, state(1))
    assert len(cache) == 2
