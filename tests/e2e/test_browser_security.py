"""Cross-origin requests, DNS rebinding, framing and security headers in a real browser; Swagger UI under its policy."""

import json
import time

import pytest

from tests.http_server import http_server

BODY = json.dumps({"model": "lstm", "prompt": "It was", "max_tokens": 5})
# A simple request, as a form sends it: the browser makes no preflight request before it.
SEND = """async ([url, body]) => {
    const how = {method: 'POST', mode: 'no-cors', headers: {'Content-Type': 'text/plain'}, body};
    return fetch(url, how).then(({type}) => type, () => 'failed');
}"""


@pytest.fixture
def other_site():
    """The port of another web server on this machine, which serves an empty page."""
    with http_server(lambda *_: (200, b"<!doctype html><title>other</title>")) as port:
        yield port


def logged(gateway, part, before="", timeout=20):
    """Wait for a line of the gateway's log that contains `part`, after the output `before`, and return it parsed."""
    deadline = time.monotonic() + timeout
    while not (lines := [line for line in gateway.output[len(before) :].splitlines() if part in line]):
        assert time.monotonic() < deadline, gateway.output
        time.sleep(0.05)
    return json.loads(lines[-1])


@pytest.fixture
def page(browser):
    """A blank page, without the checks of tests.pages."""
    context = browser.new_context()
    yield context.new_page()
    context.close()


def test_a_cross_origin_request_is_rejected(page, gateway, other_site):
    for host in ("evil.example", "127.0.0.1", "localhost"):
        before = gateway.output
        page.goto(f"http://{host}:{other_site}/")
        assert page.evaluate(SEND, [f"http://127.0.0.1:{gateway.port}/v1/completions", BODY]) == "failed"
        assert logged(gateway, '"/v1/completions"', before)["error"] == "cross_origin"


def test_an_unknown_host_name_is_rejected_against_dns_rebinding(page, gateway):
    """A page of evil.example:8000 would have the same origin as the server, and could read its responses."""
    for path in ("", "v1/models", "readyz", "docs/"):
        response = page.goto(f"http://evil.example:{gateway.port}/{path}")
        assert (response.status, response.json()["error"]["code"]) == (421, "host_not_allowed")
    connection = gateway.connect()
    connection.request("POST", "/v1/completions", BODY, {"Host": f"evil.example:{gateway.port}"})
    assert connection.getresponse().status == 421
    connection.close()


def test_every_response_has_security_headers(gateway):
    for method, path in (
        *(("GET", path) for path in ("/", "/inspector", "/train", "/models", "/learn", "/static/shell.js")),
        *(("GET", path) for path in ("/docs", "/docs/", "/docs/swagger-ui.css")),
        *(("GET", path) for path in ("/openapi.json", "/v1/models", "/health", "/version", "/nothing")),
        *(("POST", path) for path in ("/v1/completions", "/healthz")),
    ):
        _, headers, _ = gateway.ask(method, path, BODY.encode() if path == "/v1/completions" else None)
        assert headers["X-Content-Type-Options"] == "nosniff", path
        assert "default-src 'none'" in headers["Content-Security-Policy"], path
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"], path
        assert "unsafe" not in headers["Content-Security-Policy"].replace("style-src 'self' 'unsafe-inline'", ""), path
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin", path


def test_no_page_can_be_framed(page, gateway, other_site):
    page.goto(f"http://127.0.0.1:{other_site}/")
    complaints = []
    page.on("console", lambda said: complaints.append(said.text))
    add = """url => new Promise(loaded => {
        const frame = Object.assign(document.createElement('iframe'), {src: url, onload: loaded});
        document.body.append(frame);
    })"""
    for path in ("", "inspector", "docs/"):
        complaints.clear()
        page.evaluate(add, f"http://127.0.0.1:{gateway.port}/{path}")
        assert any("frame-ancestors" in complaint for complaint in complaints), complaints


def test_vllms_health_ping_and_version_endpoints_exist(gateway, start_gateway, tmp_path):
    from service import __version__

    for path in ("/health", "/ping"):
        status, _, body = gateway.ask("GET", path)
        assert (status, body) == (200, b"")
    assert gateway.get("/version") == (200, {"version": __version__})
    (tmp_path / "none").mkdir()
    waiting = start_gateway(repository=tmp_path / "none", ready=False)
    for path in ("/health", "/ping"):
        status, answer = waiting.get(path)
        assert (status, answer["error"]["code"]) == (503, "model_loading")
