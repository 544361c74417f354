"""A receiver that misbehaves: nothing is taken elsewhere, nothing is kept, nobody waits for it."""

from __future__ import annotations

import asyncio
import gzip
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from daemon.otlp.receiver import Answer, Receiver
from daemon.otlp.target import OtlpTarget, target
from daemon.sinks.outcome import Fate
from probes.errors import UserError
from tests.support.waiting import DEADLINE_S

pytest.importorskip("opentelemetry.sdk", reason="the extra [otel] is not installed")


@contextmanager
def answering(say: Callable[[socket.socket], None]) -> Iterator[tuple[str, list[bytes]]]:
    """A server that reads a request and answers with `say`; its URL, and what it was asked."""
    asked: list[bytes] = []
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listening.accept()
                with connection, suppress(OSError):
                    asked.append(connection.recv(65_536))
                    say(connection)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", asked
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join()


def post(url: str, timeout_s: float = 10.0) -> Answer:
    async def main() -> Answer:
        receiver = Receiver(
            OtlpTarget(url, {}, {"x-key": "s3cret"}), "logs", version="1", timeout_s=timeout_s
        )
        try:
            return await receiver.post(b"body")
        finally:
            await receiver.close()

    return asyncio.run(main())


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_takes_no_secret_to_another_host(status: int) -> None:
    with answering(lambda connection: None) as (elsewhere, asked_elsewhere):
        head = f"HTTP/1.1 {status} Moved\r\nlocation: {elsewhere}/v1/logs\r\ncontent-length: 0\r\n\r\n"
        with answering(lambda connection: connection.sendall(head.encode())) as (url, asked):
            assert post(url).outcome.fate is Fate.CLOSED
    assert b"s3cret" in asked[0]
    assert asked_elsewhere == []


def test_an_answer_that_never_ends_is_cut() -> None:
    def for_ever(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            connection.sendall(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")

    with answering(for_ever) as (url, _):
        answer = post(url)
    assert answer.outcome.is_delivered
    assert len(answer.content) == 65_536


def test_an_answer_that_was_packed_is_not_unpacked() -> None:
    packed = gzip.compress(bytes(10_000_000))
    head = f"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {len(packed)}\r\n\r\n"
    with answering(lambda connection: connection.sendall(head.encode() + packed)) as (url, asked):
        assert len(post(url).content) <= len(packed)
    assert b"accept-encoding: identity" in asked[0].lower()


def test_a_receiver_that_says_nothing_is_away_after_the_deadline() -> None:
    silent = threading.Event()

    def wait(connection: socket.socket) -> None:
        silent.wait(DEADLINE_S)

    with answering(wait) as (url, _):
        outcome = post(url, timeout_s=0.1).outcome
        silent.set()
    assert (outcome.fate, outcome.said) == (Fate.AWAY, "no answer within 0.1 s")


def test_certificates_that_are_none_are_the_users_error(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("no certificate")
    environ = {"OTEL_EXPORTER_OTLP_CERTIFICATE": str(file)}
    with pytest.raises(UserError, match="holds no certificate in PEM form"):
        target("https://collector", node="gpu-17", version="1", environ=environ)


def test_a_header_that_http_would_refuse_is_found_at_start_and_its_secret_is_not_shown() -> None:
    environ = {"OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20s3cret%01x"}
    with pytest.raises(UserError, match="the value of authorization is not printable") as refused:
        target("http://collector", node="gpu-17", version="1", environ=environ)
    assert "s3cret" not in refused.value.message
