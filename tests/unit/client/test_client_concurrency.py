"""`generate_many`: concurrency, order of results, seeds, errors, retries and progress."""

import fcntl
import io
import itertools
import pty
import struct
import termios
import threading

import numpy as np
import pytest

import sostenuto
from sostenuto import Client, Generation, _concurrency
from sostenuto._concurrency import AHEAD, THREAD_NAME, Progress, in_order
from tests.terminals import TerminalFile
from tests.unit.client.scripted_responses import COMPLETION, GATEWAY, answer_json, refusal
from tests.unit.client.scripted_server import PATIENCE_S
from tests.waiting import until


def echo(handler):
    text = handler.received.body["prompt"].upper()
    answer_json({"choices": [{"index": 0, "text": text, "finish_reason": "length"}]})(handler)


def made(given, make=str.upper, concurrency=2, **options):
    """Return the results of `make` for each input, without a progress bar."""
    return in_order(make, given, lambda: concurrency, **options)


def test_results_have_the_order_of_their_prompts(client, server):
    server.script = [answer_json(GATEWAY), *[echo] * 50]
    prompts = [f"p{number}" for number in range(50)]
    texts = [str(generation) for generation in client.generate_many(prompts, model="tiny", temperature=0.5)]
    assert texts == [prompt.upper() for prompt in prompts]
    assert sorted(body["prompt"] for body in server.bodies[1:]) == sorted(prompts)
    assert all(body["temperature"] == 0.5 and "seed" not in body for body in server.bodies[1:])
    assert len({request.client_port for request in server.requests[1:]}) <= 10


def test_a_slow_result_does_not_change_the_order():
    others = threading.Semaphore(0)

    def make(number):
        if number:
            others.release()
        else:
            assert all(others.acquire(timeout=PATIENCE_S) for _ in range(3))
        return number

    assert list(made(range(8), make)) == list(range(8))


def test_concurrency_is_reached_and_never_exceeded():
    together, now, most = threading.Barrier(3, timeout=PATIENCE_S), itertools.count(), []
    running = set()

    def make(number):
        running.add(number)
        most.append(len(running))
        together.wait()
        running.discard(number)
        return next(now)

    assert sorted(made(range(9), make, concurrency=3)) == list(range(9))
    assert max(most) <= 3


def test_prompts_are_read_lazily():
    read = []

    def numbers():
        for number in itertools.count():
            read.append(number)
            yield f"p{number}"

    results = made(numbers(), concurrency=2)
    assert read == []
    assert [next(results) for _ in range(3)] == ["P0", "P1", "P2"]
    assert len(read) <= 3 + 2 * AHEAD
    results.close()


def test_an_error_is_raised_in_the_order_of_its_prompt(client, server):
    server.script = [echo, refusal(400, "no"), *[echo] * 50]
    results = client.generate_many([str(number) for number in range(50)], model="tiny", concurrency=1)
    assert str(next(results)) == "0"
    with pytest.raises(sostenuto.BadRequest):
        next(results)
    assert len(server.requests) <= 2 + AHEAD


def test_after_an_error_no_further_call_starts():
    begun, go_on = [], threading.Event()

    def make(number):
        if number == 0:
            raise sostenuto.BadRequest("no")
        begun.append(number)
        assert go_on.wait(PATIENCE_S)

    with pytest.raises(sostenuto.BadRequest):
        next(made(range(9), make, concurrency=1))
    go_on.set()
    assert_no_worker_waits()
    assert begun in ([], [1])


def test_return_errors_yields_the_error_as_its_prompts_result(client, server):
    server.script = [echo, refusal(400, "no"), echo]
    results = list(client.generate_many(["a", "b", "c"], model="tiny", concurrency=1, return_errors=True))
    assert [type(result) for result in results] == [Generation, sostenuto.BadRequest, Generation]


@pytest.mark.parametrize(("asked", "pause"), [("2", 2.0), (None, None), ("0", 0.1)])
def test_an_overloaded_server_is_retried_until_it_accepts(server, waits, asked, pause):
    full = refusal(429, "full", headers={} if asked is None else {"Retry-After": asked})
    server.script = [*[full] * 5, echo]
    with Client(server.url, max_retries=0) as client:
        assert [str(result) for result in client.generate_many(["a"], model="tiny", concurrency=1)] == ["A"]
    assert waits == ([0.5, 1.0, 2.0, 4.0, 8.0] if pause is None else [pause] * 5)


@pytest.mark.parametrize("headers", [{"X-Should-Retry": "false"}, {"Retry-After": "3600"}])
def test_an_overload_that_is_not_retryable_is_raised(client, server, waits, headers):
    server.script = [refusal(429, "full", headers=headers)]
    with pytest.raises(sostenuto.TooManyRequests):
        list(client.generate_many(["a"], model="tiny", concurrency=1))
    assert waits == []


def test_closing_the_results_ends_retries(server):
    attempted = threading.Event()

    def unavailable(handler):
        refusal(503, "no", headers={"Retry-After": "30"})(handler)
        attempted.set()

    server.script = [echo, unavailable]
    with Client(server.url) as patient:
        results = patient.generate_many(["a", "b"], model="tiny", concurrency=1)
        assert str(next(results)) == "A"
        assert attempted.wait(PATIENCE_S)
        results.close()
        assert_no_worker_waits()
    assert len(server.requests) == 2


def assert_no_worker_waits():
    for thread in threading.enumerate():
        if thread.name == THREAD_NAME:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


def test_finished_results_are_delivered_before_more_prompts_are_read():
    asked, received = threading.Event(), threading.Event()

    def slow():
        yield "a"
        asked.set()
        until(results.gi_frame.f_locals["pending"][0].done)
        yield "b"
        assert received.is_set()
        yield "c"
        raise LookupError("no more")

    def make(one):
        assert asked.wait(PATIENCE_S)
        return one.upper()

    results = made(slow(), make)
    assert next(results) == "A"
    received.set()
    assert [next(results), next(results)] == ["B", "C"]
    with pytest.raises(LookupError):
        next(results)


@pytest.mark.parametrize(
    ("prompts", "concurrency", "message"),
    [("The ", None, "pass a list"), (["a"], 0, "concurrency is 0: pass 1 or more"), (["a"], -1, "concurrency is -1")],
)
def test_generate_many_rejects_a_single_string_and_a_concurrency_below_one(client, prompts, concurrency, message):
    with pytest.raises(sostenuto.InvalidArgument, match=message):
        client.generate_many(prompts, concurrency=concurrency)


@pytest.fixture
def clock(monkeypatch):
    """The time that the progress bar reads, in seconds."""
    moment = [100.0]
    monkeypatch.setattr(_concurrency, "monotonic", lambda: moment[0])
    return moment


def test_a_terminal_gets_a_progress_bar(clock):
    file = TerminalFile()
    with Progress(4, shown=True, file=file) as progress:
        for _ in range(4):
            clock[0] += 30
            progress.advance()
    lines = file.getvalue().split("\r\x1b[K")
    assert lines[1] == "█" * 6 + "·" * 18 + " 1/4, 0.0333/s, 1:30 left"
    assert lines[-1] == "█" * 24 + " 4/4, 0.0333/s\n"
    assert len(lines) == 6


def test_a_file_gets_progress_lines_at_intervals(clock):
    file = io.StringIO()
    with Progress(None, shown=True, file=file) as progress:
        for _ in range(4):
            clock[0] += 20
            progress.advance()
        clock[0] += 60
    clock[0] += 60
    progress.advance()
    assert file.getvalue() == "2 done, 0.05/s\n4 done, 0.05/s\n4 done, 0.0286/s\n"


def test_a_line_fits_the_terminal_and_its_rate_is_that_of_new_items(clock, monkeypatch):
    """A line that wraps could not be redrawn."""
    monkeypatch.setenv("COLUMNS", "60")
    file = TerminalFile()
    with Progress(4, shown=True, num_done=2, file=file) as progress:
        progress.note = ", waiting" * 9
        clock[0] += 10
        progress.advance()
    assert file.getvalue().split("\r\x1b[K")[1] == "█" * 18 + "·" * 6 + " 3/4, 0.1/s, 0:10 left, waiting, wa"


def test_escape_sequences_of_a_note_are_escaped():
    file = TerminalFile()
    with Progress(4, shown=True, file=file) as progress:
        progress.note = ", waiting: \x1b]0;mine\x07"
    assert file.getvalue().endswith(", waiting: \\u001b]0;mine\\u0007\n")


def test_a_line_fits_the_terminal_that_it_is_written_to():
    """Standard output may be a file, as in `sostenuto score FILE --csv > scores.csv`."""
    mine, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 20, 0, 0))
    with open(mine, "rb", buffering=0) as terminal, open(theirs, "w", encoding="utf-8") as file:
        with Progress(4, shown=True, file=file):
            pass
        assert terminal.read(1000).decode() == "\r\x1b[K" + "·" * 19 + "\r\n"


def test_progress_is_shown_only_on_request(capfd, client, server):
    server.script = [echo] * 4
    list(client.generate_many(["a", "b"], model="tiny", concurrency=1))
    assert capfd.readouterr() == ("", "")
    list(client.generate_many(["a", "b"], model="tiny", concurrency=1, progress=True))
    out, err = capfd.readouterr()
    assert out == ""
    assert "2/2" in err


@pytest.mark.parametrize("progress", [False, True])
def test_a_program_may_have_no_standard_error(monkeypatch, client, server, progress):
    """As that of a daemon, or with `2>&-`."""
    monkeypatch.setattr("sys.stderr", None)
    server.script = [echo]
    assert [*map(str, client.generate_many(["a"], model="tiny", concurrency=1, progress=progress))] == ["A"]


def seeds_of(client, server, prompts, **options):
    server.script = [answer_json(COMPLETION)] * 9
    list(client.generate_many(prompts, model="tiny", concurrency=1, **options))
    return [body.get("seed") for body in server.bodies]


@pytest.mark.parametrize(
    ("options", "seeds"),
    [
        ({}, [None, None, None]),
        ({"seed": 7}, [7, 8, 9]),
        ({"seed": -1}, [-1, 0, 1]),
        ({"seeds": [5, 5, 2**62]}, [5, 5, 2**62]),
        ({"seeds": tuple(np.array([1, 2, 3]))}, [1, 2, 3]),
        ({"seeds": range(3)}, [0, 1, 2]),
        ({"extra_body": {"seed": 7}}, [7, 7, 7]),
    ],
)
def test_each_prompt_gets_its_seed(client, server, options, seeds):
    assert seeds_of(client, server, ["a"] * 3, **options) == seeds
    assert seeds_of(client, server, iter(["a"] * 3), **options) == seeds * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": [1, 2]}, "seeds has 2 entries for 3 prompts: pass one seed per prompt"),
        ({"seeds": range(4)}, "seeds has 4 entries for 3 prompts"),
        ({"seeds": [1, 2, 3], "seed": 1}, "seed is 1 and seeds is given, too: pass one of them"),
        ({"seeds": [1, 2, "3"]}, r"seeds\[2\] is '3': pass an int"),
        ({"seed": [1, 2, 3]}, r"seed is \[1, 2, 3\]: pass an int, or seeds with one per prompt"),
    ],
)
def test_invalid_seeds_are_rejected_before_anything_is_sent(client, server, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        client.generate_many(["a", "b", "c"], **options)
    assert isinstance(caught.value, sostenuto.InvalidArgument)
    assert server.requests == []


@pytest.mark.parametrize(
    ("num_prompts", "message"),
    [(4, "seeds has 3 entries for more than 3 prompts"), (2, "seeds has 3 entries for 2 prompts")],
)
def test_a_wrong_number_of_seeds_for_unknown_prompts_is_raised_after_the_results(client, server, num_prompts, message):
    server.script = [answer_json(COMPLETION)] * 4
    results = client.generate_many(iter("abcd"[:num_prompts]), model="tiny", concurrency=1, seeds=[1, 2, 3])
    assert len([next(results) for _ in range(min(num_prompts, 3))]) == min(num_prompts, 3)
    with pytest.raises(sostenuto.InvalidArgument, match=message):
        next(results)


def test_one_seed_is_enough_for_infinite_prompts(client, server):
    server.script = [answer_json(COMPLETION)] * 50
    results = client.generate_many(itertools.repeat("a"), model="tiny", concurrency=1, seed=10)
    assert len([next(results) for _ in range(3)]) == 3
    results.close()
    assert [body["seed"] for body in server.bodies[:3]] == [10, 11, 12]
