"""Nothing is taken on beyond the bounds, in all and for each account, and nothing that left is counted."""

import threading

import pytest

from service.errors import InvalidRequest, Overloaded
from service.scheduling.admission import Ledger
from service.scheduling.sequence import Account
from tests.fakes import make_sequence

ANYBODY = Account()


def texts(count, cost=10, account=ANYBODY):
    """Return the sequences of one request."""
    made = []
    for choice in range(count):
        sequence = make_sequence(max_tokens=cost, stream=choice, account=account)
        sequence.cost = cost
        made.append(sequence)
    return made


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (texts(8), texts(3), "8 of 10 texts at this server are taken and this request has 3"),
        (texts(1, 90), texts(1, 11), "90 of 100 tokens at this server are taken and this request has 11"),
    ],
    ids=["texts", "tokens"],
)
def test_a_full_server_refuses_and_takes_again_when_there_is_room(first, second, message):
    """The message says what is full; the same request is taken once the first has left."""
    ledger = Ledger(max_texts=10, max_tokens=100)
    ledger.enter(first)
    with pytest.raises(Overloaded, match=message) as caught:
        ledger.enter(second)
    assert caught.value.retry_after_s == 1
    ledger.leave(first)
    ledger.enter(second)
    assert (ledger.num_texts, ledger.num_tokens) == (len(second), sum(sequence.cost for sequence in second))


@pytest.mark.parametrize(
    ("limits", "message"),
    [((2, None), "2 of 2 texts at this key"), ((None, 25), "20 of 25 tokens at this key")],
    ids=["texts", "tokens"],
)
def test_a_key_that_has_its_share_leaves_room_for_others(limits, message):
    """One key's bound is no other's."""
    ledger = Ledger(max_texts=10, max_tokens=100)
    greedy, modest = Account("greedy", *limits), Account("modest", *limits)
    ledger.enter(texts(2, 10, greedy))
    with pytest.raises(Overloaded, match=message):
        ledger.enter(texts(1, 10, greedy))
    ledger.enter(texts(2, 10, modest))
    assert ledger.num_texts == 4


@pytest.mark.parametrize(
    ("sequences", "param", "message"),
    [
        (texts(11), "n", "at most 10 texts at this server .*, got 11"),
        (texts(1, 101), "max_tokens", "at most 100 tokens at this server .*, got 101"),
        (texts(3, 1, Account("key", 2, None)), "n", "at most 2 texts at this key .*, got 3"),
        (texts(1, 9, Account("key", None, 8)), "max_tokens", "at most 8 tokens at this key .*, got 9"),
    ],
    ids=["texts", "tokens", "texts of a key", "tokens of a key"],
)
def test_what_could_never_be_taken_is_an_error_of_the_request(sequences, param, message):
    """Coming back later would not help, so it is not a full queue."""
    with pytest.raises(InvalidRequest, match=message) as caught:
        Ledger(max_texts=10, max_tokens=100).enter(sequences)
    assert caught.value.param == param


def test_a_refused_request_leaves_nothing_behind():
    """All of a request is taken on or none of it."""
    ledger = Ledger(max_texts=3, max_tokens=100)
    ledger.enter(texts(1))
    with pytest.raises(Overloaded):
        ledger.enter(texts(3))
    assert (ledger.num_texts, ledger.num_tokens) == (1, 10)


def test_many_threads_never_pass_a_bound():
    """However requests come and go, no moment has more than the bound."""
    ledger, seen = Ledger(max_texts=5, max_tokens=10**9), []

    def come_and_go():
        for _ in range(300):
            mine = texts(2)
            try:
                ledger.enter(mine)
            except Overloaded:
                continue
            seen.append(ledger.num_texts)
            ledger.leave(mine)

    threads = [threading.Thread(target=come_and_go) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(seen) <= 5
    assert (ledger.num_texts, ledger.num_tokens) == (0, 0)
