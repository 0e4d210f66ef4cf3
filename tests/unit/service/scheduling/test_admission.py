"""Admission control: limits of sequences and tokens, of the server and of each quota, until they are released."""

import threading

import pytest

from service.context import Quota
from service.errors import InvalidRequest, Overloaded
from service.scheduling.admission import AdmissionControl
from tests.fakes import make_sequence

ANYBODY = Quota()


def texts(count, cost=10, quota=ANYBODY):
    """Return the sequences of one request."""
    made = []
    for choice in range(count):
        sequence = make_sequence(max_tokens=cost, random_stream=choice, quota=quota)
        sequence.cost = cost
        made.append(sequence)
    return made


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (texts(8), texts(3), "8 of 10 sequences on this server are in use and this request needs 3"),
        (texts(1, 90), texts(1, 11), "90 of 100 tokens on this server are in use and this request needs 11"),
    ],
    ids=["sequences", "tokens"],
)
def test_a_full_server_rejects_requests_until_sequences_are_released(first, second, message):
    """The message names the limit that is reached; the same request is admitted once the first has finished."""
    admission = AdmissionControl(max_sequences=10, max_tokens=100)
    admission.admit(first)
    with pytest.raises(Overloaded, match=message) as caught:
        admission.admit(second)
    assert caught.value.retry_after_s == 1
    admission.release(first)
    admission.admit(second)
    assert (admission.num_sequences, admission.num_tokens) == (len(second), sum(sequence.cost for sequence in second))


@pytest.mark.parametrize(
    ("limits", "message"),
    [((2, None), "2 of 2 sequences for this API key"), ((None, 25), "20 of 25 tokens for this API key")],
    ids=["sequences", "tokens"],
)
def test_a_quota_limits_its_own_key_only(limits, message):
    """A key at its quota is rejected, and another one is still admitted."""
    admission = AdmissionControl(max_sequences=10, max_tokens=100)
    greedy, modest = Quota("greedy", *limits), Quota("modest", *limits)
    admission.admit(texts(2, 10, greedy))
    with pytest.raises(Overloaded, match=message):
        admission.admit(texts(1, 10, greedy))
    admission.admit(texts(2, 10, modest))
    assert admission.num_sequences == 4


@pytest.mark.parametrize(
    ("sequences", "param", "message"),
    [
        (texts(11), "n", r"at most 10 sequences \(prompts × n\) on this server, got 11"),
        (texts(1, 101), "max_tokens", r"at most 100 tokens \(prompt tokens \+ .* on this server, got 101"),
        (texts(3, 1, Quota("key", 2, None)), "n", r"at most 2 sequences \(prompts × n\) for this API key, got 3"),
        (texts(1, 9, Quota("key", None, 8)), "max_tokens", r"at most 8 tokens \(.*\) for this API key, got 9"),
    ],
    ids=["sequences", "tokens", "sequences of a key", "tokens of a key"],
)
def test_a_request_that_alone_exceeds_a_limit_is_invalid(sequences, param, message):
    """A retry would never succeed, so the error is not `Overloaded`."""
    with pytest.raises(InvalidRequest, match=message) as caught:
        AdmissionControl(max_sequences=10, max_tokens=100).admit(sequences)
    assert caught.value.param == param


def test_a_rejected_request_reserves_nothing():
    """A request is admitted as a whole or not at all."""
    admission = AdmissionControl(max_sequences=3, max_tokens=100)
    admission.admit(texts(1))
    with pytest.raises(Overloaded):
        admission.admit(texts(3))
    assert (admission.num_sequences, admission.num_tokens) == (1, 10)


def test_concurrent_requests_never_exceed_a_limit():
    """Eight threads admit and release at the same time; the counts are 0 in the end."""
    admission, seen = AdmissionControl(max_sequences=5, max_tokens=10**9), []

    def come_and_go():
        for _ in range(300):
            mine = texts(2)
            try:
                admission.admit(mine)
            except Overloaded:
                continue
            seen.append(admission.num_sequences)
            admission.release(mine)

    threads = [threading.Thread(target=come_and_go) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(seen) <= 5
    assert (admission.num_sequences, admission.num_tokens) == (0, 0)
