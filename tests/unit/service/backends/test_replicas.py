"""Calls find a server that answers; who fails is left out, and who is well is taken back."""

import queue
import socket
import threading
import time

import numpy as np
import pytest

from service.backends.determinism_probe import Probe
from service.backends.ejection import FIRST_PAUSE_S, LAST_PAUSE_S
from service.backends.replicas import Replicas, resolved
from service.errors import BackendUnavailable, InternalError, InvalidResponse, ServerBusy, VersionGone
from service.params import ModelVersion
from service.scheduling.call import Call
from tests.fakes import make_sequence

MODEL = ModelVersion("demo", 1)
PROBE = Probe((8,), "usual")


class Outputs(dict):
    """Outputs of a call, and who computed them."""


def state_of(address, value=0.0):
    """Return the outputs of a call: states of one value."""
    outputs = Outputs(state=np.full((8, 2), value, np.float32))
    outputs.by = address
    return outputs


class FakeServer:
    """Answers each call with what it is told, or keeps it until it is reset."""

    def __init__(self, address):
        self.address = address
        self.answer = state_of(address)
        self.hangs = False
        self.num_calls = self.num_resets = 0
        self.closed = False
        self._held = []

    def call(self, _call, done):
        self.num_calls += 1
        if self.hangs:
            self._held.append(done)
        else:
            done(self.answer)

    def reset(self):
        self.num_resets += 1
        held, self._held = self._held, []
        for done in held:
            done(BackendUnavailable("given up"))

    def release(self):
        """Answer what was kept."""
        held, self._held = self._held, []
        for done in held:
            done(self.answer)

    def close(self):
        self.closed = True


class Fleet:
    """Servers that take calls, by the letters of their addresses."""

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
        """Return one of them as the gateway sees it."""
        return next(replica for replica in self.replicas.all() if replica.address[0] == letter)

    def left_out(self):
        """Return the letters of those that get no calls."""
        return "".join(replica.address[0] for replica in self.replicas.all() if replica.ejected_because)

    def call(self, model=MODEL, size=16):
        """Make a call; return where its outcome comes."""
        outcomes = queue.SimpleQueue()
        call = Call(model, "decode", (make_sequence(model=model),), 8, size)
        self.replicas.call(call, lambda *outcome: outcomes.put(outcome))
        return outcomes

    def answer(self, **call):
        """Make a call and return who answered, or the error, and the hash of its probe."""
        outcome, computed_by = self.call(**call).get(timeout=5)
        return (outcome.by[0] if isinstance(outcome, dict) else outcome), computed_by


def test_calls_go_to_who_has_least_to_do():
    """Those in flight are counted, and not those that were answered."""
    fleet = Fleet("abc")
    for server in fleet.servers.values():
        server.hangs = True
    for _ in range(6):
        fleet.call()
    assert [server.num_calls for server in fleet.servers.values()] == [2, 2, 2]
    fleet.servers["b"].release()
    fleet.call()
    assert fleet.servers["b"].num_calls == 3
    assert fleet.replicas.num_servers(MODEL) == 3


@pytest.mark.parametrize("error", [BackendUnavailable("gone"), InternalError("refused"), InvalidResponse("nonsense")])
def test_a_failed_call_is_made_elsewhere_and_who_failed_it_is_left_out(error):
    """The caller notices nothing, and the next calls do not go there."""
    fleet = Fleet()
    fleet.servers["a"].answer = error
    assert [fleet.answer() for _ in range(5)] == [("b", "usual")] * 5
    assert fleet.left_out() == "a"
    assert fleet.servers["a"].num_calls == 1
    assert fleet.replicas.num_servers(MODEL) == 1


def test_a_call_that_all_refuse_is_the_calls_fault():
    """Each is asked once, nobody is left out, and the error is told."""
    fleet = Fleet("abc")
    for server in fleet.servers.values():
        server.answer = InternalError("refused")
    outcome, _ = fleet.answer()
    assert str(outcome) == "refused"
    assert [server.num_calls for server in fleet.servers.values()] == [1, 1, 1]
    assert fleet.left_out() == ""


def test_a_busy_server_is_passed_over_and_stays():
    """Too much to do is no illness; where all have too much the caller tries again later."""
    fleet = Fleet()
    fleet.servers["a"].answer = ServerBusy("later")
    assert {fleet.answer() for _ in range(3)} == {("b", "usual")}
    fleet.servers["b"].answer = ServerBusy("later")
    assert isinstance(fleet.answer()[0], ServerBusy)
    assert fleet.left_out() == ""


def test_a_version_that_one_server_has_unloaded_is_asked_of_another():
    """It is not asked there again; where nobody has it any more it is gone."""
    fleet = Fleet()
    fleet.servers["a"].answer = VersionGone("gone")
    assert [fleet.answer()[0] for _ in range(3)] == ["b"] * 3
    assert fleet.servers["a"].num_calls == 1
    assert fleet.left_out() == ""
    fleet.servers["b"].answer = VersionGone("gone")
    assert [type(fleet.answer()[0]) for _ in range(2)] == [VersionGone] * 2
    assert fleet.servers["b"].num_calls == 4


def test_nonsense_numbers_are_computed_elsewhere_and_believed_where_all_have_them():
    """NaN may be a server's fault; where each of them computes it, it is the text's own, and nobody is left out."""
    fleet = Fleet()
    for letter in "ab":
        fleet.servers[letter].answer = state_of(letter, np.nan)
    assert fleet.answer() == ("b", "usual")
    assert fleet.left_out() == ""
    fleet.servers["b"].answer = state_of("b")
    assert fleet.answer() == ("b", "usual")
    assert fleet.left_out() == "a"


def test_an_invalid_response_of_the_only_server_is_waited_out():
    """It is not ejected, as no other can answer, and the call may be made again; where all do so, likewise."""
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


def test_an_invalid_response_is_its_servers_fault_even_where_the_other_computes_nan():
    """The sequence's own NaN is believed, and who answered with nonsense is ejected."""
    fleet = Fleet()
    fleet.servers["a"].answer, fleet.servers["b"].answer = InvalidResponse("nonsense"), state_of("b", np.nan)
    assert fleet.answer() == ("b", "usual")
    assert fleet.left_out() == "a"


def test_values_that_are_not_finite_are_looked_for_in_every_output():
    """A sum or a log probability may be NaN where the state is not."""
    fleet = Fleet()
    fleet.servers["a"].answer = state_of("a")
    fleet.servers["a"].answer["sum"] = np.full((8, 3), np.inf, np.float32)
    assert fleet.answer() == ("b", "usual")
    assert fleet.left_out() == "a"


def test_a_version_whose_probe_is_not_repeated_gets_no_calls():
    """The other versions of its server do; where nobody else has it, its calls wait for it."""
    other = ModelVersion("other", 1)
    fleet = Fleet()
    for letter in "ab":
        fleet.replicas.record_probes(fleet.replica(letter), "other", {other: PROBE})
    fleet.replicas.eject(fleet.replica("a"), "ill")
    fleet.replicas.record_probes(fleet.replica("a"), "demo", {MODEL: PROBE}, needs_reprobe={MODEL})
    assert fleet.left_out() == "a"
    fleet.replicas.record_probes(fleet.replica("a"), "other", {other: PROBE})
    assert fleet.left_out() == ""
    assert [fleet.replicas.num_servers(model) for model in (MODEL, other)] == [1, 2]
    fleet.replicas.record_probes(fleet.replica("b"), "demo", {})
    assert isinstance(fleet.answer()[0], BackendUnavailable)
    fleet.replicas.record_probes(fleet.replica("a"), "demo", {MODEL: PROBE})
    assert fleet.answer() == ("a", "usual")


def test_with_nobody_to_ask_the_call_fails_at_once():
    """The caller waits for servers that may come back; what those that answer have no more is gone."""
    fleet = Fleet()
    fleet.replicas.eject(fleet.replica("a"), "for the test")
    assert isinstance(fleet.answer(model=ModelVersion("demo", 2))[0], VersionGone)
    fleet.replicas.record_probes(fleet.replica("b"), "demo", {})
    assert isinstance(fleet.answer()[0], BackendUnavailable)
    fleet.replicas.record_probes(fleet.replica("a"), "demo", {})
    assert isinstance(fleet.answer()[0], VersionGone)
    for letter in "ab":
        fleet.replicas.record_probes(fleet.replica(letter), "demo", {MODEL: PROBE})
        fleet.replicas.eject(fleet.replica(letter), "for the test")
    outcome, _ = fleet.answer()
    assert (str(outcome), fleet.servers["a"].num_calls) == ("no model server is available", 0)
    assert fleet.replicas.num_servers(MODEL) == 1


def test_who_computes_otherwise_stands_in_only_if_nobody_else_can():
    """And then it is said."""
    fleet = Fleet("abc", a=Probe((8,), "other"))
    assert {fleet.answer() for _ in range(9)} <= {("b", "usual"), ("c", "usual")}
    assert fleet.servers["a"].num_calls == 0
    assert fleet.replicas.num_servers(MODEL) == 2
    for letter in "bc":
        fleet.servers[letter].answer = BackendUnavailable("gone")
    assert fleet.answer() == ("a", "other")
    assert fleet.answer() == ("a", "other")
    fleet.servers["b"].answer = state_of("b")
    fleet.replicas.record_probes(fleet.replica("b"), "demo", {MODEL: PROBE})
    assert fleet.answer() == ("b", "usual")


def test_a_call_that_does_not_come_back_is_made_elsewhere(monkeypatch):
    """Much later than usual: what hangs is given up, its calls go on elsewhere, and each is answered once."""
    monkeypatch.setattr("service.backends.ejection.MIN_HANG_S", 0.05)
    fleet = Fleet()
    for _ in range(4):
        fleet.answer()
    fleet.servers["a"].hangs = True
    outcomes = [fleet.call() for _ in range(3)]
    fleet.replicas.eject_hanging()
    assert fleet.left_out() == ""
    time.sleep(0.1)
    fleet.replicas.eject_hanging()
    assert fleet.left_out() == "a"
    assert [outcome.get(timeout=5)[0].by[0] for outcome in outcomes] == ["b"] * 3
    assert all(outcome.empty() for outcome in outcomes)
    assert fleet.servers["a"].num_resets == 1
    # The only one left is waited for.
    fleet.servers["b"].hangs = True
    waiting = fleet.call()
    time.sleep(0.1)
    fleet.replicas.eject_hanging()
    assert fleet.left_out() == "a"
    fleet.servers["b"].release()
    assert waiting.get(timeout=5)[0].by == "b:1"


def test_a_kind_of_call_that_was_never_seen_may_take_its_time(monkeypatch):
    """How long is too long is known from others of its kind, by the step."""
    monkeypatch.setattr("service.backends.ejection.MIN_HANG_S", 0.0)
    fleet = Fleet()
    fleet.servers["a"].hangs = True
    first = fleet.call()
    time.sleep(0.05)
    fleet.replicas.eject_hanging()
    assert fleet.left_out() == ""
    fleet.servers["a"].release()
    first.get(timeout=5)
    fleet.servers["a"].hangs = True
    # Some 50 ms for 16 steps are known: 128 steps may take ten times 400 ms.
    fleet.call(size=128)
    time.sleep(0.2)
    fleet.replicas.eject_hanging()
    assert fleet.left_out() == ""


def test_the_watch_runs_by_itself(monkeypatch):
    """Once started, who hangs is found without being looked for."""
    monkeypatch.setattr("service.backends.ejection.MIN_HANG_S", 0.05)
    fleet = Fleet()
    fleet.answer()
    fleet.replicas.start()
    fleet.servers["a"].hangs = True
    assert fleet.call().get(timeout=5)[0].by == "b:1"
    fleet.replicas.close()
    assert all(server.closed for server in fleet.servers.values())


def test_who_falls_ill_again_and_again_is_looked_at_less_and_less(monkeypatch):
    """The pause grows up to a bound, and after a good while it is short again."""
    fleet, now = Fleet(), [0.0]
    monkeypatch.setattr("service.backends.replicas.time.monotonic", lambda: now[0])
    replica, pauses = fleet.replica("a"), []
    for _ in range(8):
        fleet.replicas.eject(replica, "ill")
        fleet.replicas.eject(replica, "still ill")
        pauses.append(replica.ejection.pause_s)
        fleet.replicas.record_probes(replica, "demo", {MODEL: PROBE})
    assert pauses[:3] == [FIRST_PAUSE_S, 2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S]
    assert pauses[-1] == LAST_PAUSE_S
    now[0] += 1000
    fleet.replicas.eject(replica, "ill")
    assert replica.ejection.pause_s == FIRST_PAUSE_S
    assert replica.ejected_because == "ill"


def test_a_name_stands_for_what_it_stands_for_now():
    """New addresses are met, those that are gone are closed, the others stay as they are."""
    fleet = Fleet("ab")
    before = fleet.replica("b")
    fleet.addresses = ["b:1", "c:1"]
    assert [replica.address for replica in fleet.replicas.discover()] == ["b:1", "c:1"]
    assert fleet.replica("b") is before
    assert fleet.left_out() == "c"
    assert fleet.servers["a"].closed
    assert fleet.answer() == ("b", "usual")

    def fail(_):
        raise OSError("no such name")

    fleet.replicas._resolve = fail
    assert [replica.address for replica in fleet.replicas.discover()] == ["b:1", "c:1"]


def test_what_an_address_stands_for_is_told_with_it():
    """Certificates are made out to names, so each connection knows the host that led to its address."""
    told = {}
    known = {"models.example:1": ["10.0.0.1:1", "10.0.0.2:1"], "[fd00::1]:1": ["[fd00::1]:1"]}
    connect = lambda address, host: told.setdefault(address, host) and FakeServer(address)  # noqa: E731
    Replicas(connect, list(known), resolve=known.get).discover()
    assert told == {"10.0.0.1:1": "models.example", "10.0.0.2:1": "models.example", "[fd00::1]:1": "fd00::1"}


def test_a_name_that_cannot_be_resolved_keeps_no_other_from_it(caplog):
    """The others are used from the beginning; it is told once, and met when it can be."""
    known = {"a": ["a:1"]}
    replicas = Replicas(
        lambda address, _: FakeServer(address),
        ["a", "b"],
        resolve=lambda name: known[name] if name in known else _fail(),
    )
    for _ in range(3):
        assert [replica.address for replica in replicas.discover()] == ["a:1"]
    assert caplog.text.count("cannot be resolved") == 1
    known["b"] = ["b:1"]
    assert [replica.address for replica in replicas.discover()] == ["a:1", "b:1"]


def _fail():
    raise OSError("no such name")


def test_addresses_are_taken_as_they_are_and_names_are_looked_up(monkeypatch):
    """A name may have several addresses, of both versions."""
    found = [("10.0.0.2", 0), ("10.0.0.1", 0), ("10.0.0.2", 0), ("fd00::1", 0, 0, 0)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(0, 0, 0, "", address) for address in found])
    assert resolved("models:8500") == ["10.0.0.1:8500", "10.0.0.2:8500", "[fd00::1]:8500"]
    assert resolved("127.0.0.1:8500") == ["127.0.0.1:8500"]
    assert resolved("[::1]:8500") == ["[::1]:8500"]


def test_many_threads_lose_no_call():
    """Whatever fails and comes back meanwhile, each call is answered exactly once."""
    fleet = Fleet("abc")
    ended = threading.Event()

    def disturb():
        while not ended.wait(0.001):
            for letter in "ab":
                fleet.servers[letter].answer, before = BackendUnavailable("gone"), fleet.servers[letter].answer
                time.sleep(0.002)
                fleet.servers[letter].answer = before
                fleet.replicas.record_probes(fleet.replica(letter), "demo", {MODEL: PROBE})

    disturber = threading.Thread(target=disturb)
    disturber.start()
    answers = []

    def ask():
        answers.extend(fleet.answer()[0] for _ in range(300))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ended.set()
    disturber.join()
    assert len(answers) == 2400
    assert set(answers) <= set("abc")
    assert all(not replica.in_flight for replica in fleet.replicas.all())


def test_free_calls_are_those_of_the_servers_that_have_a_version():
    """What one version has in flight elsewhere takes nothing from another; where nobody is, one call tells it."""
    other = ModelVersion("demo", 2)
    fleet = Fleet()
    fleet.replicas.record_probes(fleet.replica("b"), "demo", {MODEL: PROBE, other: PROBE})
    for server in fleet.servers.values():
        server.hangs = True
    for _ in range(3):
        fleet.call()
    assert [len(fleet.replica(letter).in_flight) for letter in "ab"] == [2, 1]
    assert fleet.replicas.num_free_calls(MODEL, 2) == 1
    assert fleet.replicas.num_free_calls(other, 2) == 1
    fleet.call()
    assert (fleet.replicas.num_free_calls(MODEL, 2), fleet.replicas.num_free_calls(other, 3)) == (0, 1)
    assert fleet.replicas.num_free_calls(ModelVersion("demo", 3), 2) == 1


def test_who_fell_ill_while_it_was_looked_at_stays_out():
    """What the look found was true before that."""
    fleet = Fleet()
    replica = fleet.replica("a")
    num_ejections_before = replica.ejection.count
    fleet.replicas.eject(replica, "ill")
    fleet.replicas.record_probes(replica, "demo", {MODEL: PROBE}, num_ejections_before=num_ejections_before)
    assert fleet.left_out() == "a"
    fleet.replicas.record_probes(replica, "demo", {MODEL: PROBE}, num_ejections_before=replica.ejection.count)
    assert fleet.left_out() == ""


def test_a_call_that_was_sent_as_its_server_was_left_out_is_given_up_too(monkeypatch):
    """It hangs like the others, and the next look finds it."""
    monkeypatch.setattr("service.backends.ejection.MIN_HANG_S", 0.05)
    fleet = Fleet()
    fleet.answer()
    fleet.servers["a"].hangs = True
    outcome = fleet.call()
    fleet.servers["a"].reset, reset = (lambda: None), fleet.servers["a"].reset
    fleet.replicas.eject(fleet.replica("a"), "ill")
    fleet.servers["a"].reset = reset
    time.sleep(0.1)
    fleet.replicas.eject_hanging()
    assert outcome.get(timeout=5)[0].by == "b:1"
