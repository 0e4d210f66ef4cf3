"""`deploy/nginx/sostenuto.conf` in front of a gateway: no buffering of streams, and real client addresses."""

import json

import pytest

from service.settings import Settings
from tests.paths import ROOT
from tests.ports import free_port
from tests.programs import program
from tests.servers import Client, Process
from tests.waiting import until

BODY = {"model": "lstm", "prompt": "It was", "seed": 1}


@pytest.fixture(scope="module")
def proxied(start_shared_gateway, tmp_path_factory):
    """A gateway with `num_proxies=1` behind nginx, and a client of that nginx."""
    tmp_path, port = tmp_path_factory.mktemp("nginx"), free_port()
    gateway = start_shared_gateway(num_proxies=1)
    conf = (ROOT / "deploy/nginx/sostenuto.conf").read_text()
    for line, ours in {
        "server 127.0.0.1:8000;": f"server 127.0.0.1:{gateway.port};",
        "listen 80 default_server;": f"listen 127.0.0.1:{port};",
        "access_log /var/log/nginx/sostenuto.log": f"access_log {tmp_path}/access.log",
    }.items():
        assert conf.count(line) == 1
        conf = conf.replace(line, ours)
    (tmp_path / "sostenuto.conf").write_text(conf)
    kept = " ".join(
        f"{kind}_temp_path {tmp_path}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (tmp_path / "nginx.conf").write_text(
        f"user root; daemon off; pid {tmp_path}/nginx.pid; error_log stderr; worker_processes 1; events {{}}\n"
        f"http {{ {kept} include {tmp_path}/sostenuto.conf; }}\n"
    )
    nginx = Process(
        [program("nginx"), "-e", "stderr", "-p", tmp_path, "-c", tmp_path / "nginx.conf"], tmp_path / "nginx.log"
    )
    client = Client(port)
    nginx.wait_until(lambda: client.ask("GET", "/healthz")[0] == 200)
    client.access_log = tmp_path / "access.log"
    yield gateway, client
    nginx.end()


def requests(gateway):
    lines = [json.loads(line) for line in gateway.output.splitlines()]
    return [line for line in lines if line.get("route") == "/v1/completions"]


def test_nginx_streams_unbuffered_and_passes_on_disconnects(proxied):
    gateway, client = proxied
    events = client.stream(**BODY, max_tokens=10_000_000)
    assert next(events)["choices"][0]["text"]
    assert gateway.accepted == 1
    events.close()
    until(lambda: gateway.accepted == 0)


def test_responses_through_nginx_equal_the_gateways(proxied):
    gateway, client = proxied
    assert client.text(**BODY, max_tokens=50) == gateway.text(**BODY, max_tokens=50)
    too_large = json.dumps({**BODY, "prompt": "x" * (4 * 2**20 + 1)}).encode()
    status, answer = client.post(too_large)
    assert (status, answer["error"]["type"]) == (413, "invalid_request_error")


def test_the_gateway_refuses_an_upload_of_the_maximum_size(proxied):
    """Its response arrives, although it discards the body: behind a proxy, training needs a key."""
    _, client = proxied
    status, answer = client.post(bytes(Settings().max_upload_bytes), "/v1/files")
    assert (status, answer["error"]["code"]) == (403, "missing_role")


def test_the_access_log_has_the_clients_address_and_request_id(proxied):
    gateway, client = proxied
    connection = client.connect()
    connection.source_address = ("127.0.0.3", 0)
    body = json.dumps({**BODY, "max_tokens": 1})
    connection.request("POST", "/v1/completions", body, {"X-Request-Id": "mine-1", "X-Forwarded-For": "10.9.9.9"})
    response = connection.getresponse()
    response.read()
    assert response.headers["x-request-id"] == "mine-1"
    connection.close()
    # A line of an earlier request may come late.
    until(lambda: requests(gateway)[-1]["request_id"] == "mine-1")
    client.post({**BODY, "max_tokens": 1})
    until(lambda: requests(gateway)[-1]["request_id"] != "mine-1")
    first, second = requests(gateway)[-2:]
    assert (first["client"], first["request_id"]) == ("127.0.0.3", "mine-1")
    assert "127.0.0.3 mine-1 [" in client.access_log.read_text()
    # nginx generated this id.
    assert (second["client"], len(second["request_id"])) == ("127.0.0.1", 32)


def test_x_forwarded_for_is_ignored_without_num_proxies(gateway):
    """A client that is not behind a proxy could put any address into the header."""
    connection = gateway.connect()
    body = json.dumps({**BODY, "max_tokens": 1})
    headers = {"X-Forwarded-For": "10.9.9.9", "X-Request-Id": "liar"}
    connection.request("POST", "/v1/completions", body, headers)
    connection.getresponse().read()
    connection.close()
    until(lambda: any(line["request_id"] == "liar" for line in requests(gateway)))
    assert [line["client"] for line in requests(gateway) if line["request_id"] == "liar"] == ["127.0.0.1"]
