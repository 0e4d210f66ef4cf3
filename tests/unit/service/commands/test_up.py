"""`python -m service up`: its readiness check and its output. test_up_processes.py and tests/e2e have its processes."""

import http.server
import json
import threading
from types import SimpleNamespace

import pytest

from service.commands import up
from service.commands.up import Service
from service.settings import Settings


class Gateway(http.server.HTTPServer):
    """A server with scripted responses to /readyz; the last one is repeated."""

    def __init__(self, *answers):
        self.answers, self.num_asked = list(answers), 0
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.num_asked += 1
        status, body = self.server.answers.pop(0) if len(self.server.answers) > 1 else self.server.answers[0]
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def serve():
    """Start gateways with scripted responses."""
    servers = []

    def start(*answers):
        server = Gateway(*answers)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def ready(*names):
    return 200, json.dumps({"status": "ready", "models": names}).encode()


NOT_READY = 503, b'{"error": {}}'


@pytest.fixture
def run_up(tmp_path, monkeypatch):
    """Start the service in front of a gateway, with fake processes."""
    monkeypatch.chdir(tmp_path)

    def run(gateway, **settings):
        process = SimpleNamespace(poll=lambda: None, terminate=lambda: None)
        monkeypatch.setattr(up, "_require_free", lambda host, port: port or 1)
        monkeypatch.setattr(up, "_listens", lambda port: True)
        monkeypatch.setattr(Service, "_launch", lambda *_, **__: up.Child("part", process))
        service = Service(Settings(port=gateway.server_port, models_dir=tmp_path, **settings))
        service._start()
        service._gateway_life.close()

    return run


def test_readyz_is_polled_until_it_is_ready_and_not_again(serve, run_up, capfd):
    """The models of that response are printed; a second response might have none left."""
    gateway = serve(NOT_READY, ready("demo", "other"), ready())
    run_up(gateway)
    assert gateway.num_asked == 2
    assert "(models: demo, other; Ctrl-C stops)" in capfd.readouterr().out


@pytest.mark.parametrize("body", [b'{"status": "ready"}', b'{"models": null}', b"[]", b"ready", b'{"models": []}'])
@pytest.mark.parametrize(
    ("config", "name"), [(b'model_config_list { config { name: "mine" } }', "mine"), (b"\xff", "MODEL")]
)
def test_a_gateway_is_ready_even_if_it_names_no_models(serve, run_up, tmp_path, capfd, body, config, name):
    """The status decides. The example request has a model of `models.config`, or a placeholder."""
    (tmp_path / "models.config").write_bytes(config)
    run_up(serve((200, body)), keys_file=tmp_path / "keys.json")
    out = capfd.readouterr().out
    assert f'"model": "{name}"' in out
    assert "Authorization: Bearer $KEY" in out
