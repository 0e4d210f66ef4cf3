"""Admission control: limits of sequences and tokens, of the server and of each key, and shares of requests."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from service.context import RequestContext
from service.errors import InvalidRequest, Overloaded
from service.scheduling.admission import AdmissionControl


def control(max_sequences=10, max_tokens=100):
    return AdmissionControl(max_sequences, max_tokens)


def fill(admissions, count, cost=1):
    requests = [admissions.open(RequestContext()) for _ in range(count)]
    return [release for request in requests for release in request.admit([cost])]


@pytest.mark.parametrize(
    ("count", "cost", "needed", "message"),
    [
        (10, 1, 1, "10 of 10 sequences on this server are in use and this request needs at least 1"),
        (9, 10, 11, "90 of 100 tokens on this server are in use and this request needs at least 11"),
    ],
    ids=["sequences", "tokens"],
)
def test_a_full_server_refuses_requests_until_sequences_finish(count, cost, needed, message):
    admissions = control()
    first, *_ = fill(admissions, count, cost)
    late = admissions.open(RequestContext())
    with pytest.raises(Overloaded, match=message) as caught:
        late.admit([needed])
    assert caught.value.retry_after_s == 1
    assert admissions.num_sequences == count
    first()
    assert len(late.admit([needed])) == 1
    assert (admissions.num_sequences, admissions.num_tokens) == (count, (count - 1) * cost + needed)


@pytest.mark.parametrize(
    ("limits", "message"),
    [((2, None), "2 of 2 sequences for this API key"), ((None, 25), "20 of 25 tokens for this API key")],
    ids=["sequences", "tokens"],
)
def test_a_quota_limits_its_own_key_only(limits, message):
    admissions = control()
    held = [admissions.open(RequestContext("greedy", *limits)) for _ in range(2)]
    for request in held:
        request.admit([10])
    with pytest.raises(Overloaded, match=message):
        admissions.open(RequestContext("greedy", *limits)).admit([10])
    assert len(admissions.open(RequestContext("modest", *limits)).admit([10])) == 1


@pytest.mark.parametrize(
    ("context", "cost", "message"),
    [
        (RequestContext(), 101, r"at most 100 tokens \(prompt tokens \+ max_tokens\) on this server, got 101"),
        (RequestContext("key", None, 8), 9, r"at most 8 tokens \(.*\) for this API key, got 9"),
    ],
    ids=["server", "key"],
)
def test_a_sequence_that_alone_exceeds_a_limit_is_invalid(context, cost, message):
    """A retry would never succeed, so the error is not `Overloaded`."""
    with pytest.raises(InvalidRequest, match=message) as caught:
        control().open(context).require_possible(cost, "input")
    assert caught.value.param == "input"


def test_requests_with_many_choices_share_two_thirds_of_the_queue_equally():
    admissions = control(30, 10_000)
    first, second = admissions.open(RequestContext()), admissions.open(RequestContext())
    releases = first.admit([1] * 100)
    assert (len(releases), len(second.admit([1] * 100))) == (20, 1)
    moved = 0
    for _ in range(10):
        releases.pop()()
        assert first.admit([1] * 100) == []
        moved += len(second.admit([1] * 100))
    assert moved == 9
    for _ in range(2):
        releases.pop()()
    assert second.admit([1] * 100) == []
    assert len(first.admit([1] * 100)) == 2


@pytest.mark.parametrize(
    ("context", "admitted"),
    [(RequestContext("key", 10, None), 6), (RequestContext("key", 1, None), 1), (RequestContext("key", None, 45), 3)],
    ids=["sequences", "one sequence", "tokens"],
)
def test_a_request_larger_than_its_keys_limit_is_admitted_in_parts(context, admitted):
    admissions = control(1000, 10_000)
    request = admissions.open(context)
    releases = request.admit([10] * 11)
    assert len(releases) == admitted
    for release in releases:
        release()
    assert len(request.admit([10] * (11 - admitted))) >= 1


def test_concurrent_requests_never_exceed_a_limit():
    admissions, seen = control(5, 10**9), []

    def come_and_go(_):
        for _ in range(300):
            request = admissions.open(RequestContext("key", 4))
            try:
                releases = request.admit([1, 1])
            except Overloaded:
                continue
            seen.append(admissions.num_sequences)
            for release in releases:
                release()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(come_and_go, range(8)))
    assert max(seen) <= 4
    assert (admissions.num_sequences, admissions.num_tokens) == (0, 0)
