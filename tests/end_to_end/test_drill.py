"""The main job, on the real kernel log: a line is written, and everyone who waits has it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from mcp import Client

from tests.support import real_kernel_log
from tests.support.command import Running, running, xidwatch
from tests.support.daemon import Daemon
from tests.support.metrics import metric
from tests.support.waiting import DEADLINE_S, wait_for

pytestmark = pytest.mark.kmsg


@pytest.fixture
def hearing_daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon on the real kernel log, drills allowed."""
    real_kernel_log.skip_unless_usable()
    daemon = Daemon(tmp_path, kmsg=real_kernel_log.KMSG, flags=["--allow-drills"])
    try:
        yield daemon.start()
    finally:
        daemon.stop()


def wait_for_xid(daemon: Daemon, era: str, gpu: str, since: int) -> Any:
    """What the SDK's client gets from a `wait_for_xid` that nothing but this GPU ends."""

    async def main() -> Any:
        async with asyncio.timeout(DEADLINE_S), Client(f"{daemon.url}/mcp", mode=era) as client:
            arguments = {"gpu": gpu, "since": since, "timeout_s": 600}
            return (await client.call_tool("wait_for_xid", arguments)).structured_content

    return asyncio.run(main())


def drill(*arguments: str) -> None:
    written = xidwatch("drill", *arguments)
    assert written.code == 0, written.err


@pytest.fixture
def gpu() -> str:
    """An address that no other line in the log names."""
    return f"{real_kernel_log.own_domain()}:91:00.0"


@pytest.mark.parametrize("exact", [False, True], ids=["marked", "exact"])
def test_a_drill_reaches_tail_curl_and_mcp_clients_of_both_eras_while_they_wait(
    hearing_daemon: Daemon, gpu: str, exact: bool
) -> None:
    daemon = hearing_daemon
    newest = int(metric(daemon, "xidwatch_newest_cursor"))
    curl = ["curl", "--silent", "--no-buffer", f"{daemon.url}/events?gpu={gpu}"]
    with (
        running("tail", "--follow", "--gpu", gpu, "--socket", str(daemon.socket)) as tail,
        subprocess.Popen(curl, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as curl_process,
        ThreadPoolExecutor() as pool,
    ):
        try:
            stream = Running(curl_process)
            waits: list[Future[Any]] = [
                pool.submit(wait_for_xid, daemon, era, gpu, newest) for era in ("legacy", "2026-07-28")
            ]
            wait_for(lambda: "event: hello" in stream.text(), "the hello of /events")
            wait_for(lambda: metric(daemon, 'xidwatch_clients{transport="socket"}') >= 1, "tail to follow")
            wait_for(lambda: metric(daemon, 'xidwatch_clients{transport="mcp"}') >= 2, "both to wait")
            assert not any(wait.done() for wait in waits)

            drill("79", "--pci", gpu, "--pid", "446", "--name", "python3", *(["--exact"] if exact else []))

            pages = [wait.result(DEADLINE_S) for wait in waits]
            [shown] = tail.wait_for_lines(1)[:1]
            data = wait_for(lambda: re.search(r"^data: (\{\"schema.*)$", stream.text(), re.M), "the event")
        finally:
            curl_process.kill()
    streamed = json.loads(data[1])
    for page in pages:
        assert page["timed_out"] is False
        assert {event["id"] for event in page["events"] if event["kind"] == "xid"} == {streamed["id"]}
        assert page["next_cursor"] >= streamed["cursor"] > newest
    assert streamed["code"] == 79
    assert streamed["gpu"]["pci"] == gpu
    assert streamed["process"]["pid"] == 446
    assert streamed["process"]["name"] == "python3"
    assert streamed["drill"] is True
    assert streamed["origin"] == "userspace"
    assert "79" in shown
    assert gpu.removesuffix(".0") in shown
    assert "[drill]" in shown


@pytest.mark.parametrize("exact", [False, True], ids=["marked", "exact"])
def test_without_allow_drills_a_written_line_is_counted_as_forged_and_is_no_event(
    tmp_path: Path, gpu: str, exact: bool
) -> None:
    real_kernel_log.skip_unless_usable()
    daemon = Daemon(tmp_path, kmsg=real_kernel_log.KMSG)
    try:
        daemon.start()
        before = metric(daemon, "xidwatch_forged_lines_total")
        drill("79", "--pci", gpu, *(["--exact"] if exact else []))
        wait_for(lambda: metric(daemon, "xidwatch_forged_lines_total") > before, "the line to be counted")
        told = xidwatch("status", "--json", "--socket", str(daemon.socket))
        assert json.loads(told.out)["counters"]["forged"] > before
        assert daemon.events(f"since=0&gpu={gpu}") == []
    finally:
        daemon.stop()


def test_a_line_written_while_no_daemon_ran_is_found_at_the_start(tmp_path: Path, gpu: str) -> None:
    real_kernel_log.skip_unless_usable()
    seq = real_kernel_log.write(real_kernel_log.drill_line(gpu.removesuffix(".0"), 79, os.getpid()))
    daemon = Daemon(tmp_path, kmsg=real_kernel_log.KMSG, flags=["--allow-drills"])
    try:
        daemon.start()
        if real_kernel_log.oldest() > seq:
            pytest.skip("another process has overwritten the kernel log meanwhile")
        [event] = wait_for(lambda: daemon.events(f"since=0&kind=xid&gpu={gpu}"), "the event")
        assert event["code"] == 79
        assert event["time_is_estimate"] is True
    finally:
        daemon.stop()
