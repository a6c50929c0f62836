"""Making connections: what fails is named in our terms; TLS, proxies, forks."""

from __future__ import annotations

import contextlib
import inspect
import os
import socket
import ssl
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import requests.exceptions
import urllib3.exceptions

from proxy.errors import UpstreamError, UpstreamTimeout, UpstreamUnreachable
from proxy.net.transport import Transport
from proxy.net.watch import CallerConnection
from tests.support.calls import fetch, read_all, send, transport
from tests.support.certificates import Authority
from tests.support.outbound_proxies import HttpProxy, SocksProxy
from tests.support.rude import FullBacklog
from tests.support.server import free_port
from tests.support.upstream import HANG, Gate, Hold, Pause, Upstream, chat, raw, stream

Maker = Callable[..., Transport]
LOGIN = "user:pa%20ss"
LOGIN_PLAIN = "user:pa ss"


def failure(way: Transport) -> UpstreamError:
    with pytest.raises(UpstreamError) as caught:
        fetch(way)
    return caught.value


def test_refused_connection_is_unreachable(make_way: Maker) -> None:
    """Not a time-out, though urllib3's class for it derives from its time-outs."""
    found = failure(make_way(f"http://127.0.0.1:{free_port()}/v1"))
    assert type(found) is UpstreamUnreachable
    assert "refused" in found.message


def test_unknown_name_is_unreachable(make_way: Maker) -> None:
    """RFC 6761 section 6.4: .invalid never resolves."""
    found = failure(make_way("http://nowhere.invalid/v1"))
    assert type(found) is UpstreamUnreachable
    assert "name cannot be resolved" in found.message


def test_unknown_authority_is_unreachable(secure: Upstream, tmp_path: Path) -> None:
    """Another authority's bundle, and the public ones."""
    other = str(Authority().write(tmp_path / "other.pem"))
    for ca_bundle in (other, ""):
        found = failure(transport(secure.url, ca_bundle=ca_bundle))
        assert type(found) is UpstreamUnreachable
        assert "TLS failed" in found.message
        assert "certificate" in found.message


def test_certificate_of_another_host_is_unreachable(authority: Authority, make_way: Maker) -> None:
    """The name is checked."""
    with Upstream(tls=authority.server("elsewhere.example")) as upstream:
        found = failure(make_way(upstream.url))
    assert type(found) is UpstreamUnreachable
    assert "TLS failed" in found.message


def test_plain_upstream_behind_https_is_unreachable(plain: Upstream, make_way: Maker) -> None:
    """No TLS where it was expected."""
    plain.on_connect = [b"HTTP/1.1 400 Bad Request\r\n\r\n"]
    found = failure(make_way(plain.url.replace("http:", "https:")))
    assert type(found) is UpstreamUnreachable
    assert "TLS failed" in found.message


def test_missing_bundle_is_unreachable(secure: Upstream) -> None:
    """Gone since the configuration was read."""
    found = failure(transport(secure.url, ca_bundle="/nonexistent/ca.pem"))
    assert type(found) is UpstreamUnreachable


def test_bundle_may_be_a_directory(secure: Upstream, ca_bundle: Path, tmp_path: Path) -> None:
    """Of certificates by their hash, as OpenSSL has it; an empty one vouches for nobody."""
    assert "TLS failed" in failure(transport(secure.url, ca_bundle=str(tmp_path))).message


def test_unanswered_connect_is_a_timeout() -> None:
    """After connect-timeout, or what is left of the request's time."""
    with FullBacklog() as nobody:
        url = f"http://127.0.0.1:{nobody.port}/v1"
        began = time.monotonic()
        found = failure(transport(url, connect_timeout_s=0.2))
        assert type(found) is UpstreamTimeout
        assert 0.15 < time.monotonic() - began < 5
        way = transport(url, connect_timeout_s=60)
        reply = way.send(b"", b"", caller=CallerConnection(None), deadline=time.monotonic() + 0.2)
        with contextlib.closing(reply), pytest.raises(UpstreamTimeout):
            reply.head(time.monotonic() + 9)


def test_silent_tls_handshake_is_a_timeout(plain: Upstream, make_way: Maker) -> None:
    """The whole handshake has the time of one connect."""
    plain.on_connect = [HANG]
    way = make_way(plain.url.replace("http:", "https:"), connect_timeout_s=0.2)
    assert type(failure(way)) is UpstreamTimeout


def test_no_time_left_is_a_timeout(plain: Upstream, make_way: Maker) -> None:
    """Nothing is opened then."""
    with pytest.raises(UpstreamTimeout, match="no time was left"):
        make_way(plain.url).send(
            b"", b"", caller=CallerConnection(None), deadline=time.monotonic() - 1
        )
    assert plain.connections == 0


def subclasses(module: object, base: type[Exception]) -> list[type[Exception]]:
    found = dict.fromkeys(each for _, each in inspect.getmembers(module, inspect.isclass))
    return [each for each in found if issubclass(each, base) and not issubclass(each, Warning)]


LIBRARY_ERRORS = [
    *subclasses(urllib3.exceptions, urllib3.exceptions.HTTPError),
    *subclasses(requests.exceptions, Exception),
    *subclasses(ssl, OSError),
    *subclasses(socket, OSError),
    *(each for each in OSError.__subclasses__() if each.__module__ == "builtins"),
]
NAMES = [f"{kind.__module__}.{kind.__name__}" for kind in LIBRARY_ERRORS]


@pytest.mark.parametrize("kind", LIBRARY_ERRORS, ids=NAMES)
def test_library_error_is_mapped(
    kind: type[Exception], make_way: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each class that exists crosses the boundary, and a socket's time-out becomes one."""

    def fail(host: str) -> None:
        raise kind.__new__(kind)

    monkeypatch.setattr("proxy.net.opening.literal", fail)
    with pytest.raises(UpstreamError) as caught:
        fetch(make_way("http://h/v1"))
    expected = UpstreamTimeout if kind is TimeoutError else UpstreamUnreachable
    assert type(caught.value) is expected, caught.value


def test_tunnel_carries_https(secure: Upstream, make_way: Maker) -> None:
    """CONNECT once, TLS end to end inside, the connection kept; the key unseen by the proxy."""
    with HttpProxy() as proxy:
        way = make_way(secure.url, proxy_url=proxy.url)
        assert fetch(way, b'{"model":"m"}')[0] == 200
        assert fetch(way, b'{"model":"m"}')[0] == 200
        way.close()
        assert proxy.asked == [f"CONNECT 127.0.0.1:{secure.port}"]
    assert secure.received("k")[0].path == "/v1/chat/completions"


def test_absolute_form_carries_http(plain: Upstream, make_way: Maker) -> None:
    """RFC 9112 section 3.2.2."""
    with HttpProxy() as proxy:
        way = make_way(plain.url, proxy_url=proxy.url)
        assert fetch(way, b'{"model":"m"}')[0] == 200
        way.close()
        assert proxy.asked == [f"POST {plain.url}/chat/completions"]
    assert plain.received("k")[0].header["host"] == f"127.0.0.1:{plain.port}"


@pytest.mark.parametrize("kind", [HttpProxy, SocksProxy])
def test_proxy_gets_its_login(
    upstream: Upstream, make_way: Maker, kind: type[HttpProxy] | type[SocksProxy]
) -> None:
    """From its URL, and it never goes on to the upstream."""
    with kind(login=LOGIN_PLAIN) as proxy:
        way = make_way(upstream.url, proxy_url=proxy.url_for(LOGIN))
        assert fetch(way, b'{"model":"m"}')[0] == 200
        way.close()
    assert "proxy-authorization" not in upstream.received("k")[0].header


@pytest.mark.parametrize("kind", [HttpProxy, SocksProxy])
def test_refusing_proxy_is_named(
    secure: Upstream, make_way: Maker, kind: type[HttpProxy] | type[SocksProxy]
) -> None:
    """The message says that it was the proxy, and holds no password."""
    with kind(login=LOGIN_PLAIN) as proxy:
        found = failure(make_way(secure.url, proxy_url=proxy.url_for("user:wrong")))
    assert type(found) is UpstreamUnreachable
    assert "by way of its proxy" in found.message
    assert "407" in found.message or "SOCKS5 authentication failed" in found.message
    assert "wrong" not in found.message


@pytest.mark.parametrize("scheme", ["http", "socks5"])
def test_unreachable_proxy_is_named(upstream: Upstream, make_way: Maker, scheme: str) -> None:
    """Refused by the proxy's port, not the upstream's."""
    found = failure(make_way(upstream.url, proxy_url=f"{scheme}://127.0.0.1:{free_port()}"))
    assert type(found) is UpstreamUnreachable
    assert "by way of its proxy" in found.message
    assert "refused" in found.message


def test_socks_carries_both(upstream: Upstream, make_way: Maker) -> None:
    """Plain and TLS."""
    with SocksProxy() as proxy:
        way = make_way(upstream.url, proxy_url=proxy.url)
        assert fetch(way, b'{"model":"m"}')[0] == 200
        way.close()
        assert proxy.asked == [f"127.0.0.1:{upstream.port}"]


def test_socks5h_leaves_names_to_the_proxy(plain: Upstream, make_way: Maker) -> None:
    """So that names of its network can be reached."""
    with SocksProxy() as proxy:
        url = plain.url.replace("127.0.0.1", "localhost")
        way = make_way(url, proxy_url=proxy.url.replace("socks5", "socks5h"))
        fetch(way, b'{"model":"m"}')
        way.close()
        assert proxy.asked == [f"localhost:{plain.port}"]


@pytest.mark.parametrize("size", [20, 8 << 20])
def test_proxy_behind_tls_carries_both(
    upstream: Upstream, authority: Authority, make_way: Maker, size: int
) -> None:
    """https://proxy: absolute-form for http, TLS within TLS for https, large bodies too."""
    body = b'{"model":"m","x":"' + b"x" * size + b'"}'
    with HttpProxy(tls=authority.server()) as proxy:
        way = make_way(upstream.url, proxy_url=proxy.url)
        assert fetch(way, body)[0] == 200
        way.close()
    assert upstream.received("k")[0].body == body


def test_environments_proxies_and_netrc_are_not_used(
    plain: Upstream, make_way: Maker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A netrc entry would replace the key; a proxy would see it."""
    nowhere = f"http://127.0.0.1:{free_port()}"
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, nowhere)
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login user password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nonexistent")
    assert fetch(make_way(plain.url), b'{"model":"m"}')[0] == 200
    assert plain.received("k")[0].header["authorization"] == "Bearer k"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("", "/chat/completions"),
        ("/", "/chat/completions"),
        ("/v1", "/v1/chat/completions"),
        ("/v1/", "/v1/chat/completions"),
        ("/a%20b/v1", "/a%20b/v1/chat/completions"),
    ],
)
def test_base_url_may_have_any_path(
    plain: Upstream, make_way: Maker, path: str, expected: str
) -> None:
    """Endpoints go below it."""
    plain.reply("k", chat("a"))
    assert fetch(make_way(plain.origin + path))[0] == 200
    assert plain.received("k")[0].path == expected


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://api.example.com/v1", "api.example.com"),
        ("http://[::1]:8080/v1", "[::1]:8080"),
        ("http://user:secret@h:1/v1", "h:1"),
        ("http://b\u00fccher.example/v1", "xn--bcher-kva.example"),
    ],
)
def test_host_is_the_urls(url: str, host: str) -> None:
    """With its port, in ASCII, without a login."""
    head = transport(url).head("POST", "/x", {})
    assert head.startswith(f"POST /v1/x HTTP/1.1\r\nHost: {host}\r\n".encode())
    assert b"secret" not in head


def test_given_headers_replace_the_transports() -> None:
    """One line per name, whatever its case."""
    head = transport("http://h").head("GET", "/x", {"host": "other", "ACCEPT-ENCODING": "gzip"})
    assert head == b"GET /x HTTP/1.1\r\nhost: other\r\nACCEPT-ENCODING: gzip\r\n"


def test_ipv6_is_reached(make_way: Maker) -> None:
    """Brackets in the URL, none in the address."""
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        way = make_way(f"http://[::1]:{listener.getsockname()[1]}/v1")
        reply = send(way)
        assert not reply.head(time.monotonic())
        peer, _ = listener.accept()
        with peer:
            peer.recv(1000)
            peer.sendall(chat("a").wire_bytes())
            assert read_all(reply)
            reply.close()
            way.close()


def test_server_name_is_sent(authority: Authority, make_way: Maker) -> None:
    """SNI is the URL's host name."""
    names: list[str | None] = []
    context = authority.server()
    context.sni_callback = lambda _sock, name, _context: names.append(name)
    with Upstream(tls=context) as upstream:
        fetch(make_way(upstream.url.replace("127.0.0.1", "localhost")), b'{"model":"m"}')
    assert names == ["localhost"]


FORKING = """
    import os, sys
    sys.path.insert(0, {root!r})
    from tests.support.calls import fetch, transport
    way = transport({url!r}, ca_bundle={ca!r})
    assert fetch(way, b'{{"model":"m"}}')[0] == 200
    if child := os.fork():
        assert os.waitpid(child, 0)[1] == 0
        assert fetch(way, b'{{"model":"m"}}')[0] == 200
        way.close()
    else:
        status = 1
        try:
            assert fetch(way, b'{{"model":"m"}}')[0] == 200
            way.close()
            status = 0
        finally:
            os._exit(status)
"""


def test_forked_child_opens_its_own_connection(upstream: Upstream, ca_bundle: Path) -> None:
    """Parent and child never share a socket; the parent's stays usable."""
    root = str(Path(__file__).parents[2])
    code = textwrap.dedent(FORKING).format(root=root, url=upstream.url, ca=str(ca_bundle))
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env={**os.environ})
    assert [each.connection for each in upstream.received("k")] == [1, 2, 1]


def test_slow_answer_is_no_connect_timeout(upstream: Upstream, make_way: Maker) -> None:
    """connect-timeout ends with the connection."""
    gate = Gate()
    upstream.reply("k", raw(Pause(1.2), stream("a").wire_bytes(), Hold(gate)))
    way = make_way(upstream.url, connect_timeout_s=1.0)
    assert fetch(way)[0] == 200
    gate.set()
