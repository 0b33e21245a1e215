import pytest

from canfar_batch.errors import AddressError
from canfar_batch.rest.addresses import is_loopback, is_official, origin, platform_url


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://ws-uv.canfar.net/skaha/v1", "https://ws-uv.canfar.net/skaha/v1"),
        ("https://ws-uv.canfar.net/skaha", "https://ws-uv.canfar.net/skaha/v1"),
        ("https://WS-UV.canfar.net:443/skaha/v1/", "https://ws-uv.canfar.net/skaha/v1"),
        ("https://ws-uv.canfar.net./skaha/v1/session", "https://ws-uv.canfar.net/skaha/v1"),
        ("https://ws-uv.canfar.net/skaha/v0", "https://ws-uv.canfar.net/skaha/v0"),
        ("ws-uv.canfar.net", "https://ws-uv.canfar.net/skaha/v1"),
        (" https://other.example:8443/a/b ", "https://other.example:8443/a/b/v1"),
        ("http://127.0.0.1:8080/skaha/v1", "http://127.0.0.1:8080/skaha/v1"),
        ("http://localhost:8080", "http://localhost:8080/skaha/v1"),
        ("http://[::1]:8080/skaha/", "http://[::1]:8080/skaha/v1"),
    ],
)
def test_all_spellings_of_an_address_become_one(text, url):
    assert platform_url(text) == url
    assert platform_url(url) == url


@pytest.mark.parametrize(
    "text",
    [
        "",
        "https://",
        "ftp://x/skaha",
        "http://ws-uv.canfar.net/skaha/v1",
        "http://127.0.0.1.example.org/skaha",
        "http://localhost.example.org/skaha",
        "https://me:password@host/skaha",
        "https://host/skaha?token=password",
        "https://host/skaha#password",
        "https://host:99999/skaha",
        "https://host:x/skaha",
        "https://good.example\\@evil.example/",
        "https://host/sk aha",
        "https://host/sk\naha",
        "https://höst/skaha",
        "https://[::1/skaha",
    ],
)
def test_unsafe_address_is_refused_and_no_password_echoed(text):
    with pytest.raises(AddressError) as caught:
        platform_url(text)
    assert "password" not in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_official_hosts_are_those_of_canfar_over_https():
    assert is_official(origin("https://ws-uv.canfar.net/skaha/v1"))
    assert is_official(origin("https://ws.cadc-ccda.hia-iha.nrc-cnrc.gc.ca/x"))
    for other in ("https://evilcanfar.net", "https://canfar.net.evil.example", "http://ws-uv.canfar.net"):
        assert not is_official(origin(other))


def test_loopback_addresses_are_this_machine():
    assert all(is_loopback(origin(f"http://{host}")) for host in ("127.0.0.1", "127.9.9.9", "[::1]", "localhost"))
    assert not any(is_loopback(origin(f"http://{host}")) for host in ("10.0.0.1", "0.0.0.0", "localhost.example"))


def test_misspelt_local_gets_a_suggestion():
    with pytest.raises(AddressError, match="'locl' is not the address of a platform; did you mean \"local\""):
        platform_url("locl")
    assert platform_url("https://localhost:8080").startswith("https://localhost:8080")
