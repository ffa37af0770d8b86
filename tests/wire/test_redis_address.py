"""From a URL to where a Redis is."""

import pytest

from trepid.errors import BrokerURLError
from trepid.wire.redis.address import SCHEMES, parse


def facts(url):
    found = parse(url)
    return found.kind, found.hosts, found.tls, found.path, found.service, found.database


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://host", ("server", (("host", 6379),), False, None, "", 0)),
        ("REDIS://host:1/", ("server", (("host", 1),), False, None, "", 0)),
        ("rediss://u:p@host/3", ("server", (("host", 6379),), True, None, "", 3)),
        ("redis://[::1]:7000/2", ("server", (("[::1]", 7000),), False, None, "", 2)),
        ("redis://host?db=4", ("server", (("host", 6379),), False, None, "", 4)),
        ("unix:///run/redis.sock?db=1", ("socket", (), False, "/run/redis.sock", "", 1)),
        ("redis+unix://:p@/run/a%20b.sock", ("socket", (), False, "/run/a b.sock", "", 0)),
        ("redis+sentinel://a,b:2/mine/5", ("sentinel", (("a", 26379), ("b", 2)), False, None, "mine", 5)),
        ("rediss+cluster://a:1,b:2", ("cluster", (("a", 1), ("b", 2)), True, None, "", 0)),
    ],
)
def test_forms(url, expected):
    assert facts(url) == expected


def test_passwords_may_hold_anything():
    assert parse("redis://us%40er:p%2Fw%3A@host").login.words == ("AUTH", "us@er", "p/w:")
    assert parse("redis://:p/w@x@host/1").login.words == ("AUTH", "default", "p/w@x")
    assert parse("redis://:p?w@host/1?prefix=x").login.words == ("AUTH", "default", "p?w")
    assert parse("redis://:p?w@host/1?prefix=x").prefix == "x"
    assert parse("redis://only-a-name@host").login.words == ("AUTH", "only-a-name", "")
    assert parse("redis://host").login.words == ()
    assert parse("redis+sentinel://a/s?sentinel_password=q@r").sentinel_login.words == ("AUTH", "default", "q@r")
    assert parse("redis+sentinel://:p@a/s?sentinel_password=q").sentinel_login.words == ("AUTH", "default", "q")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis:host", "two slashes are missing; write redis://user:password@host:6379/0"),
        ("redis://", "a host is missing"),
        ("redis://a,b", r"several hosts are redis\+sentinel: or redis\+cluster:"),
        ("redis://host:0", "0 is no port"),
        ("redis://host:99999", "99999 is no port"),
        ("redis://ho st", "a host cannot be read"),
        ("redis://host/name", "the database is a number"),
        ("redis://host/1/2", "too much after the host"),
        ("redis://host/1?db=2", "given twice"),
        ("redis://host?colour=red", "no option 'colour'; known are allow_eviction, db, prefix"),
        ("redis://host?prefix=a{b", "prefix is 1 to 100 of letters"),
        ("redis://host?ssl_ca_certs=/etc/hosts", "write rediss://"),
        ("rediss://host?ssl_ca_certs=/nowhere", "there is no such file"),
        ("rediss://host?ssl_ca_certs=/etc/hosts", "it holds no certificate"),
        ("unix://run/redis.sock", "absolute, after three slashes"),
        ("redis+sentinel://host", "the name of the service is missing"),
        ("redis+cluster://host/1", "the database 0 only"),
        ("http://host", "no Redis; write redis://"),
    ],
)
def test_what_is_wrong_is_said(url, reason):
    with pytest.raises(BrokerURLError, match=reason):
        parse(url)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_nothing_shown_holds_a_secret(scheme):
    rest = "/run/x.sock" if "unix" in scheme else ("host/service" if "sentinel" in scheme else "host")
    extra = "&sentinel_password=hunter2" if "sentinel" in scheme else ""
    found = parse(f"{scheme}://user:hunter2@{rest}?prefix=p{extra}")
    assert "hunter2" not in f"{found} {found!r} {found.login!r} {found.endpoint()!r}"
    with pytest.raises(BrokerURLError) as caught:
        parse(f"{scheme}://user:hunter2@{rest}?wrong=1{extra}")
    assert "hunter2" not in f"{caught.value} {caught.value!r} {caught.value.args}"


def test_a_password_that_looks_like_an_option_is_not_shown():
    with pytest.raises(BrokerURLError, match="there is no such option") as caught:
        parse("redis://:hun?ter2=secret@host")
    assert "ter2" not in str(caught.value)
    assert "secret" not in str(caught.value)
