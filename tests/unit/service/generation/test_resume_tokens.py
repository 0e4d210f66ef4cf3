"""Resume tokens open for their tenant until they expire; any other token is refused, with an error per reason."""

import base64
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import ConfigurationError, StateRefused
from service.generation.resume_tokens import (
    Checkpoint,
    ResumeTokens,
    key_file,
    read_state_keys,
    state_keys,
)
from service.scheduling.sequence import ModelVersion


def saved(state=(0.5, -1.0), unread_ids=(7,), counts=None, **fields):
    """Return a checkpoint; fields that are passed replace the defaults."""
    point = np.array(state, np.float32), np.array(unread_ids, np.int32)
    others = {"num_sampled": 3, "seed": 5, "random_stream": 0, **fields}
    return Checkpoint(ModelVersion("demo", 3), "ab" * 32, *point, **others, token_counts=Counter(counts))


@given(
    state=st.lists(st.floats(width=32), min_size=1, max_size=20),
    unread_ids=st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=20),
    num_sampled=st.integers(0, 2**40),
    seed=st.integers(-(2**63), 2**63 - 1),
    random_stream=st.integers(0, 2**64 - 1),
    detokenizer=st.sampled_from([None, True, "e282", [3, " a"]]),
    held_back=st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    counts=st.dictionaries(st.integers(0, 2**31 - 1), st.integers(0, 1000), max_size=5),
    label_ids=st.lists(st.integers(0, 2**31 - 1), max_size=5).map(tuple),
)
def test_a_checkpoint_is_unchanged_after_a_round_trip(**fields):
    text = saved(**fields)
    back = Checkpoint.from_bytes(text.to_bytes())
    for array, same in ((back.state, text.state), (back.unread_ids, text.unread_ids)):
        assert (array.dtype, array.tobytes()) == (same.dtype, same.tobytes())
    assert {**vars(back), "state": None, "unread_ids": None} == {**vars(text), "state": None, "unread_ids": None}
    assert back.state.flags.writeable


@pytest.mark.parametrize("stream", [0, 3, 2**64 - 1])
def test_branch_0_keeps_the_random_stream_and_the_others_are_new(stream):
    text, later = (saved(random_stream=stream, num_sampled=position) for position in (3, 4))
    assert text.branch(0) == stream
    streams = [each.branch(choice) for each in (text, later) for choice in range(1, 50)]
    deeper = [saved(random_stream=branch).branch(1) for branch in streams]
    assert len({stream, *streams, *deeper}) == 1 + 2 * 98
    assert [text.branch(choice) for choice in range(1, 50)] == streams[:49]
    assert all(0 <= branch < 2**64 for branch in streams)


def test_a_checkpoint_advances_with_or_without_a_new_state():
    text = saved(unread_ids=(4, 5), num_sampled=10)
    text.advance([6, 7], None)
    assert (text.unread_ids.tolist(), text.num_sampled, text.state.tolist()) == ([4, 5, 6, 7], 12, [0.5, -1])
    text.advance([8, 9, 1], np.ones(2, np.float32))
    assert (text.unread_ids.tolist(), text.num_sampled, text.state.tolist()) == ([1], 15, [1, 1])


NOW = 1_800_000_000.0
OLD, NEW = b"o" * 40, b"n" * 40
KEYS = state_keys(NEW, OLD)


def tokens(keys=KEYS, now=NOW, max_age_s=100.0):
    return ResumeTokens(lambda: keys, max_age_s, lambda: now)


TOKEN = tokens().seal(saved(), "anna")


def refusal(token, tenant="anna", **how):
    with pytest.raises(StateRefused) as info:
        tokens(**how).open(token, tenant)
    return info.value


def test_a_token_opens_for_its_tenant():
    text = tokens().open(TOKEN, "anna")
    assert (text.state.tolist(), text.seed, text.num_sampled) == ([0.5, -1.0], 5, 3)
    assert tokens().open(tokens().seal(saved(seed=9), ""), "").seed == 9


@given(st.integers(0, len(TOKEN) - 1), st.sampled_from("Aa0-_.zZ"))
def test_a_token_with_any_character_changed_is_refused(place, character):
    """The error never depends on the content, as the signature is verified first."""
    if TOKEN[place] == character:
        return
    error = refusal(TOKEN[:place] + character + TOKEN[place + 1 :])
    assert error.code in ("state_altered", "state_malformed", "state_key_unknown")
    assert error.param == "state"


def test_each_reason_for_refusing_a_token_has_an_error_code():
    cut = TOKEN[:-30]
    altered = TOKEN[:40] + ("B" if TOKEN[40] == "A" else "A") + TOKEN[41:]
    foreign, expired = refusal(TOKEN, "bert"), refusal(TOKEN, now=NOW + 101)
    errors = [foreign, refusal(altered), expired, refusal(TOKEN, keys=state_keys(OLD))]
    errors += [refusal(token) for token in (cut, "x" * 1_000_000, "")]
    codes = ["foreign", "altered", "expired", "key_unknown", "malformed", "malformed", "malformed"]
    assert [error.code for error in errors] == [f"state_{code}" for code in codes]
    assert [error.status for error in errors] == [403, 400, 400, 400, 400, 400, 400]
    assert all(len(str(error)) < 250 for error in errors)
    assert "at most 100 seconds old, got one of 101" in str(expired)
    assert foreign.type == "permission_error"


def test_a_token_does_not_contain_the_name_of_its_tenant():
    """A token is not encrypted, so it has only a hash of the name."""
    content = TOKEN.split(".")[2]
    assert b"anna" not in base64.urlsafe_b64decode(content + "==")


@pytest.mark.parametrize("back_s", [1, 3600, 10**8])
def test_a_token_from_the_future_is_accepted(back_s):
    """The clock was set back; the signature proves that the token is genuine."""
    assert tokens(now=NOW - back_s).open(TOKEN, "anna").seed == 5


def test_keys_are_rotated_without_refusing_tokens():
    old = tokens(state_keys(OLD)).seal(saved(), "anna")
    assert tokens().open(old, "anna").seed == 5
    assert TOKEN.split(".")[1] != old.split(".")[1]
    assert tokens(state_keys(OLD, NEW)).open(TOKEN, "anna").seed == 5
    assert refusal(old, keys=state_keys(NEW)).code == "state_key_unknown"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "cannot be read"),
        ("", "has no key; create one: openssl rand"),
        ("# " + "a" * 40 + "\n\n", "has no key"),
        ("a" * 32 + "\n" + "b" * 31, "at least 32 characters, got 31"),
        (b"\xff" * 40, "cannot be read"),
    ],
)
def test_the_error_for_an_invalid_key_file_contains_no_key(tmp_path, content, complaint):
    path = tmp_path / "state.keys"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigurationError, match=complaint) as info:
        read_state_keys(path)
    assert str(path) in str(info.value)
    assert "aaaa" not in str(info.value)


def test_a_changed_key_file_is_reloaded(tmp_path):
    path = tmp_path / "state.keys"
    path.write_text("o" * 40 + "\n")
    keys = key_file(path).content
    first = keys()
    path.write_text("# newest first\n" + "n" * 40 + "\n" + "o" * 40 + "\n")
    second = keys()
    assert [*second.values()] == [NEW, OLD]
    assert list(second)[1:] == list(first)
    path.write_text("short\n")
    assert keys() is second
