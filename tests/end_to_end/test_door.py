"""The door of a real daemon: what it refuses to start with, and what a change of its token file does."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from mcp import Client
from mcp_types import CallToolResult, TextContent

from mcp_server.identity import Scope
from mcp_server.tokens import new_secret
from tests.support.command import xidwatch
from tests.support.daemon import Daemon
from tests.support.kernel_log import FakeKernelLog
from tests.support.token_file import TokenFileOnDisk, transport
from tests.support.waiting import DEADLINE_S, wait_for

LINE = f"a read sha256:{'0a' * 32}"
EVERYWHERE = "0.0.0.0:0"


@pytest.fixture
def disk(tmp_path: Path) -> TokenFileOnDisk:
    return TokenFileOnDisk(tmp_path / "tokens")


def start(tmp_path: Path, *flags: str) -> tuple[int, str]:
    """Exit code and words of a daemon that is not to start."""
    own = ("--socket", str(tmp_path / "s"), "--state-dir", str(tmp_path / "state"))
    found = xidwatch("serve", "--listen", "127.0.0.1:0", *own, "--kmsg", str(tmp_path / "none"), *flags)
    assert not (tmp_path / "state").exists(), "it touched its state before it refused"
    return found.code, found.err


BAD: list[tuple[str, Callable[[TokenFileOnDisk], object], str]] = [
    ("missing", lambda disk: None, "cannot read the token file"),
    ("world-readable", lambda disk: disk.write(f"{LINE}\n", 0o644), "has mode 0644"),
    ("half-written", lambda disk: disk.write(LINE[:40]), "half-written"),
    ("a bad line", lambda disk: disk.write("a admin sha256:00\n"), "line 1: the scope is none of"),
    ("a name twice", lambda disk: disk.write(f"{LINE}\n{LINE}\n"), "line 2: the name a is in line 1"),
    ("expired", lambda disk: disk.add("a", expires=1_000), "every token in"),
    ("empty", lambda disk: disk.write("\n"), "it holds no token"),
]


@pytest.mark.parametrize(("prepare", "said"), [each[1:] for each in BAD], ids=[each[0] for each in BAD])
def test_a_token_file_that_is_not_to_be_used_is_refused_at_start_with_a_hint(
    tmp_path: Path, disk: TokenFileOnDisk, prepare: Callable[[TokenFileOnDisk], object], said: str
) -> None:
    prepare(disk)
    code, words = start(tmp_path, "--token-file", str(disk.path))
    assert code == 2
    assert said in words
    assert "hint: " in words
    assert "Traceback" not in words


@pytest.mark.parametrize("address", [EVERYWHERE, "[::]:0", "198.51.100.7:0"])
def test_it_does_not_listen_beyond_loopback_when_nobody_has_to_show_anything(
    tmp_path: Path, address: str
) -> None:
    code, words = start(tmp_path, "--listen", address)
    assert code == 2
    assert f"{address} is reached from other machines" in words
    assert "--allow-anonymous" in words
    assert "xidwatch token NAME" in words


@pytest.mark.parametrize("flags", [("--allow-anonymous",), ("--token-file",)])
def test_it_listens_beyond_loopback_with_tokens_or_when_that_is_meant(
    tmp_path: Path, kernel_log: FakeKernelLog, disk: TokenFileOnDisk, flags: tuple[str, ...]
) -> None:
    secret = disk.add("dash") if flags == ("--token-file",) else None
    more = (*flags, str(disk.path)) if secret else flags
    daemon = Daemon(tmp_path, kmsg=kernel_log.path, flags=(), token=secret)
    wide = ("--listen", f"0.0.0.0:{daemon.port}")  # the last one counts
    daemon = Daemon(tmp_path, kmsg=kernel_log.path, flags=(*wide, *more), token=secret)
    daemon.port = int(wide[1].rpartition(":")[2])
    try:
        daemon.start()
        log = daemon.log.read_text()
        assert ("tokens cross the network in the clear" in log) is (secret is not None)
        assert ("anybody who reaches" in log) is (secret is None)
    finally:
        daemon.stop()


def test_a_bad_change_of_the_file_keeps_the_tokens_and_is_said_everywhere(
    tmp_path: Path, kernel_log: FakeKernelLog, disk: TokenFileOnDisk
) -> None:
    secret = disk.add("dash")
    daemon = Daemon(tmp_path, kmsg=kernel_log.path, flags=("--token-file", str(disk.path)), token=secret)
    try:
        daemon.start()
        whole = disk.text()
        disk.write(whole[:30])
        assert daemon.get("/version")[0] == 200
        metrics = daemon.get("/metrics")[1].decode()
        assert "xidwatch_token_file_in_force 0.0" in metrics
        assert "the 1 token read before stay in force" in daemon.log.read_text()
        status = xidwatch("status", "--socket", str(daemon.socket))
        assert "the token file is not in force" in status.out
        as_json = json.loads(xidwatch("status", "--json", "--socket", str(daemon.socket)).out)["access"]
        assert as_json["tokens"]["valid"] == ["dash"]
        assert "half-written" in as_json["tokens"]["problem"]
        disk.write(whole)
        assert "xidwatch_token_file_in_force 1.0" in daemon.get("/metrics")[1].decode()
        assert secret not in daemon.log.read_text() + status.out + json.dumps(as_json)
    finally:
        daemon.stop()


def test_the_socket_needs_no_token(tmp_path: Path, kernel_log: FakeKernelLog, disk: TokenFileOnDisk) -> None:
    secret = disk.add("dash")
    daemon = Daemon(tmp_path, kmsg=kernel_log.path, flags=("--token-file", str(disk.path)), token=secret)
    try:
        daemon.start()
        daemon.token = None
        assert daemon.get("/readyz")[0] == 401
        assert daemon.get("/healthz")[0] == 200
        assert xidwatch("status", "--ready", "--socket", str(daemon.socket)).code == 0
        assert xidwatch("tail", "--socket", str(daemon.socket)).code == 0
    finally:
        daemon.stop()


def test_a_token_that_is_made_while_the_daemon_runs_opens_it(
    tmp_path: Path, kernel_log: FakeKernelLog, disk: TokenFileOnDisk
) -> None:
    secret = disk.add("dash")
    daemon = Daemon(tmp_path, kmsg=kernel_log.path, flags=("--token-file", str(disk.path)), token=secret)
    try:
        daemon.start()
        made = xidwatch("token", "on-call", "--scope", "operate", "--expires", "1h", "--file", str(disk.path))
        assert made.code == 0
        daemon.token = made.out.strip()
        assert daemon.get("/version")[0] == 200
        wait_for(lambda: "new or changed: on-call" in daemon.log.read_text(), "the log to tell of it")
        assert made.out.strip() not in disk.path.read_text() + made.err + daemon.log.read_text()
        again = xidwatch("token", "on-call", "--file", str(disk.path))
        assert (again.code, "the name on-call is in line 2 already" in again.err) == (2, True)
        assert disk.path.stat().st_mode & 0o777 == 0o600
    finally:
        daemon.stop()


def test_a_token_is_printed_with_the_line_that_holds_its_hash() -> None:
    made = xidwatch("token", "grafana", "--expires", "2099-06-30")
    assert made.code == 0
    assert re.fullmatch(r"xidwatch_[A-Za-z0-9_-]{43}\n", made.out)
    [line] = re.findall(r"^grafana  read  sha256:[0-9a-f]{64}  expires=2099-07-01T00:00:00Z$", made.err, re.M)
    assert made.out.strip() not in line
    for arguments, said in (
        (("-name",), "--help"),
        (("a b",), "is no name for a token"),
        (("a", "--expires", "soon"), "is no end"),
        (("a", "--scope", "root"), "--scope"),
        (("a", "--file", "/proc/nowhere"), "cannot write the token file"),
    ):
        refused = xidwatch("token", *arguments)
        assert (refused.code, said in refused.err) == (2, True), refused.err


def test_a_token_is_not_added_to_a_file_that_is_none(tmp_path: Path) -> None:
    binary = tmp_path / "xidwatch.db"
    binary.write_bytes(b"SQLite format 3\0\xff\xfe\n")
    refused = xidwatch("token", "a", "--file", str(binary))
    assert (refused.code, refused.out) == (2, "")
    assert f"{binary} stays as it is: it is no text in UTF-8" in refused.err
    assert binary.read_bytes().startswith(b"SQLite format 3")


def test_doctor_says_who_may_come_in_and_never_a_secret(tmp_path: Path, disk: TokenFileOnDisk) -> None:
    def door(*flags: str) -> dict[str, str]:
        found = xidwatch("doctor", "--json", "--state-dir", str(tmp_path), *flags)
        [line] = [each for each in json.loads(found.out)["checks"] if each["name"] == "door"]
        assert isinstance(line, dict)
        return line

    disk.add("dash")
    disk.add("old", Scope.OPERATE, expires=1_000)
    asks = door("--token-file", str(disk.path))
    assert (asks["verdict"], asks["finding"]) == (
        "ok",
        f"HTTP asks for 1 token of {disk.path} (dash; expired: old)",
    )
    disk.write(f"a read {new_secret()}\n")
    assert door("--token-file", str(disk.path))["verdict"] == "fail"
    assert door()["finding"].startswith("HTTP is on loopback")
    assert door("--listen", EVERYWHERE)["verdict"] == "fail"
    assert door("--listen", EVERYWHERE, "--allow-anonymous")["verdict"] == "warn"


def test_over_http_without_a_token_nobody_operates_though_the_mode_is_operator(
    tmp_path: Path, kernel_log: FakeKernelLog
) -> None:
    daemon = Daemon(tmp_path, kmsg=kernel_log.path, flags=("--mode", "operator", "--gpu", "mock"))

    async def main() -> None:
        to = transport(f"{daemon.url}/mcp", None)
        async with asyncio.timeout(DEADLINE_S), Client(to, mode="legacy") as client:
            names = {tool.name for tool in (await client.list_tools()).tools}
            assert "get_gpu_health" in names
            assert names.isdisjoint({"kill_gpu_process", "reset_gpu"})
            result = await client.call_tool("reset_gpu", {"gpu": "0"})
            assert isinstance(result, CallToolResult)
            assert result.is_error
            [part] = result.content
            assert isinstance(part, TextContent)
            assert "without a token may read, and reset_gpu needs the scope operate" in part.text
            assert "--token-file" in part.text

    try:
        daemon.start()
        assert "through the unix socket only" in daemon.log.read_text()
        asyncio.run(main())
        [record] = wait_for(lambda: daemon.events("since=0&kind=operator"), "the record")
        assert record["detail"]["who"]["way"] == "anonymous"
        assert record["detail"]["outcome"] == "refused"
        assert record["severity"] == "warning"
        assert 'refused_requests_total{reason="scope"} 1.0' in daemon.get("/metrics")[1].decode()
    finally:
        daemon.stop()
