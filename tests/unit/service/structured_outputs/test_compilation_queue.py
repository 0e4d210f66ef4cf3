"""The fair queue of compilations."""

from concurrent.futures import Future

from service.structured_outputs.compiler_pool import MAX_SENDERS, CompilationQueue


def put(queue, *senders, is_slow=False):
    for number, sender in enumerate(senders):
        queue.join(f"{sender}{number}", None, Future(), sender).is_slow = is_slow


def take(queue, seconds, *, is_slow=False):
    """Take the next compilation from a lane, for some seconds, and return its name."""
    sender, compilation = queue.take(is_slow=is_slow)
    queue.end(compilation, sender, seconds)
    queue.remove(compilation)
    return compilation.key


def test_senders_take_turns_by_the_time_that_they_have_used():
    queue = CompilationQueue(100)
    put(queue, "a", "a", "a", "b", "b")
    assert [take(queue, 1.0) for _ in range(5)] == ["a0", "b3", "a1", "b4", "a2"]
    assert queue.take(is_slow=False) is None


def test_a_slow_pattern_delays_the_next_ones_of_its_sender_only():
    queue = CompilationQueue(100)
    put(queue, "a", "a")
    take(queue, 2.0)
    put(queue, "b", "b", "b")
    assert [take(queue, 0.9) for _ in range(4)] == ["b0", "b1", "b2", "a1"]


def test_an_idle_sender_saves_up_no_time():
    queue = CompilationQueue(100)
    for _ in range(50):
        put(queue, "a")
        take(queue, 1.0)
    put(queue, "a", "b", "b", "b")
    assert [take(queue, 1.0) for _ in range(4)] == ["b1", "a0", "b2", "b3"]


def test_each_lane_has_an_order_of_its_own():
    queue = CompilationQueue(100)
    put(queue, "c", is_slow=True)
    put(queue, "a", "b")
    assert take(queue, 1.0) == "a0"
    assert take(queue, 1.0, is_slow=True) == "c0"
    assert queue.take(is_slow=True) is None
    put(queue, "a", "c")
    assert [take(queue, 1.0) for _ in range(3)] == ["b1", "a0", "c1"]


def test_a_shared_compilation_is_run_once_and_leaves_with_its_last_request():
    queue, requests = CompilationQueue(100), [Future(), Future()]
    put(queue, "a")
    take(queue, 1.0)
    shared = [queue.join("s", None, request, sender) for request, sender in zip(requests, "ab", strict=True)]
    assert shared[0] is shared[1]
    assert queue.take(is_slow=False) == ("b", shared[0])
    assert queue.take(is_slow=False) is None
    queue.end(shared[0], "b", 1.0)
    queue.leave(shared[0], requests[0])
    assert queue.join("s", None, requests[0], "a") is shared[0]
    for request in requests:
        queue.leave(shared[0], request)
    assert queue.take(is_slow=False) is None
    other = queue.join("s", None, requests[0], "a")
    queue.remove(shared[0])
    assert queue.take(is_slow=False) == ("a", other)


def test_the_number_of_remembered_senders_is_limited():
    """Addresses are cheap: those that have used the least are forgotten, unless they wait."""
    queue = CompilationQueue(MAX_SENDERS * 10)
    put(queue, "heavy")
    take(queue, 100.0)
    put(queue, "waiting", is_slow=True)
    for number in range(2 * MAX_SENDERS):
        put(queue, f"{number}-")
        take(queue, 1.0)
    assert len(queue._used_s) <= MAX_SENDERS
    put(queue, "heavy", "new")
    assert [take(queue, 1.0) for _ in range(2)] == ["new1", "heavy0"]
    assert take(queue, 1.0, is_slow=True) == "waiting0"
