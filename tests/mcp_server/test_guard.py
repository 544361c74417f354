"""Host, Origin, body size and the headers every answer carries."""

from __future__ import annotations

import mcp_types as types
import pytest

from mcp_server.admission import BODY_LIMIT
from mcp_server.guard import Hosts
from mcp_server.refused import Reason
from tests.mcp_server.serving import Served

EVERYWHERE = "0.0.0.0"  # noqa: S104  (a value to be parsed)
GUARDED = ["/events", "/events.json", "/version", "/mcp", "/no-such-path"]


@pytest.mark.parametrize("path", GUARDED)
def test_a_foreign_host_is_refused(served: Served, path: str) -> None:
    reply = served.get(path, {"Host": "rebound.example:8080"})
    assert (reply.status, reply.json["error"]) == (421, "host 'rebound.example:8080' is not this daemon")


@pytest.mark.parametrize("path", GUARDED)
def test_a_foreign_origin_is_refused(served: Served, path: str) -> None:
    assert served.get(path, {"Origin": "https://evil.example"}).status == 403


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_kubelet_and_prometheus_may_use_any_host(served: Served, path: str) -> None:
    assert served.get(path, {"Host": "10.1.2.3:8080"}).status == 200


def test_a_body_that_is_too_large_is_refused(served: Served) -> None:
    reply = served.get("/mcp", method="POST", body=b" " * (BODY_LIMIT + 1))
    assert (reply.status, reply.json["error"]["code"]) == (413, types.INVALID_REQUEST)
    assert "the body is longer than" in reply.json["error"]["message"]


def test_a_body_that_hides_its_length_is_refused_too(served: Served) -> None:
    reply = served.get(
        "/mcp",
        {"Transfer-Encoding": "chunked", "Content-Type": "application/json"},
        method="POST",
        body=b"%x\r\n%s\r\n0\r\n\r\n" % (BODY_LIMIT + 1, b" " * (BODY_LIMIT + 1)),
    )
    assert reply.status == 413


def test_every_answer_carries_the_date_and_keeps_browsers_out(served: Served) -> None:
    for path in ("/version", "/no-such-path", "/events?since=x"):
        headers = served.get(path).headers
        assert headers["date"].endswith("GMT")
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert "server" not in headers


@pytest.mark.parametrize(
    ("listen", "authority", "ours"),
    [
        ("127.0.0.1", "127.0.0.1:8080", True),
        ("127.0.0.1", "LOCALHOST", True),
        ("127.0.0.1", "[::1]:8080", True),
        ("127.0.0.1", "gpu-17:8080", True),
        ("127.0.0.1", "gpu-17.:8080", True),
        ("127.0.0.1", "10.0.0.5:8080", False),
        ("localhost", "10.0.0.5:8080", False),
        ("127.0.0.1", "localhost.evil.example", False),
        ("127.0.0.1", "", False),
        ("127.0.0.1", "localhost:port", False),
        ("127.0.0.1", "user@localhost", False),
        ("127.0.0.1", "[::1", False),
        (EVERYWHERE, "10.0.0.5:8080", True),
        (EVERYWHERE, "[fd00::5]:8080", True),
        (EVERYWHERE, "evil.example", False),
        ("node.example", "node.example:8080", True),
    ],
)
def test_which_hosts_are_ours(listen: str, authority: str, ours: bool) -> None:
    assert Hosts(listen, {"gpu-17"}).names_us(authority) is ours


@pytest.mark.parametrize(
    ("origin", "trusted"),
    [
        ("http://10.0.0.5:8080", True),
        ("http://localhost:3000", True),
        ("https://127.0.0.1", True),
        ("http://10.0.0.6:8080", False),
        ("http://10.0.0.5:8081", False),
        ("null", False),
        ("file://", False),
        ("chrome-extension://abc", False),
        ("http://localhost@evil.example", False),
    ],
)
def test_which_origins_are_trusted(origin: str, trusted: bool) -> None:
    assert Hosts(EVERYWHERE).trusts(origin, "10.0.0.5:8080") is trusted


@pytest.mark.parametrize(
    ("listen", "said"),
    [
        ("127.0.0.1", "localhost, a loopback address or gpu-17"),
        (EVERYWHERE, "localhost, an IP address or gpu-17"),
        ("node.example", "localhost, an IP address, gpu-17 or node.example"),
    ],
)
def test_a_refusal_of_a_name_says_which_ones_are_taken_and_how_to_add_one(listen: str, said: str) -> None:
    hint = Hosts(listen, {"gpu-17"}).hint
    assert said in hint
    assert "--node-name" in hint
    assert "--listen" in hint


def test_further_names_and_origins_are_taken_as_they_are_written() -> None:
    hosts = Hosts("127.0.0.1", {"gpu-17.example"}, {"https://dash.example"})
    assert hosts.names_us("GPU-17.example:8443")
    assert not hosts.names_us("other.example")
    assert hosts.trusts("https://dash.example", "localhost:8080")
    assert hosts.trusts("HTTPS://DASH.EXAMPLE", "localhost:8080")
    for other in ("http://dash.example", "https://dash.example:8443", "https://a.dash.example"):
        assert not hosts.trusts(other, "localhost:8080")


def test_what_is_refused_for_its_host_or_origin_is_counted(served: Served) -> None:
    served.get("/events", {"Host": "rebound.example"})
    served.get("/events", {"Origin": "https://evil.example"})
    counts = served.services.access.refusals.counts()
    assert (counts[Reason.HOST], counts[Reason.ORIGIN]) == (1, 1)
