"""API keys, rate limits and quotas on the real gateway."""

import contextlib
import http.client
import json
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.web.middleware import PUBLIC_ENDPOINTS
from tests.access import BODY, ask, keys
from tests.paths import ROOT
from tests.waiting import until

PUBLIC = {
    *(
        "/",
        "/inspector",
        "/train",
        "/models",
        "/learn",
        "/report",
        "/static/<path:name>",
        "/docs",
        "/docs/",
        "/docs/<path:name>",
    ),
    *("/openapi.json", "/health", "/healthz", "/ping", "/readyz", "/version"),
}


@contextlib.contextmanager
def running(gateway, key=None, **fields):
    """Keep a sequence running that does not finish, until the client disconnects."""
    connection = gateway.connect()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    connection.request("POST", "/v1/completions", json.dumps({**BODY, "max_tokens": 1_000_000, **fields}), headers)
    yield
    connection.close()


def accepted(gateway, key=None):
    return ask(gateway, key, body=None, address="/v1/status")[2]["sequences"]["accepted"]


@pytest.fixture(scope="module")
def guarded_gateway(start_shared_gateway, tmp_path_factory):
    """A gateway that requires API keys, with their file."""
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    keys(path, "add", "--tenant", "operator")
    gateway = start_shared_gateway(keys_file=path, training_dir=path.parent / "training")
    gateway.key_file = path
    return gateway


def begin_upload(gateway, key, length):
    """Send the head of an upload and a part of its body; return the connection."""
    sock = socket.create_connection(("127.0.0.1", gateway.port), timeout=60)
    authorization = f"Authorization: Bearer {key}\r\n" if key else ""
    multipart = "Content-Type: multipart/form-data; boundary=x\r\n"
    head = f"POST /v1/files HTTP/1.1\r\nHost: localhost\r\n{authorization}{multipart}Content-Length: {length}\r\n\r\n"
    sock.sendall(f"{head}--x\r\n".encode())
    return sock


@pytest.fixture
def new_key(guarded_gateway):
    """A function that adds an API key with options, and returns it once the gateway accepts it."""

    def add(tenant, *options):
        key = keys(guarded_gateway.key_file, "add", "--tenant", tenant, *options)
        until(lambda: ask(guarded_gateway, key, None, "/v1/status")[0] == 200)
        return key

    return add


_RULES = """
import json
from service.app import create_app
from service.settings import Settings
found = create_app(Settings()).url_map.iter_rules()
print(json.dumps([[rule.rule, rule.endpoint, sorted(rule.methods - {"HEAD", "OPTIONS"})] for rule in found]))
"""


@pytest.fixture(scope="module")
def rules():
    """Rule, endpoint and methods of each URL rule, by a subprocess: the application's threads end with it."""
    command = [sys.executable, "-c", _RULES]
    return json.loads(subprocess.run(command, capture_output=True, cwd=ROOT, check=True, timeout=240).stdout)


def test_every_endpoint_except_the_public_ones_requires_an_api_key(guarded_gateway, rules):
    gateway = guarded_gateway
    assert {rule for rule, endpoint, _ in rules if endpoint in PUBLIC_ENDPOINTS} == PUBLIC
    assert len(rules) > len(PUBLIC) + 8
    for rule, endpoint, methods in rules:
        file = "index.css" if rule.startswith("/docs") else "page.css"
        path = rule.replace("<name>", "lstm").replace("<path:name>", file)
        for method in {*methods, "GET", "POST", "OPTIONS"}:
            status, headers, body = gateway.ask(method, path, b"{}")
            if endpoint in PUBLIC_ENDPOINTS and method == "GET":
                assert status in (200, 302), (method, path)
            elif endpoint not in PUBLIC_ENDPOINTS:
                assert status == 401, (method, path)
                assert headers["WWW-Authenticate"].startswith("Bearer")
                assert json.loads(body)["error"]["code"] == "invalid_api_key"
    for path in ("/nothing", "//v1/models", "/v1/models/", "/metrics", "/staticx"):
        assert gateway.ask("GET", path)[0] == 401, path
    for path in (
        "/docs/../v1/models",
        "/static/x",
        "/static/../pages.py",
        "/static/%2e%2e/pages.py",
        "/static//etc/passwd",
    ):
        assert gateway.ask("GET", path)[0] in (401, 404), path


def wait_for_a_minute_to_begin():
    """Wait, if little of the minute is left: in the next one, more requests are admitted."""
    if (left := 60 - time.time() % 60) < 10:
        time.sleep(left)


def test_gateways_share_rate_limits_in_redis(start_gateway, key_file, redis_url):
    key = keys(key_file, "add", "--tenant", "a", "--requests-per-minute", "3")
    first, second = (start_gateway(keys_file=key_file, redis_url=redis_url) for _ in range(2))
    wait_for_a_minute_to_begin()
    statuses = [ask(gateway, key)[0] for gateway in (first, second, first, second)]
    assert statuses == [200, 200, 200, 429]


def test_exceeding_the_queued_token_limit_is_429(start_gateway):
    """Admission control bounds the tokens that remain to be generated, not only the number of sequences."""
    gateway = start_gateway(max_queued_tokens=1_000_100, max_request_tokens=10**7)
    with running(gateway):
        until(lambda: accepted(gateway) == 1)
        status, headers, answer = ask(gateway, body={**BODY, "max_tokens": 200})
        assert (status, headers["Retry-After"], answer["error"]["code"]) == (429, "1", "queue_full")
        assert ask(gateway)[0] == 200
    until(lambda: accepted(gateway) == 0)


def test_a_revoked_key_ends_its_running_requests(guarded_gateway, new_key):
    """A stream gets an error event, another request 401; the slots are free, and another key's stream runs on."""
    gateway, revoked, kept = guarded_gateway, new_key("acme"), new_key("operator")
    stream = gateway.connect()
    body = {**BODY, "max_tokens": 1_000_000, "timeout_s": 300}
    authorization = {"Authorization": f"Bearer {revoked}"}
    with running(gateway, kept), ThreadPoolExecutor(1) as pool, contextlib.closing(stream):
        whole = pool.submit(ask, gateway, revoked, body)
        stream.request("POST", "/v1/completions", json.dumps({**body, "stream": True}), authorization)
        response = stream.getresponse()
        until(lambda: accepted(gateway, kept) == 3)
        keys(gateway.key_file, "revoke", revoked.split("-")[1])
        status, headers, answer = whole.result(timeout=60)
        assert (status, answer["error"]["message"]) == (401, "the API key was revoked")
        assert "WWW-Authenticate" in headers
        last = [line for line in response if line.startswith(b"data: ")][-1]
        assert json.loads(last.removeprefix(b"data: ")) == answer
        assert answer["error"]["code"] == "invalid_api_key"
        until(lambda: accepted(gateway, kept) == 1)


def test_exposed_keys_and_a_server_without_keys_are_warnings_at_start(start_gateway, key_file, gateway):
    """The log names path and mode of a key file that others can write; on loopback no keys are needed."""
    key_file.chmod(0o666)
    guarded = start_gateway(host="0.0.0.0", keys_file=key_file).output
    assert f"{key_file}: mode 0666 lets others read or change the keys" in guarded
    outputs = (start_gateway(host="0.0.0.0").output, guarded, gateway.output)
    assert ["NO API KEYS" in output for output in outputs] == [True, False, False]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keys_file": "/nowhere/keys.json"}, "/nowhere/keys.json"),
        ({"metrics_host": "256.1.1.1"}, "cannot listen on 256.1.1.1"),
        ({"training_dir": "/dev/null/x"}, "the job database cannot be opened: /dev/null/x: Not a directory"),
        ({"training_dir": "/tmp", "training_database": "sqlite:////"}, "the job database cannot be opened: "),
    ],
    ids=["keys", "metrics", "training_dir", "training_database"],
)
def test_an_invalid_setting_fails_startup_with_a_one_line_error(models_dir, settings, message):
    import os

    variables = {f"SOSTENUTO_{name.upper()}": value for name, value in settings.items()}
    environment = {**os.environ, "SOSTENUTO_PORT": "0", "SOSTENUTO_MODELS_DIR": str(models_dir), **variables}
    command = [sys.executable, "-m", "service", "serve", "--backends", "127.0.0.1:1"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=240, check=False)
    assert run.returncode == 1
    (line,) = run.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_an_upload_is_refused_before_it_is_received(guarded_gateway, new_key):
    trains, generates = new_key("acme", "--role", "train", "--role", "read"), new_key("acme")
    for key, length, status, code in (
        (None, 10**6, 401, "invalid_api_key"),
        ("ost-abcdefgh-" + "0" * 64, 10**6, 401, "invalid_api_key"),
        (generates, 10**6, 403, "missing_role"),
        (trains, 10**9, 413, None),
    ):
        with begin_upload(guarded_gateway, key, length) as sock:
            response = http.client.HTTPResponse(sock)
            response.begin()
            assert (response.status, json.loads(response.read())["error"]["code"]) == (status, code)
    with begin_upload(guarded_gateway, trains, 10**6) as sock:
        sock.settimeout(1)
        with pytest.raises(TimeoutError):
            sock.recv(1)
