"""`python -m service health`: an exit code for health checks."""

import http.server
import threading

import pytest

from service.__main__ import main


@pytest.fixture
def answering(monkeypatch):
    """A server that responds to every GET with a status of the test's choice and records the paths."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(server.status)
            self.end_headers()
            self.wfile.write(b'{"status": "as told"}')

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    server.asked = asked
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("SOSTENUTO_PORT", str(server.server_port))
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_the_exit_code_says_whether_the_gateway_is_ready(answering, monkeypatch, capsys, host, status, code):
    """The command requests /readyz at the address that the gateway listens on."""
    monkeypatch.setenv("SOSTENUTO_HOST", host)
    answering.status = status
    assert main(["health"]) == code
    assert answering.asked == ["/readyz"]
    shown = capsys.readouterr()
    assert '{"status": "as told"}' in (shown.err if code else shown.out)


def test_an_unreachable_gateway_is_exit_code_1(monkeypatch, capsys, answering):
    """The message has the address and the reason."""
    monkeypatch.setenv("SOSTENUTO_HOST", "127.0.0.2")
    assert main(["health"]) == 1
    assert f"no response from 127.0.0.2:{answering.server_port}: ConnectionRefusedError" in capsys.readouterr().err
