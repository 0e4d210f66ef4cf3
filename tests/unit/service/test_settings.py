"""Settings come from the environment or a file; an error names the setting and its value."""

from pathlib import Path

import pytest

from service.settings import Settings, SettingsError, load_settings, unknown_settings


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    for name in [*Settings.model_fields, "env_file"]:
        monkeypatch.delenv(f"SOSTENUTO_{name.upper()}", raising=False)
    monkeypatch.delenv("PORT", raising=False)


def test_environment_variables_override_the_settings_file(monkeypatch, tmp_path):
    path = tmp_path / "settings"
    path.write_text("SOSTENUTO_MAX_QUEUED=7\nSOSTENUTO_MAX_RUNNING=9\n")
    monkeypatch.setenv("SOSTENUTO_MAX_QUEUED", "8")
    monkeypatch.setenv("SOSTENUTO_MODELS_DIR", "/srv/models")
    assert (load_settings().max_queued, load_settings().models_dir) == (8, Path("/srv/models"))
    monkeypatch.setenv("SOSTENUTO_ENV_FILE", str(path))
    assert (load_settings().max_queued, load_settings().max_running) == (8, 9)


def test_a_missing_settings_file_is_an_error(monkeypatch):
    monkeypatch.setenv("SOSTENUTO_ENV_FILE", "/nowhere/at/all")
    with pytest.raises(SettingsError, match=r"SOSTENUTO_ENV_FILE: .*/nowhere/at/all"):
        load_settings()


def test_backends_are_separated_by_commas(monkeypatch):
    monkeypatch.setenv("SOSTENUTO_BACKENDS", "a:1, b:2,[::1]:8500,a:1")
    assert load_settings().addresses == ["a:1", "b:2", "[::1]:8500"]
    monkeypatch.delenv("SOSTENUTO_BACKENDS")
    assert load_settings().addresses == ["127.0.0.1:8500"]


def test_a_precision_is_for_all_models_or_for_one(monkeypatch):
    assert load_settings().precisions == {"": "auto"}
    monkeypatch.setenv("SOSTENUTO_PRECISION", "a.b=bfloat16, float32,c=auto")
    assert load_settings().precisions == {"": "float32", "a.b": "bfloat16", "c": "auto"}
    # The same on all types of CPU.
    monkeypatch.setenv("SOSTENUTO_PORTABLE", "true")
    assert load_settings().precisions == {"": "float32", "a.b": "bfloat16", "c": "float32"}
    monkeypatch.setenv("SOSTENUTO_PRECISION", "demo=float16")
    with pytest.raises(SettingsError, match=r"SOSTENUTO_PRECISION: .*auto, float32, bfloat16.*'demo=float16'"):
        load_settings()


def test_port_sets_the_port_unless_sostenuto_port_does(monkeypatch):
    """Hosting platforms set PORT."""
    monkeypatch.setenv("PORT", "9001")
    assert load_settings().port == 9001
    monkeypatch.setenv("SOSTENUTO_PORT", "9002")
    assert load_settings().port == 9002


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "70000"),
        ("MAX_RUNNING", "0"),
        ("MAX_CALLS", "many"),
        ("BACKENDS", "localhost"),
        ("BACKENDS", "localhost:0"),
        ("BACKENDS", "a:1,b"),
        ("BACKENDS", "a:1,,b:2"),
        ("BACKENDS", "::1:8500"),
        ("BACKENDS", "a..b:8500"),
        ("BACKENDS", f"{'a' * 64}.b:8500"),
        ("CALL_TIMEOUT_S", "nan"),
        ("KEYS_FILE", ""),
        ("STATE_KEY_FILE", ""),
        ("BACKEND_TLS_CA_FILE", ""),
        ("MODELS_DIR", ""),
        ("LOG_FORMAT", "xml"),
        ("DOCS_URL", ""),
        ("DOCS_URL", "docs.example.org"),
        ("DOCS_URL", "javascript:alert"),
    ],
)
def test_an_invalid_setting_is_named_with_its_value(monkeypatch, name, value):
    """The message has the full name of the variable, so that an operator can search for it."""
    monkeypatch.setenv(f"SOSTENUTO_{name}", value)
    with pytest.raises(SettingsError, match=f"SOSTENUTO_{name}: (?!Value error|.* got .* got ).*, got '{value}'$"):
        load_settings()


def test_an_unknown_setting_is_reported_with_the_closest_name(monkeypatch):
    monkeypatch.setenv("SOSTENUTO_MAX_QUEUD", "7")
    monkeypatch.setenv("SOSTENUTO_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("SOSTENUTO_API_KEY", "x")
    monkeypatch.setenv("SOSTENUTO_MAX_RUNNING", "7")
    misspelt = "SOSTENUTO_MAX_QUEUD is not a setting; did you mean SOSTENUTO_MAX_QUEUED?"
    assert unknown_settings() == [misspelt, "SOSTENUTO_SERVICE_HOST is not a setting"]


def test_unknown_variables_of_the_file_are_reported(monkeypatch, tmp_path):
    """A misspelt key file would start a gateway without API keys."""
    file = tmp_path / "gateway.env"
    file.write_text("SOSTENUTO_KEYS_FIEL=/etc/keys\nSOSTENUTO_PORT=1\nOTHER=2\n")
    monkeypatch.setenv("SOSTENUTO_ENV_FILE", str(file))
    assert unknown_settings() == ["SOSTENUTO_KEYS_FIEL is not a setting; did you mean SOSTENUTO_KEYS_FILE?"]


def test_the_repr_of_settings_hides_the_redis_url(monkeypatch):
    monkeypatch.setenv("SOSTENUTO_REDIS_URL", "redis://:hunter2@localhost")
    assert "hunter2" not in repr(load_settings())
