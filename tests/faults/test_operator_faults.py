"""Promise 6 attacked: acting on the node where that is off, and with confirmations that are not worth one.

The process that uses the GPU is real, and nvidia-smi is a script that notes each time it is run: what was
done is seen there, not in what the daemon says of it.
"""

from __future__ import annotations

import json
import os
import random
import socket
import string
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest

from daemon.gpu.process import sees_host_pids
from mcp_server.identity import Scope
from tests.mcp_server.speaking import MODERN, MODERN_META, Exchange, call
from tests.support import fake_nvml
from tests.support.daemon import Daemon
from tests.support.fake_nvml import Scenario
from tests.support.fault_lab import Happened, fault, rounds
from tests.support.kernel_log import FakeKernelLog
from tests.support.operator_node import Stranger, stranger
from tests.support.relay import INITIALIZE
from tests.support.token_file import TokenFileOnDisk, bearer
from tests.support.waiting import DEADLINE_S

pytestmark = pytest.mark.skipif(
    not sees_host_pids(), reason="this machine's pids are not those of the host: nothing may be killed by pid"
)

GPU: Final = 3
NO_INSTANCE: Final = 0xFFFFFFFF
ACTING: Final = ("kill_gpu_process", "reset_gpu")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_nvml.build(tmp_path_factory.mktemp("nvml"))


class Node:
    """A daemon with fake GPUs, a process on one of them, and a tool that only takes notes."""

    def __init__(
        self, directory: Path, log: FakeKernelLog, library: Path, process: Stranger, *flags: str
    ) -> None:
        self.process = process
        self._ran = directory / "ran"
        tool = directory / "bin" / "nvidia-smi"
        tool.parent.mkdir()
        tool.write_text(f'#!/bin/sh\necho "$@" >> {self._ran}\necho "GPU was successfully reset."\n')
        tool.chmod(0o755)
        fleet = Scenario(directory, library)
        held = (process.pid, 1 << 30, NO_INSTANCE, NO_INSTANCE)
        fleet.answers("nvmlDeviceGetComputeRunningProcesses_v3", *held, gpu=GPU)
        tokens = TokenFileOnDisk(directory / "tokens")
        self.reader = tokens.add("dash")
        self.operator = tokens.add("on-call", Scope.OPERATE)
        environ = {**fleet.environment(), "PATH": f"{tool.parent}:{os.environ['PATH']}"}
        flags = (*flags, "--token-file", str(tokens.path))
        self.daemon = Daemon(directory, kmsg=log.path, flags=flags, environ=environ, token=self.operator)

    @property
    def resets(self) -> int:
        """How often nvidia-smi was run."""
        return len(self._ran.read_text().splitlines()) if self._ran.exists() else 0

    def ask(self, message: Mapping[str, Any], secret: str | None = None) -> dict[str, Any]:
        """The answer to one request of 2026-07-28; {} where there is none that is JSON."""
        params = {**message.get("params", {}), "_meta": MODERN_META}
        headers = {
            **bearer(secret or self.operator),
            "MCP-Protocol-Version": MODERN,
            "Mcp-Method": str(message["method"]),
            "Mcp-Name": str(params.get("name", "")),
        }
        body = json.dumps({**message, "params": params}).encode()
        with Exchange(self.daemon.port, "POST", "/mcp", body, headers) as exchange:
            return last_message(exchange)

    def call(self, tool: str, secret: str | None = None, **arguments: Any) -> dict[str, Any]:
        """The answer to one call of a tool."""
        return self.ask(call(1, tool, **arguments), secret)


def last_message(exchange: Exchange) -> dict[str, Any]:
    """The answer, whether it came as JSON or as a stream."""
    exchange.head()
    if "event-stream" in exchange.headers.get("content-type", ""):
        return list(exchange.messages())[-1]
    with suppress(ValueError):
        answer: dict[str, Any] = exchange.json()
        return answer
    return {}


@contextmanager
def running(directory: Path, log: FakeKernelLog, library: Path, *flags: str) -> Iterator[Node]:
    with stranger() as process:
        node = Node(directory, log, library, process, *flags)
        try:
            node.daemon.start()
            yield node
            assert node.daemon.stop() == 0
            assert "Traceback" not in node.daemon.log.read_text()
        finally:
            node.daemon.kill()


def names(chance: random.Random) -> Iterator[str]:
    """The acting tools' names and what may pass for them."""
    for tool in ACTING:
        yield from (
            tool,
            tool.upper(),
            f" {tool}",
            f"{tool}\n",
            f"{tool}\x00",
            f"xidwatch.{tool}",
            f"/{tool}",
        )
        yield from (
            tool.replace("_", "-"),
            tool.replace("k", "\u212a"),
            f"{tool}\u200b",
            tool[:-1],
            f"{tool}/../x",
        )
    while True:
        yield "".join(chance.choices(string.printable, k=chance.randrange(1, 40)))


@fault("Operator tools asked for in read-only mode", promise=6, promised="there are none, whatever is asked")
def test_a_read_only_daemon_acts_on_nothing_whatever_it_is_asked(
    tmp_path: Path, kernel_log: FakeKernelLog, library: Path, happened: Happened
) -> None:
    chance = random.Random(7)
    times = rounds(short=60, long=5_000)
    with running(tmp_path, kernel_log, library) as node:
        asked: list[tuple[str, dict[str, Any]]] = []
        for _, name in zip(range(times), names(chance), strict=False):
            arguments = {
                "pid": node.process.pid,
                "gpu": chance.choice((str(GPU), [str(GPU)], GPU)),
                "force": True,
                "confirm": chance.choice((None, "", "x" * 64, 1)),
                "sigkill_after_s": 0,
                "mode": "operator",
            }
            asked.append((name, arguments))
        for tool in ACTING:
            for secret in (node.operator, node.reader):
                assert is_refused(node.call(tool, secret, **asked[0][1]))
        listed = node.ask({"jsonrpc": "2.0", "id": 1, "method": "tools/list"})["result"]["tools"]
        assert {tool["name"] for tool in listed}.isdisjoint(ACTING)
        assert not any(tool["annotations"].get("destructiveHint") for tool in listed)
        assert all(map(is_refused, over_the_socket(node.daemon.socket, asked)))
        assert (node.process.runs, node.resets) == (True, 0)
        assert not [event for event in node.daemon.events() if event["kind"] not in ("probe", "gap")]
    happened(
        f"{times + 4} calls by these names and others like them, over HTTP and the socket: each an error; "
        "the process runs, nothing was reset"
    )


def over_the_socket(path: Path, calls: Sequence[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """The answers to these calls on the unix socket, where root may operate."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(DEADLINE_S)
        connection.connect(str(path))
        begin = [{"xidwatch": {"want": "mcp"}}, INITIALIZE]
        connection.sendall(b"".join(json.dumps(each).encode() + b"\n" for each in begin))
        answers: list[dict[str, Any]] = []
        with connection.makefile("rb") as lines:
            lines.readline()
            for number, (tool, arguments) in enumerate(calls, 1):
                connection.sendall(json.dumps(call(number, tool, **arguments)).encode() + b"\n")
                while (message := json.loads(lines.readline())).get("id") != number:
                    pass
                answers.append(message)
    return answers


def confirmation(answer: Mapping[str, Any]) -> str:
    """The confirmation that goes with a plan."""
    content = answer["result"]["structuredContent"]
    assert content["status"] == "to_confirm", content
    found: str = content["confirm"]
    return found


def is_refused(answer: Mapping[str, Any]) -> bool:
    """An error, or an answer that says that nothing was done because it was asked for wrongly."""
    return "result" not in answer or bool(answer["result"].get("isError"))


@fault("A confirmation handed in many times at once", promise=6, promised="it is good once, for its own plan")
def test_of_many_that_hand_in_one_confirmation_one_acts(
    tmp_path: Path, kernel_log: FakeKernelLog, library: Path, happened: Happened
) -> None:
    times, at_once = rounds(short=3, long=50), 8
    with running(tmp_path, kernel_log, library, "--mode", "operator") as node:
        for done in range(times):
            free = str((GPU + 1 + done % 4) % 8)
            token = confirmation(node.call("reset_gpu", gpu=free))
            wrong = [
                node.call("reset_gpu", gpu=str((int(free) + 1) % 8), confirm=token),
                node.call("kill_gpu_process", pid=node.process.pid, confirm=token),
                node.call("reset_gpu", gpu=free, force=True, confirm=token),
                node.call("reset_gpu", gpu=free, confirm=token[:-1]),
                node.call("reset_gpu", gpu=free, confirm=token.swapcase()),
                node.call("reset_gpu", node.reader, gpu=free, confirm=token),
            ]
            assert all(map(is_refused, wrong))
            assert node.resets == done
            with ThreadPoolExecutor(at_once) as pool:
                handed_in = [
                    pool.submit(node.call, "reset_gpu", gpu=free, confirm=token) for _ in range(at_once)
                ]
            answers = [each.result() for each in handed_in]
            assert sum(not is_refused(answer) for answer in answers) == 1
            assert node.resets == done + 1
        assert node.process.runs
        written = [event for event in node.daemon.events() if "reset" in json.dumps(event).lower()]
        assert len(written) >= times
    happened(
        f"{times} confirmations, each handed in 6 times wrongly and {at_once} times at once: {times} resets, "
        "each on record"
    )
