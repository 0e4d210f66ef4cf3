"""Tokens come back as they were given out, to whom and in time; anything else is refused by its reason."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import (
    StateAltered,
    StateExpired,
    StateForeign,
    StateMalformed,
    StateOfUnknownKey,
    StateRefused,
)
from service.generation.resume_tokens import KeyFile, ResumeTokens, StateKeyError, StateKeys, make_key_file
from tests.unit.service.generation.test_checkpoint import saved

NOW = 1_800_000_000.0
OLD, NEW = b"o" * 40, b"n" * 40
KEYS = StateKeys.of([NEW, OLD])


def tokens(keys=KEYS, now=NOW, max_age_s=100.0):
    """Return what makes and reads tokens at a time."""
    return ResumeTokens(lambda: keys, max_age_s, lambda: now)


TOKEN = tokens().seal(saved(), "anna")


def refusal(token, tenant="anna", **how):
    """Return the error by which a token is refused."""
    with pytest.raises(StateRefused) as info:
        tokens(**how).open(token, tenant)
    return info.value


def test_a_token_comes_back_for_its_tenant():
    """Wherever the keys are the same, the text is that which was put down."""
    text = tokens().open(TOKEN, "anna")
    assert text.point.state.tolist() == [0.5, -1.0]
    assert (text.seed, text.point.num_sampled) == (5, 3)
    assert tokens().open(tokens().seal(saved(seed=9), ""), "").seed == 9


@given(st.integers(0, len(TOKEN) - 1), st.sampled_from("Aa0-_.zZ"))
def test_no_character_can_be_changed(place, character):
    """Whichever it is, the token is refused, and nothing in it is looked at before the signature was."""
    if TOKEN[place] == character:
        return
    error = refusal(TOKEN[:place] + character + TOKEN[place + 1 :])
    assert type(error) in (StateAltered, StateMalformed, StateOfUnknownKey)
    assert error.param == "state"


def test_each_reason_has_its_error():
    """Foreign, altered, expired, of another key and none at all: each has a code of its own."""
    cut = TOKEN[:-30]
    altered = TOKEN[:40] + ("B" if TOKEN[40] == "A" else "A") + TOKEN[41:]
    errors = [
        refusal(TOKEN, "bert"),
        refusal(altered),
        refusal(TOKEN, now=NOW + 101),
        refusal(TOKEN, keys=StateKeys.of([OLD])),
        refusal(cut),
        refusal("x" * 1_000_000),
        refusal(""),
    ]
    assert [error.code for error in errors] == [
        "state_foreign",
        "state_altered",
        "state_expired",
        "state_key_unknown",
        "state_malformed",
        "state_malformed",
        "state_malformed",
    ]
    assert [error.status for error in errors] == [403, 400, 400, 400, 400, 400, 400]
    assert all(len(str(error)) < 250 for error in errors)
    assert "at most 100 seconds old, got one of 101" in str(errors[2])
    assert isinstance(errors[0], StateForeign)
    assert isinstance(errors[2], StateExpired)


def test_a_name_is_not_told_to_who_finds_a_token():
    """A token can be read by anybody; the tenant stands in it as a hash."""
    content = TOKEN.split(".")[2]
    assert b"anna" not in base64.urlsafe_b64decode(content + "==")


@pytest.mark.parametrize("back_s", [1, 3600, 10**8])
def test_a_clock_that_was_set_back_refuses_nothing(back_s):
    """A token from what is now the future is our own."""
    assert tokens(now=NOW - back_s).open(TOKEN, "anna").seed == 5


def test_keys_are_changed_without_a_refusal():
    """The first key of a file signs, the others are still accepted; a retired one is not."""
    old = tokens(StateKeys.of([OLD])).seal(saved(), "anna")
    assert tokens().open(old, "anna").seed == 5
    assert TOKEN.split(".")[1] != old.split(".")[1]
    assert tokens(StateKeys.of([OLD, NEW])).open(TOKEN, "anna").seed == 5
    assert refusal(old, keys=StateKeys.of([NEW])).code == "state_key_unknown"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "cannot be read"),
        ("", "holds no key; make one: openssl rand"),
        ("# " + "a" * 40 + "\n\n", "holds no key"),
        ("a" * 32 + "\n" + "b" * 31, "at least 32 characters, got 31"),
        (b"\xff" * 40, "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_without_its_secrets(tmp_path, content, complaint):
    """The message names the file and the bound, and shows nothing that stands in it."""
    path = tmp_path / "state.keys"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(StateKeyError, match=complaint) as info:
        StateKeys.read(path)
    assert str(path) in str(info.value)
    assert "aaaa" not in str(info.value)


def test_a_file_is_made_once_and_for_its_owner_alone(tmp_path):
    """Each file has another key, and one that is there stays as it is."""
    path = tmp_path / "state.key"
    make_key_file(path)
    before = path.read_text()
    make_key_file(path)
    assert path.read_text() == before
    assert path.stat().st_mode & 0o777 == 0o600
    make_key_file(tmp_path / "other.key")
    assert StateKeys.read(path).keys.keys() != StateKeys.read(tmp_path / "other.key").keys.keys()


def test_a_file_may_change_while_it_is_in_use(tmp_path, caplog):
    """A new key signs from then on; a damaged or missing file leaves the last good keys in force, and is told once."""
    path = tmp_path / "state.keys"
    path.write_text("o" * 40 + "\n")
    keys = KeyFile(path)
    first = keys()
    path.write_text("# newest first\n" + "n" * 40 + "\n" + "o" * 40 + "\n")
    second = keys()
    assert [*second.keys.values()] == [NEW, OLD]
    assert list(second.keys)[1:] == list(first.keys)
    path.write_text("short\n")
    assert keys() is second
    path.unlink()
    assert keys() is keys() is second
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 2
    path.write_text("o" * 40 + "\n")
    assert [*keys().keys.values()] == [OLD]
