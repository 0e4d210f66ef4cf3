"""`sostenuto doctor`: what it reports of machine, packages, ports, models and settings."""

import importlib.metadata
import itertools
import json
import re
import socket

import pytest
from click.testing import CliRunner

from contract import machine
from service.cli import doctor
from service.commands import doctor as module
from tests.ports import free_port


@pytest.fixture
def run(monkeypatch, two_versions):
    """Run the command beside a repository with two versions of a model; return its exit code and its lines."""
    monkeypatch.setenv("SOSTENUTO_MODELS_DIR", str(two_versions))
    monkeypatch.setenv("SOSTENUTO_PORT", str(free_port()))
    monkeypatch.setenv("SOSTENUTO_METRICS_PORT", str(free_port()))
    for version in (1, 2):
        (two_versions / f"demo/{version}/saved_model.pb").touch()
    text = (two_versions / "models.config").read_text()
    policy = "model_version_policy { all {} }"
    (two_versions / "models.config").write_text(text.replace("base_path:", f"{policy} base_path:"))

    def run():
        done = CliRunner().invoke(doctor)
        assert done.exception is None or isinstance(done.exception, SystemExit)
        return done.exit_code, done.stdout.splitlines()

    return run


def wrong(lines):
    pairs = [(line, after) for line, after in itertools.pairwise(lines) if line.startswith("WRONG")]
    return {re.split(" {2,}", line)[1]: after.strip() for line, after in pairs}


def line_of(lines, subject):
    (line,) = [line for line in lines if re.match(rf"\w+ +{re.escape(subject)} ", line)]
    return line


def test_a_machine_in_order_has_no_problems(run):
    code, lines = run()
    assert (code, wrong(lines), lines[-1]) == (0, {}, "no problems found")
    for subject in ("CPU", "cores", "memory", "Python", "tensorflow", "port 8500", "model demo:1", "model demo:2"):
        assert line_of(lines, subject).startswith("ok")
    assert importlib.metadata.version("tensorflow") in line_of(lines, "tensorflow")


@pytest.mark.parametrize(
    ("flags", "words", "hint"),
    [
        ("avx avx512_bf16 amx_bf16", "AMX yes, AVX512-BF16 yes: fast bfloat16", None),
        ("avx avx2", "AMX no, AVX512-BF16 no: no fast bfloat16", None),
        ("sse4_2", "AMX no", "TensorFlow's packages need a CPU with AVX"),
    ],
)
def test_the_cpu_is_named_with_its_instructions(run, tmp_path, monkeypatch, flags, words, hint):
    """TensorFlow does not start on a CPU without AVX."""
    (tmp_path / "cpuinfo").write_text(f"vendor_id\t: GenuineIntel\nmodel name\t: Any: 2 GHz\nflags\t: {flags}\n\n")
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "cpuinfo")
    code, lines = run()
    assert f"GenuineIntel, Any: 2 GHz; {words}" in line_of(lines, "CPU")
    assert (code, wrong(lines)) == (1, {"CPU": hint}) if hint else (0, {})


def test_a_machine_with_little_memory_is_a_problem(run, monkeypatch):
    monkeypatch.setattr("os.sysconf", lambda name: {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2**18}[name])
    code, lines = run()
    assert (code, wrong(lines)) == (1, {"memory": "training and serving need 1.5 GiB"})


@pytest.mark.parametrize(("version", "hint"), [("2.19.0", "it must be 2.21.*: pip"), (None, "pip install ")])
def test_a_missing_package_or_another_tensorflow_is_a_problem(run, monkeypatch, version, hint):
    def installed(name):
        if name == "tensorflow" and version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version if name == "tensorflow" else "1.0"

    monkeypatch.setattr(module.importlib.metadata, "version", installed)
    code, lines = run()
    assert code == 1
    assert wrong(lines)["tensorflow"].startswith(hint)


def test_a_port_in_use_is_a_problem_unless_a_gateway_is_ready_there(run, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(0)
        monkeypatch.setenv("SOSTENUTO_PORT", str(other.getsockname()[1]))
        monkeypatch.setattr("service.commands.health.TIMEOUT_S", 0.1)
        code, lines = run()
        monkeypatch.setattr(module, "is_ready", lambda *_: True)
        code_of_gateway, lines_of_gateway = run()
    (line,) = [line for line in lines if line.startswith("WRONG  port")]
    assert (code, "Address already in use" in line) == (1, True)
    assert "SOSTENUTO_PORT" in wrong(lines)[f"port {line.split()[2]}"]
    assert code_of_gateway == 0
    assert any("in use by a gateway that is ready" in line for line in lines_of_gateway)


def test_a_port_of_metrics_in_use_is_a_problem(run, monkeypatch):
    """The gateway would not start."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        monkeypatch.setenv("SOSTENUTO_METRICS_PORT", str(port))
        code, lines = run()
    assert (code, "SOSTENUTO_METRICS_PORT" in wrong(lines)[f"port {port}"]) == (1, True)


@pytest.mark.parametrize(("content", "told"), [('{"keys": []}', None), ("{", "Invalid JSON"), (None, "No such file")])
def test_a_key_file_that_the_gateway_would_refuse_is_a_problem(run, tmp_path, monkeypatch, content, told):
    path = tmp_path / "keys.json"
    monkeypatch.setenv("SOSTENUTO_KEYS_FILE", str(path))
    if content is not None:
        path.write_text(content)
    code, lines = run()
    assert (code, "API keys" in wrong(lines)) == (int(told is not None), told is not None)
    assert (told or f"0 in {path}") in line_of(lines, "API keys")


def test_unknown_and_invalid_settings_are_problems(run, monkeypatch):
    for name, value, told in (
        ("MAX_RUNING", "3", "did you mean SOSTENUTO_MAX_RUNNING"),
        ("MAX_RUNNING", "none", "SOSTENUTO_MAX_RUNNING: .*'none'"),
    ):
        monkeypatch.setenv(f"SOSTENUTO_{name}", value)
        code, lines = run()
        assert (code, bool(re.search(told, line_of(lines, "settings")))) == (1, True)
        monkeypatch.delenv(f"SOSTENUTO_{name}")


def test_a_damaged_version_or_models_config_is_a_problem(run, two_versions):
    card = two_versions / "demo/1/assets.extra/generator.json"
    assert json.loads(card.read_text())
    card.write_text("{")
    (two_versions / "demo/2/saved_model.pb").unlink()
    code, lines = run()
    assert code == 1
    assert set(wrong(lines)) == {"model demo:1", "model demo:2"}
    assert "generator.json: not a generator card" in line_of(lines, "model demo:1")
    assert "saved_model.pb" in line_of(lines, "model demo:2")
    (two_versions / "models.config").write_text("nonsense {")
    code, lines = run()
    assert (code, "models.config: " in line_of(lines, "models")) == (1, True)


def test_a_directory_without_models_is_no_problem(run, tmp_path, monkeypatch):
    """A new user has none; the line says how to train one."""
    monkeypatch.setenv("SOSTENUTO_MODELS_DIR", str(tmp_path / "none"))
    code, lines = run()
    assert code == 0
    assert "sostenuto demo" in line_of(lines, "models")
