"""Protection from other web pages that send requests through a user's browser: origins, host names, headers."""

import pytest
from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Request, Response

from service.errors import CrossOrigin, HostNotAllowed
from service.settings import Settings
from service.web.middleware import add_security_headers, allowed_hosts, require_allowed_host, require_same_origin

HOST = "127.0.0.1:8000"


def request(method="POST", host=HOST, **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return Request(EnvironBuilder("/v1/completions", method=method, headers={"Host": host, **headers}).get_environ())


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "http://127.0.0.1:8000"},
        {"Origin": "https://127.0.0.1:8000"},
        {"Sec_Fetch_Site": "same-origin", "Origin": "https://behind.a.proxy"},
        {"Sec_Fetch_Site": "none"},
    ],
    ids=["program", "own", "tls proxy", "proxy", "address bar"],
)
def test_programs_and_same_origin_pages_are_allowed(headers):
    """Programs send no `Origin`. A proxy may terminate TLS, or forward another `Host`."""
    require_same_origin(request(**headers))


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:9000"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site", "Origin": "http://127.0.0.1:8000"},
        {"Sec_Fetch_Site": "cross-site", "Origin": "http://127.0.0.1:8000"},
    ],
)
def test_cross_origin_requests_are_refused(headers):
    for method in ("POST", "PUT", "DELETE"):
        with pytest.raises(CrossOrigin, match="may only call its own origin"):
            require_same_origin(request(method, **headers))
    require_same_origin(request("GET", **headers))


@pytest.mark.parametrize(
    ("settings", "is_allowed"),
    [
        ({}, False),
        ({"host": "::1"}, False),
        ({"host": "localhost"}, False),
        ({"host": "0.0.0.0"}, True),
        ({"host": "0.0.0.0", "published_host": "127.0.0.1"}, False),
        ({"host": "0.0.0.0", "published_host": "[::1]"}, False),
        ({"host": "127.0.0.1", "published_host": "0.0.0.0"}, True),
        ({"num_proxies": 1}, True),
        ({"allowed_hosts": "*"}, True),
        ({"allowed_hosts": "other, Evil.example"}, True),
        ({"host": "0.0.0.0", "allowed_hosts": "other"}, False),
    ],
)
def test_host_names_are_checked_if_the_server_is_reached_on_loopback(settings, is_allowed):
    """Unless it is behind a proxy; `allowed_hosts` overrides both, and localhost is always allowed."""
    hosts = allowed_hosts(Settings(**settings))
    require_allowed_host(request(host="localhost:8000"), hosts)
    if is_allowed:
        require_allowed_host(request(host="evil.example:8000"), hosts)
        return
    with pytest.raises(HostNotAllowed, match=r"SOSTENUTO_ALLOWED_HOSTS, got 'evil\.example:8000'"):
        require_allowed_host(request(host="evil.example:8000"), hosts)


@pytest.mark.parametrize("names", ["", "a,,b", "http://a", "a:8000", "a b", ".a"])
def test_allowed_hosts_must_be_a_list_of_host_names(names):
    """Ports and schemes are not compared, so they are refused."""
    with pytest.raises(ValueError, match="must be host names without ports"):
        Settings(allowed_hosts=names)


def test_a_response_keeps_its_own_content_security_policy():
    page, other = Response(headers={"Content-Security-Policy": "default-src 'self'"}), Response()
    for response in (page, other):
        add_security_headers(response)
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert page.headers["Content-Security-Policy"] == "default-src 'self'"
    assert "frame-ancestors 'none'" in other.headers["Content-Security-Policy"]


@pytest.mark.parametrize("is_logged", [True, False])
def test_prompts_are_logged_only_if_the_setting_says_so(make_site, caplog, is_logged):
    caplog.set_level("INFO", "service.access")
    assert make_site(log_prompts=is_logged).post(prompt="abc", max_tokens=1).status_code == 200
    (record,) = [record for record in caplog.records if record.name == "service.access"]
    assert getattr(record, "prompt", None) == (["abc"] if is_logged else None)


def test_a_model_that_is_too_long_for_a_name_is_not_logged_whole(make_site, caplog):
    """Otherwise a request could add megabytes to the log."""
    caplog.set_level("INFO", "service.access")
    make_site().post(prompt="abc", model="characters " + 1000 * "x")
    (record,) = [record for record in caplog.records if record.name == "service.access"]
    assert record.model == "characters " + 89 * "x"
