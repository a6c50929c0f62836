"""Through what companies put between: authorities of their own, proxies with a login, IPv6, no DNS.

Each account has one of these on its way, in one gateway; `tests/net` looks at each way closely.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.certificates import Authority
from tests.support.gateway import Gateway, run_python
from tests.support.outbound_proxies import HttpProxy, SocksProxy
from tests.support.server import free_port
from tests.support.upstream import Upstream

LOGIN = "tenant:s3cr3t-passw0rd"


def has_ipv6() -> bool:
    with suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


pytestmark = pytest.mark.skipif(not has_ipv6(), reason="there is no IPv6 here")


class Company:
    """A gateway with an account for each way, and what stands on these ways."""

    def __init__(self, stack: ExitStack, authority: Authority, ca: Path) -> None:
        enter = stack.enter_context
        self.plain, self.secure = enter(Upstream()), enter(Upstream(tls=authority.server()))
        self.six = enter(Upstream(tls=authority.server(), host="::1"))
        self.proxies: dict[str, HttpProxy | SocksProxy] = {
            "http": enter(HttpProxy(login=LOGIN)),
            "https": enter(HttpProxy(login=LOGIN, tls=authority.server())),
            "socks5": enter(SocksProxy(login=LOGIN)),
            "socks5h": enter(SocksProxy(login=LOGIN)),
            "http6": enter(HttpProxy(login=LOGIN, host="::1")),
            "socks6": enter(SocksProxy(login=LOGIN, host="::1")),
        }
        ways: dict[str, dict[str, Any]] = {
            "bundle": {"ca-bundle": str(ca)},
            "no-bundle": {},
            "six": {"base-url": self.six.url, "ca-bundle": str(ca)},
            "nowhere": {"base-url": "https://gateway.invalid/v1"},
            "nowhere-proxied": {"proxy-url": f"http://{LOGIN}@proxy.invalid:3128"},
            "refused-proxied": {"proxy-url": f"socks5://{LOGIN}@[::1]:{free_port('::1')}"},
        }
        for name, proxy in self.proxies.items():
            url = proxy.url_for(LOGIN).replace("socks5:", f"{name.replace('6', '5')}:")
            # The authority of an https proxy is in the same bundle.
            ways[name] = {"proxy-url": url, "ca-bundle": str(ca)}
            ways[f"{name}-six"] = {**ways[name], "base-url": self.six.url}
        wrong = self.proxies["http"].url_for(f"tenant:not-{LOGIN[7:]}")
        ways["wrong-login"] = {"proxy-url": wrong, "ca-bundle": str(ca)}
        ways["fallback"] = {"base-url": self.plain.url}
        for name in ("nowhere", "fallback"):
            ways[name]["models"] = [{"name": "m", "alias": alias} for alias in (name, "either")]
        self.config = {
            "request-retry": 1,
            "openai-compatibility": [
                {
                    "name": name,
                    "base-url": self.secure.url,
                    "api-keys": [f"sk-{name}-0123456789"],
                    "models": [{"name": "m", "alias": name}],
                    **way,
                }
                for name, way in ways.items()
            ],
        }
        self.gateway = enter(Gateway(self.config, secrets=[LOGIN.partition(":")[2]]))


@pytest.fixture(scope="module")
def company(authority: Authority, ca_bundle: Path) -> Iterator[Company]:
    with ExitStack() as stack:
        yield Company(stack, authority, ca_bundle)


@pytest.mark.parametrize(
    "way", ["bundle", "six", *("http", "https", "socks5", "socks5h", "http6", "socks6")]
)
def test_account_is_reached(company: Company, way: str) -> None:
    """An authority of the company's own, IPv6, and proxies of each kind, by IPv6 too."""
    assert company.gateway.chat(way).status == 200
    if way in company.proxies:
        asked = company.proxies[way].asked
        assert f"127.0.0.1:{company.secure.port}" in asked[-1]
        (received,) = company.secure.received(f"sk-{way}-0123456789")
        assert "proxy-authorization" not in received.header


@pytest.mark.parametrize("way", ["http", "https", "socks5", "socks5h", "http6", "socks6"])
def test_account_at_an_ipv6_address_is_reached_through_a_proxy(company: Company, way: str) -> None:
    """Its address goes to the proxy as IPv6 is written there."""
    assert company.gateway.chat(f"{way}-six").status == 200
    assert str(company.six.port) in company.proxies[way].asked[-1]


@pytest.mark.parametrize(
    ("way", "said"),
    [
        ("no-bundle", "certificate"),
        ("nowhere", "gateway.invalid"),
        ("nowhere-proxied", "by way of its proxy"),
        ("refused-proxied", "by way of its proxy"),
        ("wrong-login", "407"),
    ],
)
def test_account_that_is_not_reached_says_why(company: Company, way: str, said: str) -> None:
    """502, with what is wrong on its way; the proxy's password is neither here nor in the log."""
    answer = company.gateway.chat(way)
    assert answer.status == 502
    assert said in answer.error["message"], answer.error


def test_name_that_is_not_found_costs_one_attempt(company: Company) -> None:
    """Another account serves, if the model has one."""
    for _ in range(4):
        answer = company.gateway.chat("either")
        assert (answer.status, answer.headers["x-proxy-client"][:9]) == (200, "fallback/")


@pytest.mark.long
def test_check_masks_what_is_in_a_proxys_url(company: Company, tmp_path: Path) -> None:
    """It prints what would be served, and on which way."""
    file = tmp_path / "config.yaml"
    file.write_text(json.dumps(company.config))
    said = run_python("-m", "proxy", "check", str(file))
    assert "config.yaml: valid" in said
    assert LOGIN.partition(":")[2] not in said
