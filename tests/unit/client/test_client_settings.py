"""A client's settings and their sources."""

from __future__ import annotations

from typing import Any

import pytest

from sostenuto import Client, InvalidArgument
from sostenuto._settings import DEFAULT_BASE_URL, DEFAULT_TIMEOUT, Settings, resolve

URL = "http://example.test"


def settings(base_url: str | None = None, api_key: str | None = None, **environ: str) -> Settings:
    """Resolve base URL and API key in a given environment."""
    return resolve(base_url, api_key, DEFAULT_TIMEOUT, 2, environ)


@pytest.mark.parametrize("end", ["", "/", "/v1", "/v1/", "//", " "])
def test_a_trailing_slash_or_v1_of_the_base_url_is_ignored(end: str) -> None:
    """With and without a path before it."""
    assert settings(URL + end).base_url == URL
    assert settings(f"{URL}/texts{end}").base_url == f"{URL}/texts"


def test_arguments_override_the_environment_and_it_overrides_defaults() -> None:
    """An empty environment variable counts as unset."""
    environ = {"SOSTENUTO_BASE_URL": "http://other.test/", "SOSTENUTO_API_KEY": "theirs\n"}
    assert settings(**environ).base_url == "http://other.test"
    assert settings(**environ).api_key == "theirs"
    assert settings(URL, "mine", **environ).base_url == URL
    assert settings(URL, "mine", **environ).api_key == "mine"
    assert settings(SOSTENUTO_BASE_URL="", SOSTENUTO_API_KEY="").base_url == DEFAULT_BASE_URL
    assert settings(SOSTENUTO_BASE_URL="", SOSTENUTO_API_KEY="").api_key is None


def test_an_empty_api_key_overrides_the_environment() -> None:
    """`api_key=""` means no key."""
    assert settings(api_key="", SOSTENUTO_API_KEY="theirs").api_key is None


def test_a_client_reads_its_base_url_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """`Client()` uses `SOSTENUTO_BASE_URL`."""
    monkeypatch.setenv("SOSTENUTO_BASE_URL", "https://example.test/v1")
    assert repr(Client()) == "Client('https://example.test')"


@pytest.mark.parametrize("url", ["localhost:8000", "example.test", "ftp://example.test", "", "/v1"])
def test_a_base_url_without_http_is_rejected_at_construction(url: str) -> None:
    """The message names the setting and the required prefix."""
    with pytest.raises(InvalidArgument, match=r"base_url is .* start with http://"):
        Client(url)


@pytest.mark.parametrize(
    "url", ["http://:8000", "http://host:port", "http://host:99999", "http://host:0", "http://[::1"]
)
def test_a_base_url_without_host_or_with_an_invalid_port_is_rejected(url: str) -> None:
    """At construction, with an example."""
    with pytest.raises(InvalidArgument, match=f"base_url is .* such as {DEFAULT_BASE_URL}"):
        Client(url)


@pytest.mark.parametrize("key", ["schlüssel", "two\nlines", "tab\tbed"])
def test_a_key_that_is_no_valid_header_value_is_rejected_and_not_shown(key: str) -> None:
    """The message names the setting and omits the secret."""
    with pytest.raises(InvalidArgument, match="api_key") as caught:
        Client(URL, api_key=key)
    assert key not in str(caught.value)


@pytest.mark.parametrize(
    "wrong", [0, -1, "5", [5, 300], (5,), (5, 0), (1, 2, 3), float("nan"), float("inf"), 1e12, (None, "5")]
)
def test_an_invalid_timeout_is_rejected(wrong: Any) -> None:
    """At construction, not by the first request."""
    with pytest.raises(InvalidArgument, match=r"timeout is .* above 0"):
        resolve(None, None, wrong, 0, {})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((5, None, 1, 0), "base_url is 5"),
        (("http://x/?a=1", None, 1, 0), "remove the part from"),
        (("http://x/#a", None, 1, 0), "remove the part from"),
        ((None, b"x", 1, 0), "api_key is of type bytes"),
        ((None, None, 1, None), "max_retries is None"),
        ((None, None, 1, 1.5), "max_retries is 1.5"),
    ],
)
def test_a_setting_of_another_type_is_rejected(arguments: tuple[Any, ...], message: str) -> None:
    """So is a base URL with a query or fragment; the message names the setting."""
    with pytest.raises(InvalidArgument, match=message):
        resolve(*arguments, {})


def test_a_negative_max_retries_is_rejected() -> None:
    """The message has the value."""
    with pytest.raises(ValueError, match="max_retries is -1"):
        Client(URL, max_retries=-1)


def test_a_timeout_is_one_number_or_a_connect_and_a_read_timeout() -> None:
    """A number applies to both phases; None is no limit."""
    assert [resolve(URL, None, timeout, 2, {}).timeout for timeout in (3.0, (1.0, 2.0), None)] == [
        (3.0, 3.0),
        (1.0, 2.0),
        (None, None),
    ]


def test_the_repr_of_client_and_settings_hides_the_key() -> None:
    """So that logs do not contain it."""
    assert "secret" not in repr(Client(URL, api_key="secret")) + repr(settings(URL, "secret"))
