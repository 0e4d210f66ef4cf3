"""The fair queue of compilations."""

from dataclasses import dataclass

from service.structured_outputs.compilation_queue import MAX_SENDERS, CompilationQueue


@dataclass(eq=False)
class Item:
    name: str
    is_slow: bool = False


def put(queue, *senders, is_slow=False):
    """Enqueue an item for each sender; return the items."""
    items = [Item(f"{sender}{number}", is_slow) for number, sender in enumerate(senders)]
    for sender, item in zip(senders, items, strict=True):
        queue.put(sender, item)
    return items


def drain(queue, *, is_slow=False, seconds=0.0):
    """Take everything from a lane, each for some seconds, and return the names in order."""
    names = []
    while taken := queue.take(is_slow=is_slow):
        sender, item = taken
        names.append(item.name)
        queue.charge(sender, seconds)
    return names


def test_senders_take_turns_by_the_time_that_they_have_used():
    """Those of one sender keep their order."""
    queue = CompilationQueue()
    put(queue, "a", "a", "a", "b", "b")
    assert drain(queue, seconds=1.0) == ["a0", "b3", "a1", "b4", "a2"]


def test_a_slow_pattern_delays_the_next_ones_of_its_sender_only():
    """Another sender's patterns go first, until they have taken as long."""
    queue = CompilationQueue()
    put(queue, "a", "a")
    queue.take(is_slow=False)
    queue.charge("a", 2.0)
    put(queue, "b", "b", "b")
    assert drain(queue, seconds=0.9) == ["b0", "b1", "b2", "a1"]


def test_an_idle_sender_saves_up_no_time():
    """It starts where the others are: otherwise it could go first for as long as they have been busy."""
    queue = CompilationQueue()
    for _ in range(50):
        put(queue, "a")
        drain(queue, seconds=1.0)
    put(queue, "a", "b", "b", "b")
    assert drain(queue, seconds=1.0) == ["b1", "a0", "b2", "b3"]


def test_each_lane_has_an_order_of_its_own():
    """A slow compilation waits in its own lane; both count towards its sender's time."""
    queue = CompilationQueue()
    slow, fast = put(queue, "a", is_slow=True), put(queue, "a", "b")
    assert queue.take(is_slow=False) == ("a", fast[0])
    queue.charge("a", 1.0)
    assert queue.take(is_slow=True) == ("a", slow[0])
    assert queue.take(is_slow=True) is None
    assert queue.take(is_slow=False) == ("b", fast[1])


def test_a_removed_compilation_is_in_no_senders_queue():
    """Several senders may wait for the same one."""
    queue, item = CompilationQueue(), Item("shared")
    for sender in "ab":
        queue.put(sender, item)
    queue.remove(item)
    assert queue.take(is_slow=False) is None


def test_the_number_of_remembered_senders_is_limited():
    """Addresses are cheap: those that have used the least are forgotten."""
    queue = CompilationQueue()
    queue.charge("heavy", 100.0)
    for number in range(2 * MAX_SENDERS):
        queue.charge(str(number), 1.0)
    assert len(queue._used_s) <= MAX_SENDERS
    put(queue, "heavy", "new")
    assert drain(queue) == ["new1", "heavy0"]
