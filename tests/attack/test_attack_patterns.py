"""Patterns that take long to compile must not stall other clients, and neither must requests of many choices."""

import contextlib
import http.client
import json
import threading
import time

import pytest

from tests.servers import Client
from tests.waiting import until

SLOW = "(a|b)*a(a|b){{{}}}"
FIELDS = {"model": "lstm", "prompt": "It ", "max_tokens": 60}


class Crowd:
    """Clients that send one request each, and leave after some seconds."""

    def __init__(self, gateway, bodies, patience_s):
        self._gateway, self._patience_s = gateway, patience_s
        self.threads = [threading.Thread(target=self._send, args=(body,), daemon=True) for body in bodies]
        for thread in self.threads:
            thread.start()

    def _send(self, body):
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = self._gateway.connect(timeout=self._patience_s)
            try:
                connection.request("POST", "/v1/completions", json.dumps(body))
                connection.getresponse().read()
            finally:
                connection.close()

    def join(self):
        for thread in self.threads:
            thread.join(120)


def seconds_of(action):
    start = time.monotonic()
    assert action() == 200
    return time.monotonic() - start


class Other(Client):
    """A client with an address of its own: without API keys, patterns are fair to addresses."""

    def connect(self, timeout=240):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout, source_address=("127.0.0.2", 0))


def serve_others(gateway, count=5):
    """Return the longest seconds of a health check, a completion and a cheap pattern of another client."""
    gateway = Other(gateway.port)
    longest = dict.fromkeys(("health check", "completion", "cheap pattern"), 0.0)
    for number in range(count):
        pattern = {"guided_regex": f"[a-z]{{{5 + number}}} "}
        for name, action in (
            ("health check", lambda: gateway.get("/healthz")[0]),
            ("completion", lambda: gateway.post({**FIELDS, "max_tokens": 8})[0]),
            ("cheap pattern", lambda pattern=pattern: gateway.post({**FIELDS, **pattern})[0]),
        ):
            longest[name] = max(longest[name], seconds_of(action))
    print(", ".join(f"{name}: {seconds:.3f} s" for name, seconds in longest.items()))
    return longest


@pytest.mark.timeout(300)
def test_clients_that_send_slow_patterns_and_leave_stop_nobody(start_gateway):
    gateway = start_gateway()
    serve_others(gateway, 1)
    bodies = [{**FIELDS, "timeout_s": 1, "guided_regex": SLOW.format(min(12 + i, 71))} for i in range(480)]
    crowd = Crowd(gateway, bodies, patience_s=1.0)
    longest = serve_others(gateway)
    crowd.join()
    # Two minutes before patterns were compiled after admission.
    assert max(longest.values()) < 10
    until(lambda: gateway.accepted == 0, timeout=30)


@pytest.mark.timeout(300)
def test_clients_that_wait_for_slow_patterns_leave_room_for_others(start_gateway):
    gateway = start_gateway()
    bodies = [{**FIELDS, "timeout_s": 60, "guided_regex": SLOW.format(12 + i)} for i in range(480)]
    crowd = Crowd(gateway, bodies, patience_s=20.0)
    for number in range(10):
        assert gateway.get("/healthz")[0] == 200
        assert gateway.post({**FIELDS, "max_tokens": 8, "seed": number})[0] == 200
    crowd.join()


@pytest.mark.timeout(300)
def test_requests_of_ten_thousand_choices_keep_out_no_other(start_gateway):
    gateway = start_gateway()
    stop = threading.Event()

    def attack():
        body = {**FIELDS, "n": 10_000, "max_tokens": 100, "stream": True}
        connection = gateway.connect()
        connection.request("POST", "/v1/completions", json.dumps(body))
        response = connection.getresponse()
        while not stop.is_set() and response.readline():
            pass
        connection.close()

    threads = [threading.Thread(target=attack, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    until(lambda: gateway.accepted >= 200)
    statuses = [gateway.post({**FIELDS, "max_tokens": 20, "seed": seed})[0] for seed in range(40)]
    stop.set()
    for thread in threads:
        thread.join(60)
    assert statuses == [200] * 40
