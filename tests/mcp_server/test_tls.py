"""HTTPS over real sockets: what clients get, and how the certificate follows its files."""

from __future__ import annotations

import http.client
import json
import logging
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from mcp_server import tls, tls_files, tls_layer
from mcp_server.services import Transport
from probes.errors import UserError
from tests.door.table import ENDPOINTS, WITHOUT_CERTIFICATE
from tests.mcp_server.samples import xid
from tests.mcp_server.serving import Served, SseReader
from tests.support.certificates import DAY, Authority, Https, put
from tests.support.waiting import DEADLINE_S, wait_for


@pytest.fixture
def https(tmp_path: Path) -> Https:
    """Files for a server."""
    return Https(tmp_path)


@pytest.fixture
def mutual(tmp_path: Path) -> Https:
    """Files for a server whose clients need certificates."""
    return Https(tmp_path, mutual=True)


@pytest.fixture
def served(https: Https) -> Iterator[Served]:
    """A server with them."""
    with Served(tls=https.files) as running:
        yield running


def connect(port: int, client: ssl.SSLContext) -> ssl.SSLSocket:
    """A connection that has shaken hands."""
    plain = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S)
    return client.wrap_socket(plain, server_hostname="127.0.0.1")


def subject_on(port: int, client: ssl.SSLContext) -> str:
    """The common name of the certificate that a new connection is shown."""
    with connect(port, client) as connection:
        found = connection.getpeercert()
        assert found is not None
        return str(dict(part[0] for part in found["subject"])["commonName"])  # type: ignore[misc]


def failed_handshakes(served: Served) -> int:
    """How many connections ended before they were encrypted."""
    assert served.tls is not None
    return served.tls.report().failed_handshakes


def more_than(number: int, served: Served) -> bool:
    """Whether more connections than that failed."""
    return failed_handshakes(served) > number


# -- what clients get ----------------------------------------------------------------------------


def test_every_path_is_answered_over_https(https: Https, served: Served) -> None:
    status, body = https.get(served.port, "/version")
    assert (status, json.loads(body)["version"]) == (200, "0.0.test")


def test_a_client_that_does_not_know_the_authority_does_not_connect(https: Https, served: Served) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        https.get(served.port, "/healthz", https.client(trusts=Authority("another")))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_1_2_and_1_3_are_spoken_with_http_1_1(
    https: Https, served: Served, version: ssl.TLSVersion
) -> None:
    client = https.client()
    client.minimum_version = client.maximum_version = version
    client.set_alpn_protocols(["h2", "http/1.1"])
    with connect(served.port, client) as connection:
        assert connection.version() == version.name.replace("TLSv1_", "TLSv1.")
        assert connection.selected_alpn_protocol() == "http/1.1"
        cipher = connection.cipher()
        assert cipher is not None
        assert cipher[0].startswith(("TLS_", "ECDHE-"))


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
def test_tls_1_1_is_refused(https: Https, served: Served) -> None:
    client = https.client()
    client.set_ciphers("DEFAULT:@SECLEVEL=0")
    client.minimum_version = client.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
        connect(served.port, client)
    wait_for(lambda: failed_handshakes(served) == 1, "the refusal to be counted")


def test_who_forgets_the_s_of_https_is_told(served: Served) -> None:
    reply = served.get("/healthz")
    assert reply.status == 400
    assert b"https://" in reply.body


def test_events_arrive_over_https(https: Https, served: Served) -> None:
    with connect(served.port, https.client()) as connection:
        connection.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        reader = SseReader(connection)
        for number in range(300):
            served.publish(xid(number=number))
        seen = [json.loads(reader.frame()["data"])["kmsg_seq"] for _ in range(300)]
        assert seen == list(range(300))


def test_a_body_of_many_records_arrives_whole(https: Https, served: Served) -> None:
    call = {"jsonrpc": "2.0", "id": 1, "method": "x" * 200_000}
    body = json.dumps(call).encode()
    with connect(served.port, https.client()) as connection:
        head = (
            "POST /mcp HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            "Accept: application/json, text/event-stream\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        connection.sendall(head.encode() + body)
        assert b"jsonrpc" in b"".join(iter(lambda: connection.recv(65_536), b""))


def test_a_reader_that_stops_reading_is_cut_over_https_too(
    https: Https, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_server.listener.STALLED_CLIENT_MS", 300)
    with Served(tls=https.files) as served:
        stalled = socket.socket()
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled.connect(("127.0.0.1", served.port))
        with https.client().wrap_socket(stalled, server_hostname="127.0.0.1") as client:
            client.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            readers = served.services.clients.counts
            wait_for(lambda: readers()[Transport.EVENTS] == 1, "the reader")
            sent = iter(range(1_000_000))

            def cut() -> bool:
                served.publish(*(xid(number=next(sent)) for _ in range(200)))
                return readers()[Transport.EVENTS] == 0

            wait_for(cut, "the stalled reader to be cut")


def test_a_handshake_that_does_not_end_is_not_waited_for(
    https: Https, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls_layer, "HANDSHAKE_S", 0.2)
    with Served(tls=https.files) as served:
        for half in (b"", b"\x16\x03\x01\x02\x00\x01\x00"):
            with socket.create_connection(("127.0.0.1", served.port), timeout=DEADLINE_S) as client:
                client.sendall(half)
                assert client.recv(1) == b""
        assert https.get(served.port, "/healthz")[0] == 200
        wait_for(lambda: served.listener.room.taken == 0, "the places to be free again")


# -- who the client is ---------------------------------------------------------------------------


def test_a_client_without_a_certificate_hears_that_one_is_required(mutual: Https) -> None:
    with Served(tls=mutual.files) as served:
        with pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"):
            mutual.get(served.port, "/healthz")
        stranger = mutual.client(Authority("strangers").client())
        with pytest.raises(ssl.SSLError, match="UNKNOWN_CA"):
            mutual.get(served.port, "/healthz", stranger)
        client = mutual.client(mutual.clients.client())
        assert mutual.get(served.port, "/healthz", client)[0] == 200
        wait_for(lambda: failed_handshakes(served) == 2, "the refusals to be counted")


def test_without_a_certificate_no_endpoint_of_the_table_of_the_door_is_reached(mutual: Https) -> None:
    assert WITHOUT_CERTIFICATE == "handshake refused"
    with Served(tls=mutual.files) as served:
        for endpoint in ENDPOINTS:
            refused = failed_handshakes(served)
            body = json.dumps(endpoint.body).encode() if endpoint.body is not None else None
            anonymous = http.client.HTTPSConnection(
                "127.0.0.1", served.port, timeout=DEADLINE_S, context=mutual.client()
            )
            with closing(anonymous), pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"):
                anonymous.request(endpoint.method, endpoint.path, body)
                anonymous.getresponse()
            wait_for(partial(more_than, refused, served), "the refusal to be counted")
        assert served.listener.server_state.total_requests == 0


def test_the_application_learns_the_clients_name(mutual: Https) -> None:
    seen: list[object] = []
    schemes: list[object] = []
    with Served(tls=mutual.files) as served:
        inner = served.app.router.app

        async def spy(scope, receive, send):  # type: ignore[no-untyped-def]  # any ASGI application
            seen.append(scope.get("extensions", {}).get("tls"))
            schemes.append(scope["scheme"])
            await inner(scope, receive, send)

        served.app.router.middleware_stack = spy
        mutual.get(served.port, "/healthz", mutual.client(mutual.clients.client("alice")))
    assert schemes == ["https"]
    assert seen == [
        {
            "client_cert_name": "CN=alice,O=Example",
            "client_cert_names": ["spiffe://example/alice"],
            "tls_version": "TLSv1.3",
            "cipher": "TLS_AES_256_GCM_SHA384",
        }
    ]


def test_a_client_authority_that_was_taken_away_lets_nobody_in_any_more(mutual: Https) -> None:
    alice = mutual.client(mutual.clients.client())
    # Where a session could be taken up again without showing a certificate.
    alice.maximum_version = ssl.TLSVersion.TLSv1_2
    with Served(tls=mutual.files) as served, connect(served.port, alice) as before:
        session = before.session
        assert mutual.files.client_ca is not None
        put(mutual.files.client_ca, Authority("the next clients").pem)
        with pytest.raises(ssl.SSLError, match="UNKNOWN_CA"):
            mutual.get(served.port, "/healthz", alice)
        plain = socket.create_connection(("127.0.0.1", served.port), timeout=DEADLINE_S)
        with (
            pytest.raises(ssl.SSLError),
            alice.wrap_socket(plain, server_hostname="127.0.0.1", session=session) as again,
        ):
            again.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            again.recv(1)
        before.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert before.recv(12) == b"HTTP/1.1 200", "what is open stays"


# -- how it follows its files --------------------------------------------------------------------


def test_a_new_certificate_is_shown_from_the_next_handshake_on(https: Https, served: Served) -> None:
    client = https.client()
    with connect(served.port, client) as before:
        for name in ("gpu-18", "gpu-19"):
            https.authority.server(name).write(https.files.certificate, https.files.key)
            assert subject_on(served.port, client) == name
        before.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert before.recv(12) == b"HTTP/1.1 200", "what is open stays"
    assert served.tls is not None
    assert served.tls.report().changes == 2


def test_the_links_of_a_kubernetes_secret_are_followed(tmp_path: Path) -> None:
    authority = Authority()
    for number, name in enumerate(("first", "second")):
        data = tmp_path / f"..{number}"
        data.mkdir()
        authority.server(name).write(data / "tls.crt", data / "tls.key")
    (tmp_path / "..data").symlink_to("..0")
    for name in ("tls.crt", "tls.key"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    files = tls_files.TlsFiles(tmp_path / "tls.crt", tmp_path / "tls.key", None)
    client = ssl.create_default_context(cadata=authority.pem.decode())
    with Served(tls=files) as served:
        assert subject_on(served.port, client) == "first"
        (tmp_path / "..data_tmp").symlink_to("..1")
        os.replace(tmp_path / "..data_tmp", tmp_path / "..data")  # noqa: PTH105  (as kubelet does)
        assert subject_on(served.port, client) == "second"


def test_files_that_cannot_be_used_change_nothing_and_are_told_once(
    https: Https, served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    new = https.authority.server("gpu-18")
    put(https.files.certificate, new.certificate)
    for _ in range(3):
        assert subject_on(served.port, https.client()) == "gpu-17"
    assert served.tls is not None
    assert "does not belong to" in str(served.tls.report().refused)
    assert caplog.text.count("does not belong to") == 1
    assert b"xidwatch_tls_files_refused 1.0" in https.get(served.port, "/metrics")[1]
    put(https.files.key, new.key)
    assert subject_on(served.port, https.client()) == "gpu-18"
    assert served.tls.report().refused is None
    assert b"xidwatch_tls_files_refused 0.0" in https.get(served.port, "/metrics")[1]


@pytest.mark.parametrize("size", [0, 1, 300, -2])
def test_a_half_written_certificate_changes_nothing(https: Https, served: Served, size: int) -> None:
    new = https.authority.server("gpu-18")
    whole = new.certificate + https.authority.pem
    https.files.key.write_bytes(new.key)
    https.files.certificate.write_bytes(whole[:size] if size >= 0 else whole[:-30])
    assert subject_on(served.port, https.client()) == "gpu-17"
    https.files.certificate.write_bytes(whole)
    assert subject_on(served.port, https.client()) == "gpu-18"


def test_files_that_are_gone_for_a_moment_change_nothing(https: Https, served: Served) -> None:
    aside = https.directory / "aside"
    https.files.certificate.rename(aside)
    assert https.get(served.port, "/healthz")[0] == 200
    assert served.tls is not None
    assert "no such file" in str(served.tls.report().refused)
    aside.rename(https.files.certificate)
    assert https.get(served.port, "/healthz")[0] == 200
    assert served.tls.report().refused is None
    assert served.tls.report().changes == 0


def test_an_expired_certificate_does_not_replace_one_that_is_valid(https: Https, served: Served) -> None:
    https.authority.server("old", (-2 * DAY, -DAY)).write(https.files.certificate, https.files.key)
    assert subject_on(served.port, https.client()) == "gpu-17"
    assert served.tls is not None
    assert "it expired on" in str(served.tls.report().refused)


def test_a_daemon_with_an_expired_certificate_starts_and_takes_the_next_one(
    https: Https, caplog: pytest.LogCaptureFixture
) -> None:
    https.authority.server("old", (-2 * DAY, -DAY)).write(https.files.certificate, https.files.key)
    with Served(tls=https.files) as served:
        assert "it expired on" in caplog.text
        with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
            https.get(served.port, "/healthz")
        https.authority.server("new").write(https.files.certificate, https.files.key)
        assert subject_on(served.port, https.client()) == "new"


def test_a_look_at_the_files_that_hangs_holds_up_no_handshake(
    https: Https, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "LOOK_S", 0.1)
    back = threading.Event()
    look = tls_files.signature

    def hang(files: tls_files.TlsFiles) -> tls_files.Signature:
        assert back.wait(DEADLINE_S)
        return look(files)

    monkeypatch.setattr(tls, "signature", hang)
    assert served.tls is not None
    try:
        for _ in range(3):
            assert https.get(served.port, "/healthz")[0] == 200
        assert served.tls.report().refused == "looking at the files does not end"
    finally:
        back.set()
    wait_for(lambda: served.tls and served.tls.report().refused is None, "the look to be over")
    https.authority.server("gpu-18").write(https.files.certificate, https.files.key)
    assert subject_on(served.port, https.client()) == "gpu-18"


def test_an_error_in_looking_at_the_files_holds_up_no_handshake(
    https: Https, served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(files: tls_files.TlsFiles) -> tls_files.Loaded:
        raise RuntimeError("a file that nobody thought of")

    monkeypatch.setattr(tls, "load", fail)
    https.authority.server("new").write(https.files.certificate, https.files.key)
    for _ in range(3):
        assert https.get(served.port, "/healthz")[0] == 200
    assert served.tls is not None
    assert served.tls.report().refused == "an error inside xidwatch: its log has the details"
    assert caplog.text.count("RuntimeError: a file that nobody thought of") == 1
    monkeypatch.undo()
    https.authority.server("newer").write(https.files.certificate, https.files.key)
    assert subject_on(served.port, https.client()) == "newer"


def test_an_idle_https_server_has_no_timer(https: Https) -> None:
    with Served(tls=https.files, idle_s=3600) as served:
        assert https.get(served.port, "/healthz")[0] == 200
        wait_for(lambda: served.listener.room.taken == 0, "the connection to be gone")
        timers = served.loop._scheduled  # type: ignore[attr-defined]  # asyncio shows its timers nowhere else
        wait_for(lambda: not [each for each in timers if not each.cancelled()], "no timer to be left")
        assert not served.loop.get_debug()


def test_status_tells_the_certificate(https: Https, served: Served) -> None:
    assert served.tls is not None
    told = served.tls.report().to_dict()
    assert told["subject"] == "CN=gpu-17,O=Example"
    assert told["names"] == ["gpu-17", "localhost", "127.0.0.1"]
    assert (told["is_valid"], told["refused"], told["client_certificates"]) == (True, None, False)


def test_files_that_can_be_used_are_what_doctor_wants(https: Https) -> None:
    assert tls_files.check(https.files).verdict == "ok"
    https.authority.server("soon", (-DAY, 2 * DAY)).write(https.files.certificate, https.files.key)
    assert tls_files.check(https.files).verdict == "warn"
    https.files.key.unlink()
    found = tls_files.check(https.files)
    assert (found.verdict, "no such file" in found.finding) == ("fail", True)
    assert tls_files.check(None).verdict == "off"


def test_an_error_of_the_settings_is_raised_at_once(https: Https) -> None:
    https.files.key.unlink()
    with pytest.raises(UserError, match="cannot read the TLS key"):
        tls.Tls(https.files)
