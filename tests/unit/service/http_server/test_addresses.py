"""Which `Host` headers are allowed, and the errors of listening sockets."""

import pytest

from service.http_server.addresses import is_allowed_host, is_loopback, listen


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "LOCALHOST:8000", "localhost.", "demo.localhost:8000"),
        *("127.0.0.1", "127.0.0.1:8000", "[::1]:8000", "[::1]", "10.0.0.7:8000", None),
    ],
)
def test_localhost_and_addresses_are_always_allowed(host):
    """DNS rebinding needs a name that resolves to this machine; a client without `Host` is no browser."""
    assert is_allowed_host(host)
    assert is_allowed_host(host, ["gateway"])


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:8000", "localhost.evil.example", "notlocalhost", "127.0.0.1.evil.example", ""),
        *("[evil.example]:8000", "evil.example:127.0.0.1", "localhost@evil.example", "127.1"),
    ],
)
def test_other_names_are_refused(host):
    assert not is_allowed_host(host)
    assert not is_allowed_host(host, ["gateway", "my.example"])


def test_additional_names_are_allowed():
    names = ["gateway", "my.example"]
    assert is_allowed_host("gateway:8000", names)
    assert is_allowed_host("MY.example.", names)
    assert not is_allowed_host("sub.my.example", names)
    assert is_allowed_host("evil.example", ["*"])


def test_a_label_that_is_too_long_is_not_loopback():
    assert not is_loopback("x" * 64)


def test_a_host_without_an_address_is_named_with_the_resolvers_message():
    with pytest.raises(OSError, match=r"^cannot listen on no\.such\.host\.invalid:8000: [^()]*[Nn]ame [^()]*$"):
        listen("no.such.host.invalid", 8000)
