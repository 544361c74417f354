"""What a webhook is sent, over a real connection."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from daemon.filter import EVERYTHING
from daemon.page import Missed
from daemon.sinks.batch import Batch, Skipped
from daemon.sinks.configuration import load
from daemon.sinks.news import News, Updates
from daemon.sinks.outcome import Fate, Outcome
from daemon.sinks.targets import SinkConfig, WebhookTarget
from daemon.sinks.webhook import Webhook, slack
from daemon.thread import DiskThread
from tests.daemon.stored import in_loop
from tests.support.events import TIME_US, item
from tests.support.receiver import Answer, Receiver

KEY = "0123456789abcdef0123456789abcdef"
DOCUMENT = Path(__file__).parents[3] / "docs" / "alarms.md"


def configured(directory: Path, url: str, more: str = "") -> SinkConfig:
    file = directory / "sinks.toml"
    file.write_text(f'[[sink]]\nname = "hook"\ntype = "webhook"\nurl = "{url}"\n{more}', encoding="utf-8")
    return load(file)[0]


def secret(path: Path, text: str = KEY) -> Path:
    path.write_text(f"{text}\n", encoding="ascii")
    path.chmod(0o600)
    return path


@asynccontextmanager
async def opened(config: SinkConfig) -> AsyncIterator[Webhook]:
    """The webhook of a configuration."""
    assert isinstance(config.target, WebhookTarget)
    disk = DiskThread("disk")
    memory = News(EVERYTHING, Updates.IMPORTANT, drills=False)
    webhook = Webhook(config.target, memory, agent="xidwatch/test", disk=disk)
    try:
        yield webhook
    finally:
        await webhook.close()
        disk.close()


def sent(config: SinkConfig, *batches: Batch) -> list[Outcome]:
    """What came of them, one after the other over one webhook."""

    async def main() -> list[Outcome]:
        async with opened(config) as webhook:
            return [await webhook.send(batch) for batch in batches]

    return in_loop(main)


def batch(*cursors: int, **changes: Any) -> Batch:
    return Batch("hook", "test-node", TIME_US, [item(cursor) for cursor in cursors], **changes)


def documented_check() -> Callable[..., bool]:
    """`is_genuine` as docs/alarms.md prints it."""
    (source,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(source, names)  # noqa: S102 (the document's own example)
    check: Callable[..., bool] = names["is_genuine"]
    return check


def test_a_body_is_signed_so_that_the_documented_check_takes_it_and_nothing_else(tmp_path: Path) -> None:
    with Receiver() as receiver:
        key = secret(tmp_path / "key")
        (outcome,) = sent(configured(tmp_path, receiver.url, f'secret-file = "{key}"'), batch(1))
    assert outcome == Outcome(Fate.DELIVERED, "200 OK")
    post = receiver.taken[0]
    header, is_genuine = post.headers["x-xidwatch-signature"], documented_check()
    assert is_genuine(KEY, header, post.body)
    assert not is_genuine(KEY, header, post.body + b" ")
    assert not is_genuine(KEY[::-1], header, post.body)
    assert not is_genuine(KEY, header.replace("t=1", "t=2"), post.body)
    assert not is_genuine(KEY, header, post.body, within_s=-1)


def test_openssl_makes_the_same_signature(tmp_path: Path) -> None:
    with Receiver() as receiver:
        key = secret(tmp_path / "key")
        sent(configured(tmp_path, receiver.url, f'secret-file = "{key}"'), batch(1))
    post = receiver.taken[0]
    seconds, digest = re.fullmatch(
        r"t=(\d+),v1=([0-9a-f]{64})", post.headers["x-xidwatch-signature"]
    ).groups()  # type: ignore[union-attr]  # asserts that it matches
    made = subprocess.run(
        ["openssl", "dgst", "-sha256", "-hmac", KEY],
        input=f"{seconds}.".encode() + post.body,
        capture_output=True,
        check=True,
    )
    assert made.stdout.decode().split()[-1] == digest


def test_a_body_has_everything_in_the_documented_form(tmp_path: Path) -> None:
    with Receiver() as receiver:
        notices = batch(3, 4, missed=Missed(1, 2), skipped=[Skipped(2, "ev_2", "400 Bad Request")])
        sent(configured(tmp_path, receiver.url + "/a?b=c"), notices, batch(5, is_test=True))
    first, second = (post.json for post in receiver.taken)
    assert receiver.taken[0].path == "/a?b=c"
    assert receiver.taken[0].headers["content-type"] == "application/json"
    assert receiver.taken[0].headers["user-agent"] == "xidwatch/test"
    assert {key: first[key] for key in first if key != "events"} == {
        "schema": 1,
        "type": "events",
        "sink": "hook",
        "node": "test-node",
        "sent": "2026-11-22T11:20:06.994671Z",
        "missed": {"first": 1, "last": 2},
        "skipped": [{"cursor": 2, "id": "ev_2", "reason": "400 Bad Request"}],
    }
    assert [event["cursor"] for event in first["events"]] == [3, 4]
    assert first["events"][0] == json.loads(item(3).json)
    assert second["type"] == "test"
    shown = re.search(
        r'```json\n(\{"schema": 1, "type".*?)```', DOCUMENT.read_text(encoding="utf-8"), re.DOTALL
    )
    assert shown is not None
    assert json.loads(shown[1]).keys() == first.keys()


def test_headers_come_from_the_file_and_a_replaced_token_is_taken_up_after_a_refusal(tmp_path: Path) -> None:
    token = secret(tmp_path / "token", "Bearer old")

    def answer(received: Any) -> Answer:
        return Answer(200 if received.headers["authorization"] == "Bearer new" else 401)

    async def main(config: SinkConfig) -> list[Outcome]:
        async with opened(config) as webhook:
            first = await webhook.send(batch(1))
            secret(token, "Bearer new")
            second = await webhook.send(batch(1))
            token.unlink()
            return [first, second, await webhook.send(batch(1))]

    with Receiver(answer) as receiver:
        more = f'headers = {{ X-Team = "gpu" }}\nheader-files = {{ Authorization = "{token}" }}'
        config = configured(tmp_path, receiver.url, more)
        outcomes = in_loop(lambda: main(config))
    assert [outcome.fate for outcome in outcomes] == [Fate.CLOSED, Fate.CLOSED, Fate.DELIVERED]
    assert receiver.taken[0].headers["x-team"] == "gpu"


@pytest.mark.parametrize(
    ("answer", "fate", "said"),
    [
        (Answer(503, {"retry-after": "7"}, b"later"), Fate.AWAY, "503 Service Unavailable: later"),
        (Answer(400, body=b"\x1b[31mno\x00"), Fate.REFUSED, r"400 Bad Request: \x1b[31mno\x00"),
        (Answer(302, {"location": "http://127.0.0.1:9/"}, b""), Fate.CLOSED, "302 Found"),
        (Answer(closes=True), Fate.AWAY, "Server disconnected without sending a response."),
        (Answer(hangs=True), Fate.AWAY, "no answer within 0.3 s"),
    ],
)
def test_each_way_of_not_taking_it_is_told_apart(
    tmp_path: Path, answer: Answer, fate: Fate, said: str
) -> None:
    with Receiver(lambda received: answer) as receiver:
        (outcome,) = sent(configured(tmp_path, receiver.url, 'timeout = "300ms"'), batch(1))
        receiver.ended.set()
    assert (outcome.fate, outcome.said) == (fate, said)
    assert outcome.retry_after_s == (7.0 if answer.headers.get("retry-after") else None)


@pytest.mark.parametrize(
    ("begins", "outcome"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", Outcome(Fate.DELIVERED, "200 OK")),
        (b"HTTP/1.1 200 OK\r\nx-y: ", Outcome(Fate.AWAY, "no answer within 0.3 s")),
    ],
)
def test_an_answer_that_trickles_is_cut_off_and_counts_once_its_status_is_there(
    tmp_path: Path, begins: bytes, outcome: Outcome
) -> None:
    async def main() -> Outcome:
        async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(begins)
            try:
                while True:
                    writer.write(b"x")
                    await writer.drain()
                    await asyncio.sleep(0.01)
            except ConnectionError:
                writer.close()

        server = await asyncio.start_server(trickle, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        config = configured(tmp_path, f"http://127.0.0.1:{port}", 'timeout = "300ms"')
        async with server, opened(config) as webhook:
            return await webhook.send(batch(1))

    assert in_loop(main) == outcome


def test_a_url_file_may_come_to_name_an_encrypted_place(tmp_path: Path) -> None:
    file, place = tmp_path / "sinks.toml", tmp_path / "url"
    file.write_text(f'[[sink]]\nname = "hook"\ntype = "webhook"\nurl-file = "{place}"\n', encoding="utf-8")

    async def main(url: str) -> list[Outcome]:
        async with opened(load(file)[0]) as webhook:
            first = await webhook.send(batch(1))
            secret(place, url.replace("http:", "https:"))
            return [first, await webhook.send(batch(1)), await webhook.send(batch(1))]

    with Receiver(lambda received: Answer(404)) as receiver:
        secret(place, receiver.url)
        first, second, third = in_loop(lambda: main(receiver.url))
    assert first.said == second.said == "404 Not Found: ok"
    assert third.fate is Fate.AWAY
    assert third.said.startswith("TLS failed: ")


def test_nobody_there_and_a_name_that_does_not_resolve_are_said_in_words(tmp_path: Path) -> None:
    with Receiver() as receiver:
        url = receiver.url
    (nobody,) = sent(configured(tmp_path, url), batch(1))
    assert nobody == Outcome(Fate.AWAY, "connection refused")
    (unknown,) = sent(configured(tmp_path, "http://no-such-host.invalid"), batch(1))
    assert unknown.fate is Fate.AWAY
    assert unknown.said != ""


def test_a_certificate_that_is_not_trusted_is_refused_and_one_of_the_ca_file_is_taken(tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-keyout", str(key), "-out", str(certificate), "-subj", "/CN=127.0.0.1"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )

    async def main(more: str) -> Outcome:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")
            writer.close()

        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, key)
        server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        config = configured(tmp_path, f"https://127.0.0.1:{port}", more)
        async with server, opened(config) as webhook:
            return await webhook.send(batch(1))

    untrusted = in_loop(lambda: main(""))
    assert untrusted.fate is Fate.AWAY
    assert "certificate is not trusted: self-signed certificate" in untrusted.said
    assert in_loop(lambda: main(f'ca-file = "{certificate}"')).is_delivered


def test_a_chat_is_sent_one_line_an_event_in_which_log_text_calls_nobody() -> None:
    told = json.loads(slack(batch(1, missed=Missed(1, 2))))["text"]
    assert told.splitlines()[0] == (
        "FATAL test-node, GPU 3 (0000:91:00.0): Xid 79: GPU no longer answers on PCIe"
    )
    assert "&gt;" not in told.splitlines()[1]
    assert told.splitlines()[1] == "> Reboot the node."
    assert "cursors 1 to 2" in told
    nasty = Batch("hook", "n", TIME_US, [item(1, summary="<!channel> \x1b[31m <http://x|y> & \n*")])
    told = json.loads(slack(nasty))["text"]
    assert "<" not in told
    assert "&lt;!channel&gt;" in told
    assert "\x1b" not in told
    many = json.loads(slack(batch(*range(1, 31))))["text"]
    assert many.endswith("and 10 more")
    assert json.loads(slack(batch(1, is_test=True)))["text"].startswith("*TEST ALARM*")
