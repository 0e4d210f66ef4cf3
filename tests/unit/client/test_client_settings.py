"""A client's settings and their sources."""

import re
from unittest.mock import patch

import pytest

from sostenuto import Client, InvalidArgument
from sostenuto._settings import DEFAULT_BASE_URL, DEFAULT_TIMEOUT, resolve

URL = "http://example.test"


def settings(base_url=None, api_key=None, **environ):
    with patch.dict("os.environ", environ, clear=True):
        return resolve(base_url, api_key, DEFAULT_TIMEOUT, 2)


@pytest.mark.parametrize("end", ["", "/", "/v1", "/v1/", "//", " "])
def test_a_trailing_slash_or_v1_of_the_base_url_is_ignored(end):
    assert settings(URL + end).base_url == URL
    assert settings(f"{URL}/texts{end}").base_url == f"{URL}/texts"
    assert settings(f"http://v1{end}").base_url == "http://v1"


def test_arguments_override_the_environment_and_it_overrides_defaults():
    environ = {"SOSTENUTO_BASE_URL": "http://other.test/", "SOSTENUTO_API_KEY": "theirs\n"}
    assert settings(**environ).base_url == "http://other.test"
    assert settings(**environ).api_key == "theirs"
    assert settings(URL, "mine", **environ).base_url == URL
    assert settings(URL, "mine", **environ).api_key == "mine"
    assert settings(api_key="", **environ).api_key is None
    assert settings(SOSTENUTO_BASE_URL="", SOSTENUTO_API_KEY="").base_url == DEFAULT_BASE_URL
    assert settings(SOSTENUTO_BASE_URL="", SOSTENUTO_API_KEY="").api_key is None


def test_a_client_reads_its_base_url_from_the_environment(monkeypatch):
    monkeypatch.setenv("SOSTENUTO_BASE_URL", "https://example.test/v1")
    assert repr(Client()) == "Client('https://example.test')"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        *(("base_url", url, "start with http://") for url in ("localhost:8000", "ftp://example.test", "", "/v1")),
        *(("base_url", f"http://{rest}", f"such as {DEFAULT_BASE_URL}") for rest in (":8000", "[::1", "host:port")),
        *(("base_url", f"http://host:{port}", f"such as {DEFAULT_BASE_URL}") for port in (0, 99999)),
        ("base_url", 5, "pass a str"),
        *(("base_url", f"http://x/{rest}", "remove the part from") for rest in ("?a=1", "#a")),
        *(("timeout", wrong, "above 0") for wrong in (0, -1, "5", [5, 300], (5,), (5, 0), (1, 2, 3), (None, "5"))),
        *(("timeout", wrong, "above 0") for wrong in (float("nan"), float("inf"), 1e12)),
        *(("max_retries", wrong, "pass 0 or more") for wrong in (None, 1.5, -1)),
    ],
)
def test_an_invalid_setting_is_rejected_at_construction(name, value, message):
    with pytest.raises(InvalidArgument, match=f"^{name} is {re.escape(repr(value))}: .*{message}"):
        Client(**{"base_url": URL, name: value})


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("ftp://me:secret@host", "ftp://***@host"),
        ("me:secret@host", "***@host"),
        ("http://me:secret@host:0", "http://***@host:0"),
        ("http://me:secret@host?a=1", "http://***@host?a=1"),
        *((f"http://me:sec{end}ret@host:0", "http://***@host:0") for end in "/?#@"),
        (b"http://me:secret@host", "http://***@host"),
    ],
)
def test_the_password_of_a_rejected_url_is_not_shown(url, shown):
    """A password that is not percent-encoded may have a character that ends the host."""
    with pytest.raises(InvalidArgument, match=re.escape(f"'{shown}")) as caught:
        Client(url)
    assert not re.search("sec|ret", str(caught.value))


def test_a_url_that_utf8_cannot_encode_is_rejected():
    with pytest.raises(InvalidArgument, match=r"base_url has a lone surrogate, '\\ud800', at character 9,"):
        Client("http://me\ud800:secret@host")


@pytest.mark.parametrize("key", ["schlüssel", "two\nlines", "tab\tbed", b"key"])
def test_a_key_that_is_no_valid_header_value_is_rejected_and_not_shown(key):
    with pytest.raises(InvalidArgument, match="api_key") as caught:
        Client(URL, api_key=key)
    assert str(key) not in str(caught.value)


def test_a_timeout_is_one_number_or_a_connect_and_a_read_timeout():
    found = [resolve(URL, None, timeout, 2).timeout for timeout in (3.0, (1.0, 2.0), None)]
    assert found == [(3.0, 3.0), (1.0, 2.0), (None, None)]


def test_the_repr_of_client_and_settings_hides_the_key():
    assert "secret" not in repr(Client(URL, api_key="secret")) + repr(settings(URL, "secret"))
    assert "secret" not in repr(settings("http://me:secret@host"))
