"""Many prompts at once, in order, and how far they are."""

from __future__ import annotations

import io
import itertools
import threading
from contextlib import suppress
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Callable

import pytest

import ostinato
from ostinato import Client, Generation, _progress
from ostinato._concurrency import AHEAD, in_order
from ostinato._progress import Progress
from tests.unit.client.scripted_responses import answer_json, refusal
from tests.unit.client.scripted_server import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.unit.client.scripted_server import Handler, ScriptedServer

STATUS = answer_json({"status": "ok", "sequences": {"accepted": 3, "max": 8}})


def echo(handler: Handler) -> None:
    """Answer a text that is the prompt in capitals."""
    text = handler.received.body["prompt"].upper()
    answer_json({"choices": [{"index": 0, "text": text, "finish_reason": "length"}]})(handler)


def made(given: Any, make: Any = str.upper, concurrency: int = 2, **options: Any) -> Iterator[Any]:
    """Return what is made of each, quietly."""
    return in_order(make, given, lambda: concurrency, **{"show_progress": False, "return_errors": False, **options})


def test_texts_come_in_the_order_of_their_prompts(client: Client, server: ScriptedServer) -> None:
    """Every prompt is sent once, with the same options, as many at once as the server takes."""
    server.script = [STATUS, *[echo] * 50]
    prompts = [f"p{number}" for number in range(50)]
    texts = [str(generation) for generation in client.generate_many(prompts, model="tiny", seed=7)]
    assert texts == [prompt.upper() for prompt in prompts]
    assert sorted(body["prompt"] for body in server.bodies[1:]) == sorted(prompts)
    assert all(body["seed"] == 7 for body in server.bodies[1:])
    assert len({request.client_port for request in server.requests[1:]}) <= 8


def test_slow_ones_do_not_change_the_order() -> None:
    """The first is made last, and still comes first."""
    others = threading.Semaphore(0)

    def make(number: int) -> int:
        if number:
            others.release()
        else:
            assert all(others.acquire(timeout=PATIENCE_S) for _ in range(3))
        return number

    assert list(made(range(8), make)) == list(range(8))


def test_as_many_at_once_as_was_said() -> None:
    """So many are made together, and never one more."""
    together, now, most = threading.Barrier(3, timeout=PATIENCE_S), itertools.count(), []
    running: set[int] = set()

    def make(number: int) -> int:
        running.add(number)
        most.append(len(running))
        together.wait()
        running.discard(number)
        return next(now)

    assert sorted(made(range(9), make, concurrency=3)) == list(range(9))
    assert max(most) <= 3


def test_prompts_are_read_as_they_are_needed() -> None:
    """An endless iterable is as good as a list; nothing is read before the first result is asked for."""
    read = []

    def numbers() -> Iterator[str]:
        for number in itertools.count():
            read.append(number)
            yield f"p{number}"

    results = made(numbers(), concurrency=2)
    assert read == []
    assert [next(results) for _ in range(3)] == ["P0", "P1", "P2"]
    assert len(read) <= 3 + 2 * AHEAD
    results.close()


def test_an_error_is_raised_in_its_place(client: Client, server: ScriptedServer) -> None:
    """What comes before it is delivered, and prompts behind it that have not begun are not sent."""
    server.script = [echo, refusal(400, "no"), *[echo] * 50]
    results = client.generate_many([str(number) for number in range(50)], model="tiny", concurrency=1)
    assert str(next(results)) == "0"
    with pytest.raises(ostinato.BadRequest):
        next(results)
    assert len(server.requests) <= 2 + AHEAD


def test_after_an_error_nothing_new_is_begun() -> None:
    """What is on its way is finished, what waits is not begun."""
    begun, go_on = [], threading.Event()

    def make(number: int) -> None:
        if number == 0:
            raise ostinato.BadRequest("no")
        begun.append(number)
        assert go_on.wait(PATIENCE_S)

    with pytest.raises(ostinato.BadRequest):
        next(made(range(9), make, concurrency=1))
    go_on.set()
    for thread in threading.enumerate():
        if thread.name.startswith("ostinato"):
            thread.join(PATIENCE_S)
    assert begun in ([], [1])


def test_an_error_can_take_the_place_of_its_text(client: Client, server: ScriptedServer) -> None:
    """Then the others come, too."""
    server.script = [echo, refusal(400, "no"), echo]
    results = list(client.generate_many(["a", "b", "c"], model="tiny", concurrency=1, return_errors=True))
    assert [type(result) for result in results] == [Generation, ostinato.BadRequest, Generation]


def full(**headers: str) -> Callable[[str], str]:
    """Make what finds a full queue five times."""
    attempts = itertools.count()

    def make(one: str) -> str:
        if next(attempts) < 5:
            raise answered_429(headers)
        return one.upper()

    return make


def answered_429(headers: dict[str, str]) -> ostinato.Overloaded:
    """Make the error of a server that is full."""
    asked = headers.get("retry_after_s")
    error = ostinato.Overloaded("full", retryable=headers.get("retry") != "false")
    error.retry_after_s = None if asked is None else float(asked)
    return error


@pytest.mark.parametrize(("asked", "pause"), [("2", 2.0), (None, 1.0), ("0", 0.1)])
def test_a_full_queue_is_waited_for(waits: list[float], asked: str | None, pause: float) -> None:
    """However often the server has no room: as long as it says, or a second, and never not at all."""
    assert list(made(["a"], full(**({} if asked is None else {"retry_after_s": asked})))) == ["A"]
    assert waits == [pause] * 5


@pytest.mark.parametrize("headers", [{"retry": "false"}, {"retry_after_s": "3600"}])
def test_what_is_not_to_be_sent_again_is_an_error(waits: list[float], headers: dict[str, str]) -> None:
    """The server says so, or would have one wait for hours."""
    with pytest.raises(ostinato.Overloaded):
        list(made(["a"], full(**headers)))
    assert waits == []


def test_who_waits_stops_with_the_others() -> None:
    """Leaving ends what has found no room, too."""
    tried = threading.Event()

    def make(_: str) -> None:
        tried.set()
        raise answered_429({"retry_after_s": "30"})

    results = made(["a", "b"], make)

    def read() -> None:
        with suppress(ostinato.Overloaded):
            next(results)

    threading.Thread(target=read, daemon=True).start()
    assert tried.wait(PATIENCE_S)
    (worker, *_) = [thread for thread in threading.enumerate() if thread.name == "ostinato-many" and thread.is_alive()]
    workers_of(results).stop()
    worker.join(PATIENCE_S)
    assert not worker.is_alive()


def test_leaving_ends_retries(server: ScriptedServer) -> None:
    """A prompt that waits for its next attempt when the results are left is not sent again."""
    attempted = threading.Event()

    def unavailable(handler: Handler) -> None:
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


@pytest.mark.parametrize("status", [429, 503])
def test_closing_the_client_ends_the_waits_of_its_workers(server: ScriptedServer, status: int) -> None:
    """Whether the queue is full or the server fails: the results end with an error, and nothing is sent again."""
    attempted = threading.Event()
    client = Client(server.url, max_retries=1 if status == 503 else 0)

    def refuse(handler: Handler) -> None:
        refusal(status, "no", headers={"Retry-After": "30"})(handler)
        attempted.set()

    def close() -> None:
        assert attempted.wait(PATIENCE_S)
        client.close()

    server.script = [refuse]
    threading.Thread(target=close, daemon=True).start()
    began_at_s = monotonic()
    with pytest.raises(ostinato.ClientClosed):
        list(client.generate_many(["a"], model="tiny", concurrency=1))
    assert monotonic() - began_at_s < 20
    assert_no_worker_waits()
    assert len(server.requests) == 1


def assert_no_worker_waits() -> None:
    """Wait until all workers have ended."""
    for thread in threading.enumerate():
        if thread.name == "ostinato-many":
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


def workers_of(results: Any) -> Any:
    """Return the workers of a generator that is running."""
    return results.gi_frame.f_locals["workers"]


def test_no_worker_keeps_a_program_from_ending() -> None:
    """They are daemons: what they have on their way ends with it."""
    assert list(made(["a"], lambda _: threading.current_thread().daemon)) == [True]


def test_what_is_done_is_delivered_before_more_is_read() -> None:
    """A slow source does not hold up results; if it fails, they come first."""
    done, received = threading.Event(), threading.Event()

    def slow() -> Iterator[str]:
        yield "a"
        assert done.wait(PATIENCE_S)
        sleep(0.05)  # until the result is noted
        yield "b"
        assert received.is_set()
        yield "c"
        raise LookupError("no more")

    def make(one: str) -> str:
        done.set()
        return one.upper()

    results = made(slow(), make)
    assert next(results) == "A"
    received.set()
    assert [next(results), next(results)] == ["B", "C"]
    with pytest.raises(LookupError):
        next(results)


def test_one_text_is_no_list_of_prompts(client: Client) -> None:
    """Its letters are not meant."""
    with pytest.raises(ostinato.InvalidArgument, match="pass a list"):
        client.generate_many("The ")


@pytest.mark.parametrize("concurrency", [0, -1])
def test_a_concurrency_below_one_is_refused(client: Client, concurrency: int) -> None:
    """At once, and not with the first result."""
    with pytest.raises(ostinato.InvalidArgument, match=f"concurrency is {concurrency}: pass 1 or more"):
        client.generate_many(["a"], concurrency=concurrency)


class Terminal(io.StringIO):
    """A file that a person looks at."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The moment, in seconds."""
    moment = [100.0]
    monkeypatch.setattr(_progress, "monotonic", lambda: moment[0])
    return moment


def test_a_terminal_sees_a_bar(clock: list[float]) -> None:
    """Written over now and then, with what is left at this rate; the last line stays."""
    file = Terminal()
    with Progress(4, shown=True, file=file) as progress:
        for _ in range(4):
            clock[0] += 30
            progress.advance()
    lines = file.getvalue().split("\r\x1b[K")
    assert lines[1] == "█" * 6 + "·" * 18 + " 1/4, 0.0333/s, 1:30 left"
    assert lines[-1] == "█" * 24 + " 4/4, 0.0333/s\n"
    assert len(lines) == 6


def test_a_file_gets_a_line_now_and_then(clock: list[float]) -> None:
    """No control characters, and not a line for each."""
    file = io.StringIO()
    with Progress(None, shown=True, file=file) as progress:
        for _ in range(4):
            clock[0] += 20
            progress.advance()
        clock[0] += 60
    clock[0] += 60
    progress.advance()
    assert file.getvalue() == "2 done, 0.05/s\n4 done, 0.05/s\n4 done, 0.0286/s\n"


def test_hours_are_told(clock: list[float]) -> None:
    """Long work has more than minutes."""
    file = Terminal()
    with Progress(3, shown=True, file=file) as progress:
        clock[0] += 3700
        progress.advance()
    assert "2:03:20 left" in file.getvalue()


def test_nothing_is_shown_unasked(capfd: pytest.CaptureFixture[str], client: Client, server: ScriptedServer) -> None:
    """`progress=True` writes to standard error alone."""
    server.script = [echo] * 4
    list(client.generate_many(["a", "b"], model="tiny", concurrency=1))
    assert capfd.readouterr() == ("", "")
    list(client.generate_many(["a", "b"], model="tiny", concurrency=1, progress=True))
    out, err = capfd.readouterr()
    assert out == ""
    assert "2/2" in err
