from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from probes import kernel
from probes.health import ProbeHealth, Verdict
from probes.kernel import Capability, LogAccess
from probes.klog import KlogProbe, LogLine, check, look_for, parse, read_log
from probes.klog_access import refusal
from probes.line import KernelLine, Origin
from tests.support import real_kernel_log
from tests.support.listening import Listener
from tests.support.waiting import DEADLINE_S

ROOT = Path(__file__).parents[2]
OFTEN_S = 0.01


class FakeLog:
    """What syslog(2) would show, or the error it would end in."""

    def __init__(self, *lines: str) -> None:
        self.lines = list(lines)
        self.error: int | None = None

    def __call__(self) -> bytes:
        if self.error is not None:
            raise OSError(self.error, os.strerror(self.error))
        return "".join(f"{line}\n" for line in self.lines).encode()


def xid(n: int, *, priority: int = 4) -> str:
    return f"<{priority}>[{n:5d}.000{n:03d}] NVRM: Xid (PCI:0000:91:00): 79, {n}"


def listen(
    read: Callable[[], bytes],
    test: Callable[[Listener, KlogProbe], Awaitable[None]],
    changes: list[ProbeHealth] | None = None,
    **options: Any,
) -> Listener:
    """Run `test` in an event loop with a started probe that looks often, and return the sink."""

    async def main() -> Listener:
        listener = Listener()

        def changed(health: ProbeHealth) -> None:
            (changes if changes is not None else []).append(health)
            listener.wake()

        often: dict[str, Any] = {"look_every_s": OFTEN_S, "first_retry_s": OFTEN_S}
        probe = KlogProbe(listener, read=read, on_change=changed, **(often | options))
        probe.start()
        try:
            await test(listener, probe)
        finally:
            probe.close()
        return listener

    return asyncio.run(main())


async def looks(probe: KlogProbe, more: int = 2) -> None:
    """Return when the probe has looked `more` times again: at least one look began after the call."""
    wanted = probe.health().counters["looks"] + more
    async with asyncio.timeout(DEADLINE_S):
        while probe.health().counters["looks"] < wanted:
            await asyncio.sleep(OFTEN_S)


def shape(listener: Listener) -> list[str]:
    """The last word of each line, and `gap` for each gap, in their order."""
    return [item.text.split()[-1] if isinstance(item, KernelLine) else "gap" for item in listener.items]


@pytest.fixture
def real_log() -> None:
    """Skip, with the reason, where syslog(2) or /dev/kmsg is refused."""
    real_kernel_log.skip_unless_usable()
    try:
        read_log()
    except OSError as error:
        pytest.skip(f"syslog(2): {error.strerror}")


@pytest.mark.kmsg
def test_history_and_new_lines_of_the_real_log_come_once_with_their_time_and_origin(real_log: None) -> None:
    token = uuid.uuid4().hex
    old, new = f"xidwatch-drill: {token} old", f"xidwatch-drill: {token} étude"
    write(old)

    async def test(listener: Listener, probe: KlogProbe) -> None:
        await listener.until(lambda: any(token in text for text in listener.texts))
        assert probe.health().hears
        write(new)
        await listener.until(lambda: new in listener.texts)
        await looks(probe)

    listener = listen(read_log, test)
    lines = [line for line in listener.lines if token in line.text]
    assert [(line.text, line.wall_is_estimate) for line in lines] == [(old, True), (new, False)]
    for line in lines:
        assert line.origin is Origin.USERSPACE
        assert line.boot_id == kernel.boot_id() != ""
        assert line.seq is None
        assert line.probe == "klog"
        assert line.kernel_us is not None
    assert lines[0].kernel_us < lines[1].kernel_us <= lines[1].arrival_us + 10_000_000  # type: ignore[operator]


@pytest.mark.kmsg
def test_a_real_log_overwritten_between_two_looks_is_a_gap_of_unknown_size(real_log: None) -> None:
    token = uuid.uuid4().hex

    async def test(listener: Listener, probe: KlogProbe) -> None:
        await listener.until(lambda: probe.caught_up)
        # The loop does not turn while the log is overwritten, so nobody looks.
        real_kernel_log.overwrite()
        write(f"xidwatch-drill: {token}")
        await listener.until(lambda: any(token in text for text in listener.texts))
        assert probe.health().counters["gaps"] == 1

    [gap] = [item for item in listen(read_log, test).items if not isinstance(item, KernelLine)]
    assert (gap.first_seq, gap.last_seq, gap.count, gap.probe) == (None, None, None, "klog")


@pytest.mark.kmsg
def test_one_look_tells_who_printed_a_line(real_log: None) -> None:
    text = f"NVRM: Xid (PCI:0000:91:00): 79, étude {uuid.uuid4().hex}"
    assert look_for([text]).lines == []
    write(text)
    [line] = look_for([text]).lines
    assert line.origin is Origin.USERSPACE
    [line] = look_for([f"{text}\nand more"]).lines
    assert line.text == text


@pytest.mark.kmsg
def test_a_process_cannot_print_a_line_of_the_kernel_behind_a_newline(real_log: None) -> None:
    forged = f"<4>[    1.000000] NVRM: {uuid.uuid4().hex}"
    write(f"harmless\n{forged}")
    assert look_for([forged.partition("] ")[2]]).lines == []
    [line] = look_for([forged]).lines
    assert line.origin is Origin.USERSPACE


def write(text: str) -> None:
    fd = os.open("/dev/kmsg", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode() + b"\n")
    finally:
        os.close(fd)


def test_only_lines_behind_the_last_one_seen_are_new() -> None:
    log = FakeLog(xid(1), xid(2))

    async def test(listener: Listener, probe: KlogProbe) -> None:
        await listener.until(lambda: shape(listener) == ["1", "2"])
        log.lines += [xid(3), "<6>[    3.000004] usb 1-1: no concern", xid(4)]
        await listener.until(lambda: len(listener.items) == 4)
        log.lines = log.lines[2:]  # overwritten, but the last line is still there
        await looks(probe)
        log.lines.append(xid(5))
        await listener.until(lambda: len(listener.items) == 5)

    assert shape(listen(log, test)) == ["1", "2", "3", "4", "5"]


def test_when_the_last_line_seen_is_gone_a_gap_comes_before_the_new_lines() -> None:
    log = FakeLog(xid(1), xid(2))

    async def test(listener: Listener, probe: KlogProbe) -> None:
        await listener.until(lambda: len(listener.items) == 2)
        log.lines = [xid(8), xid(9)]
        await listener.until(lambda: len(listener.items) == 5)

    assert shape(listen(log, test)) == ["1", "2", "gap", "8", "9"]


def test_a_log_that_was_cleared_is_a_gap_once_and_goes_on() -> None:
    log = FakeLog(xid(1))

    async def test(listener: Listener, probe: KlogProbe) -> None:
        await listener.until(lambda: len(listener.items) == 1)
        log.lines = []
        await listener.until(lambda: len(listener.items) == 2)
        await looks(probe)
        log.lines = [xid(2)]
        await listener.until(lambda: len(listener.items) == 3)

    assert shape(listen(log, test)) == ["1", "gap", "2"]


def test_a_line_that_imitates_the_last_one_seen_hides_nothing() -> None:
    log = FakeLog(xid(1))

    async def test(listener: Listener, probe: KlogProbe) -> None:
        await listener.until(lambda: len(listener.items) == 1)
        log.lines += [xid(2), f"<12>[    2.500000] forged {xid(1)}", xid(3)]
        await listener.until(lambda: len(listener.items) == 4)

    assert shape(listen(log, test)) == ["1", "2", "1", "3"]


def test_without_times_in_the_log_repeated_lines_are_told_apart_by_what_is_around_them() -> None:
    same = "<4>NVRM: Xid (PCI:0000:91:00): 79, same"
    log = FakeLog(same, same)

    async def test(listener: Listener, probe: KlogProbe) -> None:
        await listener.until(lambda: len(listener.items) == 2)
        log.lines += ["<4>NVRM: other", same]
        await listener.until(lambda: len(listener.items) == 4)
        await looks(probe)

    listener = listen(log, test)
    assert shape(listener) == ["same", "same", "other", "same"]
    assert {line.kernel_us for line in listener.lines} == {None}


def test_a_long_history_is_delivered_in_shares_and_whole() -> None:
    log = FakeLog(*(xid(n) for n in range(700)))

    async def test(listener: Listener, probe: KlogProbe) -> None:
        await listener.until(lambda: len(listener.items) == 700)

    listener = listen(log, test)
    assert max(len(batch.items) for batch in listener.batches) <= 64
    assert shape(listener) == [str(n) for n in range(700)]


def test_a_log_that_is_refused_is_a_state_and_is_tried_again() -> None:
    log = FakeLog(xid(1))
    log.error = errno.EPERM
    changes: list[ProbeHealth] = []

    async def test(listener: Listener, probe: KlogProbe) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while probe.health().reason == "not started":
                await asyncio.sleep(OFTEN_S)
        assert not probe.health().hears
        assert probe.health().reason
        log.error = None
        await listener.until(lambda: len(listener.items) == 1)
        await listener.until(lambda: len(changes) == 1)
        log.error = errno.EPERM
        await listener.until(lambda: len(changes) == 2)
        log.error = None
        log.lines.append(xid(2))
        await listener.until(lambda: len(listener.items) == 2)

    assert shape(listen(log, test, changes)) == ["1", "2"]
    assert [change.hears for change in changes[:2]] == [True, False]


def test_after_close_nothing_is_delivered() -> None:
    async def main() -> None:
        listener = Listener()
        probe = KlogProbe(listener, read=FakeLog(xid(1)), look_every_s=OFTEN_S)
        probe.start()
        probe.close()
        probe.close()
        await asyncio.sleep(OFTEN_S)
        assert listener.batches == []
        assert probe.health().reason == "closed"

    asyncio.run(main())


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b"<4>[    1.000002] NVRM", LogLine(Origin.KERNEL, 1_000_002, "NVRM")),
        (b"<12>[15147.578418] NVRM", LogLine(Origin.USERSPACE, 15_147_578_418, "NVRM")),
        (b"<4>[    1.000002][  T123] NVRM", LogLine(Origin.KERNEL, 1_000_002, "NVRM")),
        (b"<12>[ 1.000000] <4>[ 2.000000] x", LogLine(Origin.USERSPACE, 1_000_000, "<4>[ 2.000000] x")),
        (b"<4>[    1.000002] \xff", LogLine(Origin.KERNEL, 1_000_002, "�")),
        (b"NVRM", None),
        (b"<4>NVRM", None),
        (b"<x>NVRM", None),
        (b"<99999>[    1.000002] NVRM", None),
    ],
)
def test_a_line_is_read_with_its_facility_and_time(line: bytes, found: LogLine | None) -> None:
    assert parse(line) == found


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b"<4>NVRM", LogLine(Origin.KERNEL, None, "NVRM")),
        (b"<4>", LogLine(Origin.KERNEL, None, "")),
        (b"<4>[    1.000002] NVRM", LogLine(Origin.KERNEL, None, "[    1.000002] NVRM")),
        (b"NVRM", None),
    ],
)
def test_a_log_without_times_has_none_in_front(line: bytes, found: LogLine | None) -> None:
    assert parse(line, timed=False) == found


@pytest.mark.parametrize(
    ("before", "line", "origin"),
    [
        (b"<4>[    1.000002] x", b"<4>[    1.000002] NVRM", Origin.UNKNOWN),
        (b"<4>[    1.000002] ", b"<4>[    1.000002] NVRM", Origin.UNKNOWN),
        (b"<4>[    1.000002][  T1] x", b"<4>[    1.000002][  T1] NVRM", Origin.UNKNOWN),
        (b"<4>[    1.000002][  T1] x", b"<4>[    1.000002][  T2] NVRM", Origin.KERNEL),
        (b"<3>[    1.000002] x", b"<4>[    1.000002] NVRM", Origin.KERNEL),
        (b"<4>[    1.000001] x", b"<4>[    1.000002] NVRM", Origin.KERNEL),
        (b"<12>[    1.000002] x", b"<12>[    1.000002] NVRM", Origin.USERSPACE),
    ],
)
def test_a_line_that_may_go_on_with_the_record_before_it_proves_no_origin(
    before: bytes, line: bytes, origin: Origin
) -> None:
    found = parse(line, before)
    assert found is not None
    assert (found.origin, found.text) == (origin, "NVRM")


def injected(stamp: str) -> list[str]:
    """What the kernel prints of a name that a process chose: two lines of one record."""
    return [f"<3>{stamp}tmpfs: Unknown parameter 'x", f"<3>{stamp}NVRM: Xid (PCI:0000:91:00): 79, forged"]


@pytest.mark.parametrize("stamp", ["[    2.000000] ", "[    2.000000][  T123] ", ""])
def test_a_newline_in_a_record_of_the_kernel_does_not_make_a_process_the_kernel(stamp: str) -> None:
    log = FakeLog(f"<6>{stamp}NVRM: the first")

    async def test(listener: Listener, probe: KlogProbe) -> None:
        await listener.until(lambda: len(listener.items) == 1)
        log.lines += injected(stamp)
        await listener.until(lambda: len(listener.items) == 2)

    assert [line.origin for line in listen(log, test).lines] == [Origin.KERNEL, Origin.UNKNOWN]
    [line] = look_for(["NVRM: Xid (PCI:0000:91:00): 79, forged"], log).lines
    assert line.origin is Origin.UNKNOWN


def test_a_record_of_which_one_look_saw_the_first_line_only_does_not_prove_the_second() -> None:
    first, second = injected("[    2.000000] ")
    log = FakeLog(xid(1), first)

    async def test(listener: Listener, probe: KlogProbe) -> None:
        await listener.until(lambda: len(listener.items) == 1)
        log.lines.append(second)
        await listener.until(lambda: len(listener.items) == 2)

    assert [line.origin for line in listen(log, test).lines] == [Origin.KERNEL, Origin.UNKNOWN]


def test_times_that_a_text_imitates_do_not_part_a_record() -> None:
    log = FakeLog("<3>tmpfs: 'x", "<3>[    1.000000] y", "<3>[    2.000000] NVRM: forged")

    async def test(listener: Listener, probe: KlogProbe) -> None:
        await listener.until(lambda: len(listener.items) == 1)

    [line] = listen(log, test).lines
    assert (line.origin, line.kernel_us) == (Origin.UNKNOWN, None)


@pytest.mark.kmsg
def test_the_check_says_that_it_hears_less(real_log: None) -> None:
    said = check()
    assert (said.name, said.verdict) == ("klog", Verdict.OK)
    assert "no sequence numbers" in said.finding


def access(capabilities: int = 0, container: str | None = None, user_namespace: bool = False) -> LogAccess:
    return LogAccess(capabilities, user_namespace, True, "on", container, 0)


@pytest.mark.parametrize(
    ("number", "around", "reason", "hint"),
    [
        (errno.EPERM, access(), "CAP_SYSLOG is missing", "AmbientCapabilities=CAP_SYSLOG"),
        (errno.EPERM, access(container="kubernetes"), "kubernetes container", "capabilities.add: [SYSLOG]"),
        (errno.EPERM, access(container="docker"), "docker container", "--cap-add SYSLOG"),
        (errno.EPERM, access(user_namespace=True), "a user namespace", "outside"),
        (errno.EPERM, access(1 << Capability.SYSLOG), "although", "seccomp"),
        (errno.ENOSYS, access(), "keeps no log", ""),
        (errno.EIO, access(), "input/output error", ""),
    ],
)
def test_a_refusal_says_what_is_missing(number: int, around: LogAccess, reason: str, hint: str) -> None:
    why = refusal(OSError(number, os.strerror(number)), around)
    assert reason in why.reason
    assert hint in (why.hint or "")


@pytest.mark.kmsg
def test_a_process_without_the_capability_is_told_so(real_log: None) -> None:
    if kernel.log_access().dmesg_restrict is False:
        pytest.skip("kernel.dmesg_restrict is 0: everyone may read the log")
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed")
    program = (
        "import json; from probes.klog import check; c = check(); print(json.dumps([c.verdict, c.finding]))"
    )
    command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable, "-c", program]
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environ)
    verdict, finding = json.loads(done.stdout)
    assert verdict == "fail"
    assert "CAP_SYSLOG is missing" in finding
