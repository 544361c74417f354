"""NVML that errs, lies, crashes, hangs, and whose worker is killed or talks nonsense.

The library is the fake one: which of its calls misbehaves, and how, is chosen call by call out of those that
the program really makes. What a healthy GPU answers is the model: a reading is that value or it is null and
has its reason, and what another GPU answers does not change.
"""

from __future__ import annotations

import asyncio
import ctypes
import fnmatch
import json
import os
import random
import secrets
import socket
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final

import pytest

from daemon.gpu.answers import Answered, Answers, Unanswered
from daemon.gpu.client import COMMAND, GpuWorker
from daemon.gpu.patience import Patience
from daemon.gpu.protocol import Trouble
from daemon.gpu.readings import Costly, Health, Identity, NvLink, Processes, Section
from tests.mcp_server.speaking import Session, call
from tests.support import fake_nvml
from tests.support.daemon import Daemon
from tests.support.fake_nvml import GPU_IS_LOST, Scenario, pci
from tests.support.fault_lab import Happened, fault, rounds
from tests.support.gpu_reader import ReaderProcess
from tests.support.kernel_log import FakeKernelLog
from tests.support.left_behind import Family
from tests.support.waiting import wait_for

SECTIONS: Final[Mapping[str, type[Section]]] = {
    "identity": Identity,
    "health": Health,
    "processes": Processes,
    "nvlink": NvLink,
    "costly": Costly,
}
ERRORS: Final = (*range(1, 30), 999, 12345)
"""Those of nvml.h, and one that no library knows."""
SICK: Final = 3
LIES: Final[Sequence[Sequence[object]]] = (
    (-1,), (-(2**31),), (2**32 - 1,), (2**64 - 1,), (255,), (99_999,), ("x",), ("",), (1, 2, 3), (),
)  # fmt: skip
"""Values that a reading may not have, of other sizes and kinds than the right ones."""
USED: Final = ".memory.used_bytes"
"""Read by an older function where the newer one fails; that one counts what the driver has reserved too."""
IMPATIENT: Final = Patience(alone_s=0, together_s=0, again_s=0, trouble_s=0, attach_s=0.5)
"""Nothing is remembered: every question reaches the library again."""
ALL: Final = tuple(pci(gpu) for gpu in range(8))
SHORT_S: Final = 1.0
LONG_S: Final = 20.0
PIDFD_GETFD: Final = 438
"""asm-generic/unistd.h, since Linux 5.6."""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_nvml.build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture(scope="module")
def alone(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ReaderProcess, Path]]:
    """The reads of the worker, over one GPU."""
    folder = tmp_path_factory.mktemp("alone")
    reader = ReaderProcess(Scenario(folder, library, gpus=1))
    yield reader, folder
    reader.close()


def leaves(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Every single value within, by its path; the reasons left out."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name != "unread":
                yield from leaves(inner, f"{path}.{name}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from leaves(inner, f"{path}.{number}")
    else:
        yield path, value


def unexplained(value: object, path: str = "", reasons: Collection[str] = ()) -> Iterator[str]:
    """The nulls without a reason; an object may keep the reasons of what is in it."""
    if value is None and not any(fnmatch.fnmatch(path, reason) for reason in reasons):
        yield path
    if isinstance(value, Mapping):
        prefix = f"{path}." if path else ""
        known = [*reasons, *(prefix + name for name, why in value.get("unread", {}).items() if why)]
        for name, inner in value.items():
            if name != "unread":
                yield from unexplained(inner, prefix + name, known)
    if isinstance(value, list):
        for number, inner in enumerate(value):
            yield from unexplained(inner, f"{path}.{number}", reasons)


def calls_of(scenario: Scenario, reader: ReaderProcess, operation: str) -> list[str]:
    """The functions that are called for it on a healthy GPU."""
    with suppress(FileNotFoundError):
        scenario.log.unlink()
    reader.ask(operation)
    # Without a handle there is no reading at all; that is shown with whole workers.
    return sorted(
        {function for _, function, gpu in scenario.calls() if gpu != "-" and "Handle" not in function}
    )


@fault("Each NVML call answers each error code", promise=4, promised="null with its reason, never a zero")
def test_an_error_of_any_call_is_a_null_with_a_reason(
    alone: tuple[ReaderProcess, Path], library: Path, happened: Happened
) -> None:
    reader, folder = alone
    scenario = Scenario(folder, library, gpus=1)
    tried = nulls = 0
    codes = ERRORS if rounds(short=0, long=1) else ERRORS[:: len(ERRORS) // 6]
    for operation, section in SECTIONS.items():
        healthy = dict(leaves(reader.ask(operation)))
        for function in calls_of(scenario, reader, operation):
            for code in codes:
                scenario.fails(code, function)
                payload = reader.ask(operation)
                tried += 1
                if "gone" in payload:
                    continue
                assert list(unexplained(payload)) == [], (function, code)
                section.from_json(payload)
                assert payload["unread"] or healthy.keys() <= dict(leaves(payload)).keys(), (function, code)
                for path, value in leaves(payload):
                    nulls += value is None
                    same = value == healthy.get(path, value) or (path == USED and value != 0)
                    assert value is None or same, (function, code, path, value)
            scenario.behaves(function)
    happened(f"{tried:,} calls failed: {nulls:,} readings null with their reasons, no other value changed")


@fault("NVML lies: values of other signs, sizes and kinds", promise=4, promised="told or null, never the end")
def test_whatever_a_call_answers_the_reading_has_its_shape(
    alone: tuple[ReaderProcess, Path], library: Path, happened: Happened
) -> None:
    reader, folder = alone
    scenario = Scenario(folder, library, gpus=1)
    chance = random.Random(7)
    tried = 0
    for operation, section in SECTIONS.items():
        functions = calls_of(scenario, reader, operation)
        for function in functions:
            for lie in LIES if rounds(short=0, long=1) else chance.sample(LIES, 3):
                scenario.answers(function, *lie)
                payload = reader.ask(operation)
                tried += 1
                if "gone" not in payload:
                    assert list(unexplained(payload)) == [], (function, lie)
                    section.from_json(payload)
            scenario.behaves(function)
    happened(f"{tried:,} lies: every answer had its shape, every null its reason")


def asked(scenario: Scenario, operation: str, deadline_s: float) -> Answers:
    """What a worker of its own, the program's, answers of all GPUs."""

    async def main() -> Answers:
        worker = GpuWorker(
            command=COMMAND, environment={**os.environ, **scenario.environment()}, patience=IMPATIENT
        )
        try:
            return await worker.ask(operation, ALL, deadline_s=deadline_s)
        finally:
            await worker.close()

    return asyncio.run(main())


def chosen(functions: Sequence[str], few: int) -> Sequence[str]:
    """All of them where the lab runs long, otherwise some at equal distances."""
    return functions[:: max(1, len(functions) // rounds(short=few, long=len(functions)))]


@pytest.fixture
def fleet(tmp_path: Path, library: Path) -> Scenario:
    """Eight GPUs."""
    return Scenario(tmp_path, library)


@pytest.mark.slow
@pytest.mark.parametrize("how", [Trouble.CRASHED, Trouble.HUNG])
@fault(
    "Each NVML call on one GPU crashes, or never returns",
    promise=4,
    promised="that GPU is named, the others answer",
)
def test_a_gpu_whose_call_crashes_or_hangs_is_named_and_the_others_answer(
    fleet: Scenario, how: Trouble, happened: Happened
) -> None:
    break_it = fleet.crashes if how is Trouble.CRASHED else fleet.hangs
    tried = []
    for operation in ("health", "identity"):
        asked(fleet, operation, LONG_S)
        functions = sorted({function for _, function, gpu in fleet.calls() if gpu == str(SICK)})
        fleet.log.unlink()
        for function in chosen(functions, 3):
            break_it(function, gpu=SICK)
            # One that crashes is asked once more by itself; one that hangs is waited for.
            answers = asked(fleet, operation, SHORT_S if how is Trouble.HUNG else LONG_S)
            sick = answers.gpus[pci(SICK)]
            assert isinstance(sick, Unanswered), (operation, function)
            assert (sick.trouble, sick.call) == (how, function)
            assert all(
                isinstance(answer, Answered) for gpu, answer in answers.gpus.items() if gpu != pci(SICK)
            )
            fleet.behaves(function, gpu=SICK)
            tried.append(function)
    happened(f"{len(tried)} calls ({how}): the GPU and the call named each time, 7 others answered")


class Liveness:
    """A daemon that has to hear, tell and answer while its GPU side suffers."""

    def __init__(self, daemon: Daemon, log: FakeKernelLog) -> None:
        self._daemon = daemon
        self._log = log
        self.heard = 0

    def check(self) -> None:
        """It is alive, and a new fault is told."""
        assert self._daemon.get("/healthz")[0] == 200
        self.heard += 1
        self._log.time_us += 60_000_000
        seq = self._log.write(f"NVRM: Xid (PCI:{pci(1)[:-2]}): 43, pid={self.heard}, name=x, Ch 00000008")
        wait_for(
            lambda: any(event["kmsg_seq"] == seq for event in self._daemon.events("limit=20")), "the fault"
        )


@pytest.fixture
def family() -> Family:
    return Family()


@pytest.fixture
def daemon(tmp_path: Path, kernel_log: FakeKernelLog, fleet: Scenario, family: Family) -> Iterator[Daemon]:
    """A running daemon with eight fake GPUs."""
    environ = {**fleet.environment(), **family.environ}
    running = Daemon(tmp_path, kmsg=kernel_log.path, environ=environ)
    try:
        yield running.start()
        assert running.stop() == 0
        wait_for(lambda: not family.living(), "its processes to end")
    finally:
        running.kill()


def health(session: Session) -> dict[str, Any]:
    """The answer of get_gpu_health."""
    with session.post(call(secrets.token_hex(4), "get_gpu_health")) as exchange:
        answer: dict[str, Any] = next(each for each in exchange.messages() if "result" in each)["result"]
    assert not answer.get("isError"), answer
    content: dict[str, Any] = answer["structuredContent"]
    return content


def worker_of(family: Family) -> int | None:
    """The pid of the GPU worker; None while there is none."""
    found = [each for each in family.living() if "daemon.gpu.worker" in each]
    return int(found[0].split()[0]) if found else None


@pytest.mark.slow
@fault(
    "The GPU worker is killed again and again", promise=4, promised="it is replaced, and nothing else notices"
)
def test_a_worker_that_is_killed_again_and_again_is_replaced(
    daemon: Daemon, kernel_log: FakeKernelLog, family: Family, happened: Happened
) -> None:
    times = rounds(short=8, long=300)
    alive = Liveness(daemon, kernel_log)
    session = Session(daemon.port)
    for _ in range(times):
        assert [gpu["state"] for gpu in health(session)["gpus"]] == ["healthy"] * 8
        with suppress(ProcessLookupError):
            os.kill(wait_for(lambda: worker_of(family), "the worker"), 9)
        alive.check()
    assert "Traceback" not in daemon.log.read_text()
    happened(f"{times} × kill -9: 8 GPUs healthy in every answer, {alive.heard} faults told meanwhile")


def socket_of(worker: int) -> socket.socket:
    """The worker's end of what connects it with the daemon. Skips where the kernel does not let us."""
    arguments = Path(f"/proc/{worker}/cmdline").read_bytes().split(b"\0")
    number = int(arguments[arguments.index(b"daemon.gpu.worker") + 1])
    process = os.pidfd_open(worker)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        fd = libc.syscall(ctypes.c_long(PIDFD_GETFD), process, number, 0)
    finally:
        os.close(process)
    if fd < 0:
        pytest.skip(f"pidfd_getfd: {os.strerror(ctypes.get_errno())}")
    return socket.socket(fileno=fd)


def message(value: object) -> bytes:
    body = json.dumps(value).encode()
    return len(body).to_bytes(4, "big") + body


NONSENSE: Final[Mapping[str, bytes]] = {
    "a length beyond all reason": b"\xff" * 16,
    "no JSON": b"\x00\x00\x00\x04{{{{",
    "no known form": message({"id": "one", "data": []}),
    "nested without end": (200_000).to_bytes(4, "big") + b"[" * 200_000,
    "a call of another kind": message({"id": 1, "trouble": "hung", "reason": "x", "call": [], "code": {}}),
    "answers that nobody waits for": message({"id": 10**9, "data": {}, "took_us": -1}) * 20_000,
    "half a message": b"\x00\x10\x00\x00{",
}


@pytest.mark.slow
@fault(
    "The GPU worker's connection is flooded, cut, and carries nonsense",
    promise=4,
    promised="the worker is replaced, and nothing else notices",
)
def test_nonsense_from_the_worker_costs_nothing_but_that_worker(
    daemon: Daemon, kernel_log: FakeKernelLog, family: Family, happened: Happened
) -> None:
    alive = Liveness(daemon, kernel_log)
    session = Session(daemon.port)
    for nonsense in (*NONSENSE.values(), None):
        health(session)
        with closing(socket_of(wait_for(lambda: worker_of(family), "the worker"))) as connection:
            with suppress(OSError):  # the daemon may have had enough of it
                connection.sendall(nonsense or b"")
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        alive.check()
        wait_for(lambda: [gpu["state"] for gpu in health(session)["gpus"]] == ["healthy"] * 8, "healthy GPUs")
    said = daemon.log.read_text()
    assert said.count("Traceback") == said.count("is not understood and ended")
    happened(
        f"{len(NONSENSE)} kinds of nonsense and a cut: 8 GPUs healthy afterwards, {alive.heard} faults told"
    )


@pytest.mark.slow
@fault(
    "NVML's first call hangs, crashes, or the driver is gone",
    promise=4,
    promised="told as a finding; it goes on hearing",
)
def test_a_library_that_never_answers_is_a_finding_and_nothing_else_suffers(
    daemon: Daemon, kernel_log: FakeKernelLog, fleet: Scenario, happened: Happened
) -> None:
    alive = Liveness(daemon, kernel_log)
    session = Session(daemon.port)
    said = set()
    ways: dict[str, Callable[[], None]] = {
        "no_driver": lambda: fleet.fails(fake_nvml.DRIVER_NOT_LOADED),
        "crashed": fleet.crashes,
        "hung": fleet.hangs,
    }
    for name, break_it in ways.items():
        break_it()
        with session.post(call(name, "get_gpu_health")) as exchange:
            alive.check()
            answer = next(each for each in exchange.messages() if "result" in each)["result"]
            alive.check()
        told = answer["structuredContent"]
        assert told["state"] != "healthy"
        assert all(gpu["state"] != "healthy" for gpu in told["gpus"])
        said.add(told["source"]["state"])
        fleet.behaves()
        # What was wrong with the library is remembered until its driver is loaded anew.
        kernel_log.write("NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build")
        wait_for(lambda: health(session)["gpus"][0]["state"] == "healthy", "the GPUs to answer again")
    assert "Traceback" not in daemon.log.read_text()
    assert said == ways.keys()
    happened(f"{', '.join(sorted(said))}; no GPU called healthy, {alive.heard} faults told meanwhile")


@fault(
    "GPUs vanish, swap and come back under other numbers", promise=4, promised="each is missed by its name"
)
def test_gpus_that_vanish_and_swap_are_never_taken_for_each_other(
    daemon: Daemon, fleet: Scenario, happened: Happened
) -> None:
    session = Session(daemon.port)
    health(session)
    order = random.Random(7)
    times = rounds(short=10, long=200)
    for step in range(times):
        present = order.sample(range(8), order.randrange(1, 9))
        fleet.present(present)
        fleet.reloads(step + 2, stale=GPU_IS_LOST if step % 2 else fake_nvml.UNINITIALIZED)
        gpus = {gpu["pci"]: gpu for gpu in health(session)["gpus"]}
        assert set(gpus) == set(ALL)
        for gpu in range(8):
            told = gpus[pci(gpu)]
            assert told["uuid"] == fake_nvml.uuid(gpu)
            assert gpu in present or told["state"] != "healthy", (step, gpu)
        indices = [told["index"] for told in gpus.values() if told["index"] is not None]
        assert len(indices) == len(set(indices))
    assert "Traceback" not in daemon.log.read_text()
    happened(
        f"{times} times other GPUs in another order: 8 in every answer, each under its UUID, no index twice"
    )
