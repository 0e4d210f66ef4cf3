"""Replicas: calls go to one that answers, outliers are ejected and readmitted, and addresses are discovered."""

import queue
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from service.backends.determinism_probe import Probe
from service.backends.replicas import FIRST_PAUSE_S, LAST_PAUSE_S, Replicas, resolved
from service.errors import BackendUnavailable, BatchingConflict, InternalError, InvalidResponse, ServerBusy, VersionGone
from service.scheduling.call import Call
from service.scheduling.sequence import ModelVersion
from tests.fakes import make_sequence

MODEL = ModelVersion("demo", 1)
PROBE = Probe((8,), "usual")


class Outputs(dict):
    """Outputs of a call, and the address that computed them."""


def state_of(address, value=0.0):
    outputs = Outputs(state=np.full((8, 2), value, np.float32))
    outputs.by = address
    return outputs


class FakeServer:
    """Answers each call as the test sets, or holds it until it is reset."""

    def __init__(self, address):
        self.address = address
        self.answer = state_of(address)
        self.hangs = False
        self.num_calls = self.num_resets = 0
        self.closed = False
        self._held = []

    def send(self, _call, done):
        self.num_calls += 1
        if self.hangs:
            self._held.append(done)
        else:
            done(self.answer)

    def reset(self):
        self.num_resets += 1
        self.release(BackendUnavailable("given up"))

    def release(self, answer=None):
        held, self._held = self._held, []
        for done in held:
            done(answer or self.answer)

    def close(self):
        self.closed = True


class Fleet:
    """Replicas that take calls, by the letters of their addresses."""

    def __init__(self, letters="ab", **probes):
        self.servers = {}
        self.addresses = [f"{letter}:1" for letter in letters]
        self.replicas = Replicas(self._connect, ["fleet"], resolve=lambda _: self.addresses)
        self.replicas.expect({MODEL: PROBE.sha256})
        for replica in self.replicas.discover():
            self.replicas.record_probes(replica, "demo", {MODEL: probes.get(replica.address[0], PROBE)})

    def _connect(self, address, _host):
        return self.servers.setdefault(address[0], FakeServer(address))

    def replica(self, letter):
        return next(replica for replica in self.replicas.all() if replica.address[0] == letter)

    def left_out(self):
        return "".join(replica.address[0] for replica in self.replicas.all() if replica.ejected_because)

    def call(self, model=MODEL, size=16):
        outcomes = queue.SimpleQueue()
        call = Call(model, "decode", (make_sequence(version=model),), 8, size)
        self.replicas.call(call, lambda *outcome: outcomes.put(outcome))
        return outcomes

    def answer(self, **call):
        """Make a call; return the letter of the replica that answered, or the error, and its probe hash."""
        outcome, computed_by = self.call(**call).get(timeout=5)
        return (outcome.by[0] if isinstance(outcome, dict) else outcome), computed_by


def test_a_call_goes_to_the_replica_with_the_fewest_calls_in_flight():
    fleet = Fleet("abc")
    for server in fleet.servers.values():
        server.hangs = True
    for _ in range(6):
        fleet.call()
    assert [server.num_calls for server in fleet.servers.values()] == [2, 2, 2]
    fleet.servers["b"].release()
    fleet.call()
    assert fleet.servers["b"].num_calls == 3
    assert fleet.replicas.capacity(MODEL, 2)[0] == 6


@pytest.fixture
def now(monkeypatch):
    """The clock of replicas, in a list."""
    now = [0.0]
    monkeypatch.setattr("service.backends.replicas.MIN_HANG_S", 0.05)
    monkeypatch.setattr("service.backends.replicas.time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


@pytest.mark.parametrize("error", [BackendUnavailable("gone"), InternalError("refused"), InvalidResponse("nonsense")])
def test_a_failed_call_ejects_its_replica_and_is_retried_on_another(error):
    fleet = Fleet()
    fleet.servers["a"].answer = error
    assert [fleet.answer() for _ in range(5)] == [("b", "usual")] * 5
    assert fleet.left_out() == "a"
    assert fleet.servers["a"].num_calls == 1
    assert fleet.replicas.capacity(MODEL, 1)[0] == 1


def test_a_call_that_every_replica_refuses_ejects_none():
    """The call itself is at fault: each replica is tried once, and the caller gets the error."""
    fleet = Fleet("abc")
    for server in fleet.servers.values():
        server.answer = InternalError("refused")
    outcome, _ = fleet.answer()
    assert str(outcome) == "refused"
    assert [server.num_calls for server in fleet.servers.values()] == [1, 1, 1]
    assert fleet.left_out() == ""


def test_a_busy_replica_is_skipped_and_not_ejected():
    fleet = Fleet()
    assert fleet.replicas.num_rejected == {"busy": 0, "batching": 0}
    fleet.servers["a"].answer = ServerBusy("later")
    assert {fleet.answer() for _ in range(3)} == {("b", "usual")}
    fleet.servers["b"].answer = BatchingConflict("merged")
    assert isinstance(fleet.answer()[0], ServerBusy)
    assert fleet.left_out() == ""
    assert fleet.replicas.num_rejected == {"busy": 4, "batching": 1}


def test_a_version_that_one_replica_has_unloaded_is_called_on_another():
    fleet = Fleet()
    fleet.servers["a"].answer = VersionGone("gone")
    assert [fleet.answer()[0] for _ in range(3)] == ["b"] * 3
    assert fleet.servers["a"].num_calls == 1
    assert fleet.left_out() == ""
    fleet.servers["b"].answer = VersionGone("gone")
    # Until its status has confirmed that.
    assert [type(fleet.answer()[0]) for _ in range(2)] == [BackendUnavailable] * 2
    fleet.replicas.expect({})
    assert isinstance(fleet.answer()[0], VersionGone)
    assert fleet.servers["b"].num_calls == 4


def test_a_version_that_one_replica_has_unloaded_may_be_served_by_one_that_recovers():
    fleet = Fleet()
    fleet.replicas.eject(fleet.replica("b"), "for the test")
    fleet.servers["a"].answer = VersionGone("gone")
    assert isinstance(fleet.answer()[0], BackendUnavailable)


def test_nan_is_retried_and_accepted_if_every_replica_computes_it():
    fleet = Fleet()
    for letter in "ab":
        fleet.servers[letter].answer = state_of(letter, np.nan)
    assert fleet.answer() == ("b", "usual")
    assert fleet.left_out() == ""
    fleet.servers["b"].answer = state_of("b")
    assert fleet.answer() == ("b", "usual")
    assert fleet.left_out() == "a"
    fleet = Fleet()
    fleet.servers["a"].answer, fleet.servers["b"].answer = InvalidResponse("nonsense"), state_of("b", np.nan)
    assert fleet.answer() == ("b", "usual")
    assert fleet.left_out() == "a"


def test_invalid_responses_of_every_replica_eject_none():
    for letters in ("a", "ab"):
        fleet = Fleet(letters)
        for letter in letters:
            fleet.servers[letter].answer = InvalidResponse("nonsense")
        outcome, _ = fleet.answer()
        assert isinstance(outcome, BackendUnavailable)
        assert fleet.left_out() == ""
        fleet.servers["a"].answer = state_of("a")
        assert fleet.answer() == ("a", "usual")
        assert fleet.left_out() == ""


def test_a_version_that_needs_another_probe_gets_no_calls():
    other = ModelVersion("other", 1)
    fleet = Fleet()
    for letter in "ab":
        fleet.replicas.record_probes(fleet.replica(letter), "other", {other: PROBE})
    fleet.replicas.eject(fleet.replica("a"), "ill")
    fleet.replicas.record_probes(fleet.replica("a"), "demo", {MODEL: replace(PROBE, is_stale=True)})
    assert fleet.left_out() == "a"
    fleet.replicas.record_probes(fleet.replica("a"), "other", {other: PROBE})
    assert fleet.left_out() == ""
    assert [fleet.replicas.capacity(model, 1)[0] for model in (MODEL, other)] == [1, 2]
    fleet.replicas.record_probes(fleet.replica("b"), "demo", {})
    assert isinstance(fleet.answer()[0], BackendUnavailable)
    fleet.replicas.record_probes(fleet.replica("a"), "demo", {MODEL: PROBE})
    assert fleet.answer() == ("a", "usual")


def test_a_call_without_an_available_replica_fails_at_once():
    fleet = Fleet()
    assert isinstance(fleet.answer(model=ModelVersion("demo", 2))[0], VersionGone)
    for letter in "ab":
        fleet.replicas.record_probes(fleet.replica(letter), "demo", {MODEL: PROBE})
        fleet.replicas.eject(fleet.replica(letter), "for the test")
    outcome, _ = fleet.answer()
    assert (str(outcome), fleet.servers["a"].num_calls) == ("no model server serves demo:1 now", 0)
    assert outcome.headers()["Retry-After"] == "2"
    assert fleet.replicas.capacity(MODEL, 1)[0] == 1


def test_a_replica_with_another_probe_hash_is_the_last_resort():
    fleet = Fleet("abc", a=Probe((8,), "other"))
    assert {fleet.answer() for _ in range(9)} <= {("b", "usual"), ("c", "usual")}
    assert fleet.servers["a"].num_calls == 0
    assert fleet.replicas.capacity(MODEL, 1)[0] == 2
    for letter in "bc":
        fleet.servers[letter].answer = BackendUnavailable("gone")
    assert fleet.answer() == ("a", "other")
    assert fleet.answer() == ("a", "other")
    fleet.servers["b"].answer = state_of("b")
    fleet.replicas.record_probes(fleet.replica("b"), "demo", {MODEL: PROBE})
    assert fleet.answer() == ("b", "usual")


def test_a_hanging_call_ejects_its_replica_and_is_retried_on_another(now):
    fleet = Fleet()
    for _ in range(4):
        fleet.answer()
    fleet.servers["a"].hangs = True
    outcomes = [fleet.call() for _ in range(3)]
    fleet.replicas.eject_hanging()
    assert fleet.left_out() == ""
    now[0] += 0.1
    fleet.replicas.eject_hanging()
    assert fleet.left_out() == "a"
    assert [outcome.get(timeout=5)[0].by[0] for outcome in outcomes] == ["b"] * 3
    assert all(outcome.empty() for outcome in outcomes)
    assert fleet.servers["a"].num_resets == 1
    # The last replica is not ejected.
    fleet.servers["b"].hangs = True
    waiting = fleet.call()
    now[0] += 0.1
    fleet.replicas.eject_hanging()
    assert fleet.left_out() == "a"
    fleet.servers["b"].release()
    assert waiting.get(timeout=5)[0].by == "b:1"


def test_a_call_without_a_known_duration_does_not_count_as_hanging(monkeypatch):
    """The limit follows from the time per step of earlier calls of its kind."""
    monkeypatch.setattr("service.backends.replicas.MIN_HANG_S", 0.0)
    fleet = Fleet()
    fleet.servers["a"].hangs = True
    first = fleet.call()
    time.sleep(0.05)
    fleet.replicas.eject_hanging()
    assert fleet.left_out() == ""
    fleet.servers["a"].release()
    first.get(timeout=5)
    fleet.servers["a"].hangs = True
    # 16 steps took some 50 ms, so 128 steps may take ten times 400 ms.
    fleet.call(size=128)
    time.sleep(0.2)
    fleet.replicas.eject_hanging()
    assert fleet.left_out() == ""


def test_a_background_thread_ejects_hanging_replicas(monkeypatch):
    monkeypatch.setattr("service.backends.replicas.MIN_HANG_S", 0.05)
    fleet = Fleet()
    fleet.answer()
    fleet.replicas.start()
    fleet.servers["a"].hangs = True
    assert fleet.call().get(timeout=5)[0].by == "b:1"
    fleet.replicas.close()
    assert all(server.closed for server in fleet.servers.values())


def test_repeated_ejections_back_off_exponentially(now):
    fleet, pauses = Fleet(), []
    replica = fleet.replica("a")
    for _ in range(8):
        fleet.replicas.eject(replica, "ill")
        fleet.replicas.eject(replica, "still ill")
        pauses.append(replica.pause_s)
        fleet.replicas.record_probes(replica, "demo", {MODEL: PROBE})
    assert pauses[:3] == [FIRST_PAUSE_S, 2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S]
    assert pauses[-1] == LAST_PAUSE_S
    now[0] += 1000
    fleet.replicas.eject(replica, "ill")
    assert replica.pause_s == FIRST_PAUSE_S
    assert replica.ejected_because == "ill"


def test_discovery_follows_dns():
    fleet = Fleet("ab")
    before = fleet.replica("b")
    fleet.addresses = ["b:1", "c:1"]
    assert [replica.address for replica in fleet.replicas.discover()] == ["b:1", "c:1"]
    assert fleet.replica("b") is before
    assert fleet.left_out() == "c"
    assert fleet.servers["a"].closed
    assert fleet.answer() == ("b", "usual")


def test_each_connection_gets_the_host_name_of_its_address():
    """Certificates are issued for names, not for addresses."""
    told = {}
    known = {"models.example:1": ["10.0.0.1:1", "10.0.0.2:1"], "[fd00::1]:1": ["[fd00::1]:1"]}
    connect = lambda address, host: told.setdefault(address, host) and FakeServer(address)  # noqa: E731
    Replicas(connect, list(known), resolve=known.get).discover()
    assert told == {"10.0.0.1:1": "models.example", "10.0.0.2:1": "models.example", "[fd00::1]:1": "fd00::1"}


def test_a_name_that_cannot_be_resolved_does_not_affect_the_others(caplog):
    known = {"a": ["a:1"]}

    def resolve(name):
        if name not in known:
            raise OSError("no such name")
        return known[name]

    replicas = Replicas(lambda address, _: FakeServer(address), ["a", "b"], resolve=resolve)
    for _ in range(3):
        assert [replica.address for replica in replicas.discover()] == ["a:1"]
    assert caplog.text.count("cannot resolve its name") == 1
    known["b"] = ["b:1"]
    assert [replica.address for replica in replicas.discover()] == ["a:1", "b:1"]
    known.clear()
    assert [replica.address for replica in replicas.discover()] == ["a:1", "b:1"]


def test_names_are_resolved_and_addresses_are_used_as_they_are(monkeypatch):
    found = [("10.0.0.2", 0), ("10.0.0.1", 0), ("10.0.0.2", 0), ("fd00::1", 0, 0, 0)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(0, 0, 0, "", address) for address in found])
    assert resolved("models:8500") == ["10.0.0.1:8500", "10.0.0.2:8500", "[fd00::1]:8500"]
    assert resolved("127.0.0.1:8500") == ["127.0.0.1:8500"]
    assert resolved("[::1]:8500") == ["[::1]:8500"]


def test_concurrent_calls_are_each_answered_once():
    fleet = Fleet("abc")
    ended = threading.Event()

    def disturb():
        while not ended.wait(0.001):
            for letter in "ab":
                fleet.servers[letter].answer, before = BackendUnavailable("gone"), fleet.servers[letter].answer
                time.sleep(0.002)
                fleet.servers[letter].answer = before
                fleet.replicas.record_probes(fleet.replica(letter), "demo", {MODEL: PROBE})

    disturber = threading.Thread(target=disturb, daemon=True)
    disturber.start()
    with ThreadPoolExecutor(8) as pool:
        answers = [answer for answer, *_ in pool.map(lambda _: fleet.answer(), range(2400))]
    ended.set()
    disturber.join()
    assert len(answers) == 2400
    assert set(answers) <= set("abc")
    assert all(not replica.in_flight for replica in fleet.replicas.all())


def test_free_calls_are_those_of_replicas_that_have_the_version():
    other = ModelVersion("demo", 2)
    fleet = Fleet()
    fleet.replicas.record_probes(fleet.replica("b"), "demo", {MODEL: PROBE, other: PROBE})
    for server in fleet.servers.values():
        server.hangs = True
    for _ in range(3):
        fleet.call()
    assert [len(fleet.replica(letter).in_flight) for letter in "ab"] == [2, 1]
    assert fleet.replicas.capacity(MODEL, 2)[1] == 1
    assert fleet.replicas.capacity(other, 2)[1] == 1
    fleet.call()
    assert (fleet.replicas.capacity(MODEL, 2)[1], fleet.replicas.capacity(other, 3)[1]) == (0, 1)
    assert fleet.replicas.capacity(ModelVersion("demo", 3), 2)[1] == 1


def test_a_replica_ejected_during_its_probe_is_not_readmitted_by_it():
    """The probe's results are older than the ejection."""
    fleet = Fleet()
    replica = fleet.replica("a")
    num_failures_before = replica.num_failures
    fleet.replicas.eject(replica, "ill")
    fleet.replicas.record_probes(replica, "demo", {MODEL: PROBE}, num_failures_before=num_failures_before)
    assert fleet.left_out() == "a"
    fleet.replicas.record_probes(replica, "demo", {MODEL: PROBE}, num_failures_before=replica.num_failures)
    assert fleet.left_out() == ""


def test_a_call_sent_while_its_replica_is_ejected_is_retried_too(now):
    """The reset of the ejection misses it, and the next check for hanging calls finds it."""
    fleet = Fleet()
    fleet.answer()
    fleet.servers["a"].hangs = True
    outcome = fleet.call()
    fleet.servers["a"].reset, reset = (lambda: None), fleet.servers["a"].reset
    fleet.replicas.eject(fleet.replica("a"), "ill")
    fleet.servers["a"].reset = reset
    now[0] += 0.1
    fleet.replicas.eject_hanging()
    assert outcome.get(timeout=5)[0].by == "b:1"


def test_the_calls_of_a_removed_replica_move_without_a_warning(caplog):
    """Closing its connection fails them: that is not an outage."""
    fleet = Fleet("ab")
    fleet.servers["a"].hangs = fleet.servers["b"].hangs = True
    outcomes = [fleet.call(), fleet.call()]
    removed = fleet.replica("a")
    fleet.addresses.remove("a:1")
    fleet.replicas.discover()
    fleet.servers["a"].reset()
    fleet.servers["b"].release()
    assert [outcome.get(timeout=5)[0].by for outcome in outcomes] == ["b:1", "b:1"]
    assert removed.ejected_because is None
    assert "was ejected" not in caplog.text
