"""Settings come from the environment or a file, and a wrong one is named."""

from pathlib import Path

import pytest

from service.settings import Settings, SettingsError, load_settings, unknown_settings


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    """Start from an environment without settings."""
    for name in [*Settings.model_fields, "env_file"]:
        monkeypatch.delenv(f"OSTINATO_{name.upper()}", raising=False)
    monkeypatch.delenv("PORT", raising=False)


def test_the_environment_is_read(monkeypatch):
    """A variable of the setting's name sets it."""
    monkeypatch.setenv("OSTINATO_MAX_QUEUED", "7")
    monkeypatch.setenv("OSTINATO_MODELS_DIR", "/srv/models")
    assert (load_settings().max_queued, load_settings().models_dir) == (7, Path("/srv/models"))


def test_a_file_is_read_and_the_environment_goes_before_it(monkeypatch, tmp_path):
    """OSTINATO_ENV_FILE names a file of settings; a variable overrides it."""
    path = tmp_path / "settings"
    path.write_text("OSTINATO_MAX_QUEUED=7\nOSTINATO_MAX_RUNNING=9\n")
    monkeypatch.setenv("OSTINATO_ENV_FILE", str(path))
    monkeypatch.setenv("OSTINATO_MAX_QUEUED", "8")
    assert (load_settings().max_queued, load_settings().max_running) == (8, 9)


def test_a_settings_file_that_is_not_there_is_an_error(monkeypatch):
    """Settings that were meant to be read are not passed over in silence."""
    monkeypatch.setenv("OSTINATO_ENV_FILE", "/nowhere/at/all")
    with pytest.raises(SettingsError, match=r"OSTINATO_ENV_FILE: .*/nowhere/at/all"):
        load_settings()


def test_several_model_servers_are_named_with_commas(monkeypatch):
    """Each once, whatever stands around them; an address of version 6 has brackets."""
    monkeypatch.setenv("OSTINATO_BACKENDS", "a:1, b:2,[::1]:8500,a:1")
    assert load_settings().addresses == ["a:1", "b:2", "[::1]:8500"]
    monkeypatch.delenv("OSTINATO_BACKENDS")
    assert load_settings().addresses == ["127.0.0.1:8500"]


def test_port_is_what_platforms_set(monkeypatch):
    """PORT sets the port, unless OSTINATO_PORT does."""
    monkeypatch.setenv("PORT", "9001")
    assert load_settings().port == 9001
    monkeypatch.setenv("OSTINATO_PORT", "9002")
    assert load_settings().port == 9002


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "70000"),
        ("MAX_RUNNING", "0"),
        ("MAX_CALLS", "many"),
        ("DRAIN_S", "-1"),
        ("BACKENDS", "localhost"),
        ("BACKENDS", "localhost:0"),
        ("BACKENDS", "a:1,b"),
        ("BACKENDS", "a:1,,b:2"),
        ("BACKENDS", "::1:8500"),
        ("CALL_TIMEOUT_S", "nan"),
        ("METRICS_PORT", "-1"),
        ("REQUESTS_PER_MINUTE", "0"),
        ("TOKENS_PER_MINUTE", "many"),
        ("MAX_KEY_SEQUENCES", "0"),
        ("MAX_QUEUED_TOKENS", "0"),
        ("MAX_TIMEOUT_S", "0"),
        ("LOG_FORMAT", "xml"),
        ("LOG_LEVEL", "loud"),
        ("LOG_PROMPTS", "perhaps"),
        ("TRACES_RATIO", "1.5"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value(monkeypatch, name, value):
    """The message holds the variable's name and what it was set to."""
    monkeypatch.setenv(f"OSTINATO_{name}", value)
    with pytest.raises(SettingsError, match=f"OSTINATO_{name}: .*{value}"):
        load_settings()


def test_a_misspelt_setting_is_told(monkeypatch):
    """A variable that no setting reads is named with the one that may have been meant; the client's own are not."""
    monkeypatch.setenv("OSTINATO_MAX_QUEUD", "7")
    monkeypatch.setenv("OSTINATO_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("OSTINATO_API_KEY", "x")
    monkeypatch.setenv("OSTINATO_MAX_RUNNING", "7")
    assert unknown_settings() == [
        "OSTINATO_MAX_QUEUD is no setting; is OSTINATO_MAX_QUEUED meant?",
        "OSTINATO_SERVICE_HOST is no setting",
    ]


def test_no_setting_repeats_a_secret(monkeypatch):
    """The address of Redis, which may hold a password, is not in what is printed of the settings."""
    monkeypatch.setenv("OSTINATO_REDIS_URL", "redis://:hunter2@localhost")
    assert "hunter2" not in repr(load_settings())
