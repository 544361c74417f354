"""The ears of a daemon: which run, what one fault becomes that several hear, and what they say."""

from __future__ import annotations

import asyncio
import errno
import json
import subprocess
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from daemon.ahead import Ahead, dump
from daemon.config import Config, Ebpf, ProbeName
from daemon.event import Event, event_id
from daemon.filter import EVERYTHING
from daemon.gpu.driver_hold import DriverHold
from daemon.intake import Intake
from daemon.pipeline import Pipeline
from daemon.store import Store
from daemon.told_before import ToldBefore
from probes import kernel
from probes.bpf import availability
from probes.bpf.descriptors import Loader
from probes.bpf.syscalls import BpfError, Step
from probes.errors import UserError
from probes.health import Verdict
from probes.klog import Look, ReadLog, read_log
from probes.line import Batch, KernelLine, Origin
from probes.log_stamp import Measured
from tests.support import real_kernel_log
from tests.support.daemon import Daemon
from tests.support.driver_calls import DriverCalls
from tests.support.kernel_log import FakeKernelLog
from tests.support.waiting import DEADLINE_S, wait_for
from xidwatch.ears import Choice, Ears, choose

REAL = Path("/dev/kmsg")


@pytest.fixture
def ebpf() -> None:
    """Skips where eBPF or the kernel log cannot be had."""
    real_kernel_log.skip_unless_usable()
    found = availability.check()
    if found.verdict is not Verdict.OK:
        pytest.skip(found.finding)


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[FakeKernelLog]:
    with FakeKernelLog(tmp_path / "kmsg") as log:
        yield log


def about(daemon: Daemon, domain: str) -> list[dict[str, Any]]:
    """The daemon's Xids of devices of this PCI domain."""
    xids = [event for event in daemon.events() if event["kind"] == "xid"]
    return [event for event in xids if event["gpu"]["pci"].startswith(domain)]


def probes(daemon: Daemon) -> dict[str, dict[str, Any]]:
    return {probe["name"]: probe for probe in json.loads(daemon.get("/readyz")[1])["probes"]}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"kmsg": REAL}, Choice(kmsg=True, klog=False, klog_instead=True, bpf=True)),
        ({"kmsg": REAL, "ebpf": Ebpf.OFF}, Choice(kmsg=True, klog=False, klog_instead=True, bpf=False)),
        ({"kmsg": Path("/tmp/fifo")}, Choice(kmsg=True, klog=False, klog_instead=False, bpf=False)),
        (
            {"kmsg": Path("/tmp/fifo"), "ebpf": Ebpf.REQUIRED},
            Choice(kmsg=True, klog=False, klog_instead=False, bpf=True),
        ),
        (
            {"probes": frozenset({ProbeName.BPF, ProbeName.KLOG})},
            Choice(kmsg=False, klog=True, klog_instead=False, bpf=True),
        ),
        (
            {"probes": frozenset({ProbeName.KMSG, ProbeName.DRIVER})},
            Choice(kmsg=True, klog=False, klog_instead=False, bpf=False, driver=True),
        ),
    ],
)
def test_the_settings_choose_the_probes(settings: dict[str, Any], expected: Choice) -> None:
    assert choose(replace(Config(), **settings)) == expected


@pytest.mark.kmsg
def test_a_line_heard_by_kmsg_and_ebpf_is_one_event_with_two_witnesses(ebpf: None, tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, kmsg=REAL, flags=["--allow-drills"]).start()
    try:
        domain = real_kernel_log.own_domain()
        real_kernel_log.write(real_kernel_log.drill_line(f"{domain}:01:00", 79, 7))
        wait_for(
            lambda: [len(event["witnesses"]) for event in about(daemon, domain)] == [2], "the second witness"
        )
        [event] = about(daemon, domain)
        assert {witness["probe"] for witness in event["witnesses"]} == {"kmsg", "bpf"}
        assert (event["count"], event["drill"], event["origin"]) == (1, True, "userspace")
        assert {name for name, probe in probes(daemon).items() if probe["hears"]} == {"kmsg", "bpf"}
        assert b'xidwatch_probe_up{probe="bpf"} 1.0' in daemon.get("/metrics")[1]
    finally:
        daemon.stop()


@pytest.mark.kmsg
@pytest.mark.parametrize("names", ["bpf", "kmsg,bpf", "klog", "bpf,klog", "kmsg,bpf,klog"])
def test_a_forged_line_never_becomes_an_event(ebpf: None, tmp_path: Path, names: str) -> None:
    daemon = Daemon(tmp_path, kmsg=REAL, flags=["--probes", names]).start()
    try:
        domain = real_kernel_log.own_domain()
        real_kernel_log.write(
            f"NVRM: Xid (PCI:{domain}:01:00): 79, pid=7, name=x, GPU has fallen off the bus."
        )
        wait_for(lambda: b"xidwatch_forged_lines_total 0.0" not in daemon.get("/metrics")[1], "the line")
        assert about(daemon, domain) == []
    finally:
        daemon.stop()


WITHOUT_KMSG = (
    "mknod $0 c 1 11 && chown 65534 $0 && chmod 600 $0 && mount --bind $0 /dev/kmsg && "
    'exec setpriv --bounding-set=-dac_override,-dac_read_search "$@"'
)


@pytest.mark.kmsg
@pytest.mark.parametrize("ebpf_setting", ["auto", "off"])
def test_where_kmsg_is_refused_syslog_takes_its_place_and_a_restart_doubles_nothing(
    ebpf: None, tmp_path: Path, ebpf_setting: str
) -> None:
    closed = ("unshare", "-m", "sh", "-c", WITHOUT_KMSG, str(tmp_path / "node"))
    if subprocess.run([*closed, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no mount namespace can be had here")
    (tmp_path / "node").unlink()
    flags = ["--allow-drills", "--ebpf", ebpf_setting]
    daemon = Daemon(tmp_path, kmsg=REAL, flags=flags, wrapper=closed).start()
    try:
        domain = real_kernel_log.own_domain()
        for n in (1, 2):
            real_kernel_log.write(real_kernel_log.drill_line(f"{domain}:01:00", 79, 7, f"drill {n}"))
        wait_for(lambda: [event["count"] for event in about(daemon, domain)] == [2], "both lines")
        wait_for(
            lambda: "klog" in [witness["probe"] for witness in about(daemon, domain)[0]["witnesses"]], "klog"
        )
        found = probes(daemon)
        assert (found["kmsg"]["hears"], found["klog"]["hears"]) == (False, True)
        assert "once a second" in found["klog"]["hint"]
        before = {event["id"]: event["count"] for event in about(daemon, domain)}
        daemon.kill()
        (tmp_path / "node").unlink()
        daemon.start()
        real_kernel_log.write(real_kernel_log.drill_line(f"{domain}:02:00", 79, 7))
        wait_for(lambda: len(about(daemon, domain)) == 2, "the line after the restart")
        after = {event["id"]: event["count"] for event in about(daemon, domain)}
        assert before.items() <= after.items()
    finally:
        daemon.kill()


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a coroutine test in a loop of its own."""

    def run(tmp_path: Path, fifo: FakeKernelLog) -> None:
        asyncio.run(test(tmp_path, fifo))

    run.__name__ = test.__name__
    return run


def refused() -> Any:
    raise BpfError(Step.LOAD_PROGRAM, errno.EINVAL, "")


def ears_of(
    tmp_path: Path,
    *,
    load_driver: Loader = refused,
    before: ToldBefore | None = None,
    clocks: Measured | None = None,
    read_log: ReadLog = read_log,
    **settings: Any,
) -> tuple[Ears, Intake, Store]:
    """Ears whose eBPF does not load and whose looks find nothing."""
    pipeline = Pipeline(node="n")
    store = Store.open(tmp_path / "state", reserve_key=pipeline.reserve_key)
    intake = Intake(pipeline, store, boot_id=kernel.boot_id(), clock=kernel.SystemClock())
    intake.start()
    ears = Ears(
        replace(Config(), **settings),
        intake=intake,
        pipeline=pipeline,
        resume=None,
        load=refused,
        load_driver=load_driver,
        before=before,
        clocks=clocks,
        offset_us=lambda: None,
        read_log=read_log,
        look_for=lambda texts: Look([], None),
    )
    return ears, intake, store


async def closed(ears: Ears, intake: Intake, store: Store) -> Sequence[Event]:
    ears.close()
    page = await store.stream.page(0, 1000, EVERYTHING)
    intake.close()
    await store.close()
    return [item.event for item in page.items]


@in_loop
async def test_required_ebpf_that_cannot_be_ends_the_start(tmp_path: Path, fifo: FakeKernelLog) -> None:
    ears, intake, store = ears_of(tmp_path, kmsg=fifo.path, ebpf=Ebpf.REQUIRED)
    with pytest.raises(UserError, match="eBPF is required, and it cannot be"):
        ears.start()
    await closed(ears, intake, store)


@in_loop
async def test_ebpf_that_cannot_be_is_a_state_with_its_reason(tmp_path: Path, fifo: FakeKernelLog) -> None:
    names = frozenset({ProbeName.KMSG, ProbeName.BPF})
    ears, intake, store = ears_of(tmp_path, kmsg=fifo.path, probes=names)
    ears.start()
    kmsg, bpf = ears.health()
    assert (kmsg.hears, bpf.hears) == (True, False)
    assert bpf.reason is not None
    await closed(ears, intake, store)


CODES = {43: "Ch 00000008", 94: "Contained"}


def heard(code: int, at_us: int) -> KernelLine:
    """As eBPF hears it."""
    return KernelLine(
        f"NVRM: Xid (PCI:0000:91:00): {code}, pid=7, name=x, {CODES[code]}",
        Origin.UNKNOWN,
        kernel.boot_id(),
        None,
        at_us,
        kernel.SystemClock().monotonic_us(),
        kernel.SystemClock().wall_us(),
        wall_is_estimate=False,
        probe="bpf",
    )


async def told_of(
    tmp_path: Path, lines: Sequence[KernelLine], *, until: Callable[[Sequence[Event]], bool], **ears: Any
) -> Sequence[Event]:
    """What becomes of lines that waited in the ring when the ears began to hear."""
    those, intake, store = ears_of(tmp_path, **ears)
    those.start()
    those.take(Batch("bpf", kernel.boot_id(), lines, last_seq=None))
    async with asyncio.timeout(DEADLINE_S):
        while not until([item.event for item in (await store.stream.page(0, 1000, EVERYTHING)).items]):
            await asyncio.sleep(0.01)
    return await closed(those, intake, store)


def has(count: int) -> Callable[[Sequence[Event]], bool]:
    return lambda events: len(events) == count


ALONE = frozenset({ProbeName.BPF})


@in_loop
async def test_what_ebpf_heard_since_it_was_loaded_is_told_when_nobody_was_there_before(
    tmp_path: Path, fifo: FakeKernelLog
) -> None:
    now_us = kernel.SystemClock().monotonic_us()
    lines = [heard(43, now_us - 3_000_000), heard(94, now_us)]
    events = await told_of(tmp_path, lines, probes=ALONE, until=has(2))
    assert [event.code for event in events] == [43, 94]


@in_loop
async def test_where_no_log_is_read_what_the_process_before_did_not_save_is_a_gap(
    tmp_path: Path, fifo: FakeKernelLog
) -> None:
    now_us = kernel.SystemClock().monotonic_us()
    saved = dump([(Ahead(heard(43, now_us - 900), now_us - 900, 300), None)])
    before = ToldBefore(saved, kernel.boot_id(), until_us=now_us)
    lines = [heard(43, now_us - 880), heard(43, now_us - 700), heard(43, now_us - 90), heard(94, now_us)]
    events = await told_of(tmp_path, lines, probes=ALONE, before=before, until=has(2))
    gap, xid = sorted(events, key=lambda event: event.kind)
    assert (gap.kind, gap.detail["lost_records"] if gap.detail else None) == ("gap", 2)
    assert xid.code == 94


@in_loop
async def test_where_the_log_is_read_on_it_brings_what_the_process_before_did_not_tell(
    tmp_path: Path, fifo: FakeKernelLog
) -> None:
    now_us = kernel.SystemClock().monotonic_us()
    before = ToldBefore(None, kernel.boot_id(), until_us=now_us)
    both = frozenset({ProbeName.BPF, ProbeName.KLOG})
    lines = [heard(43, now_us - 880), heard(94, now_us)]
    events = await told_of(
        tmp_path, lines, probes=both, before=before, read_log=lambda: b"<6>[ 1.000000] x\n", until=has(1)
    )
    assert [event.code for event in events] == [94]


@in_loop
async def test_clocks_that_were_compared_before_are_used_where_that_is_refused_now(
    tmp_path: Path, fifo: FakeKernelLog
) -> None:
    now_us = kernel.SystemClock().monotonic_us()
    names = frozenset({ProbeName.BPF})
    ears, intake, store = ears_of(tmp_path, probes=names, clocks=Measured(5_000, now_us))
    ears.start()
    ears.take(Batch("bpf", kernel.boot_id(), [heard(43, now_us)], last_seq=None))
    async with asyncio.timeout(DEADLINE_S):
        while not (page := await store.stream.page(0, 1000, EVERYTHING)).items:
            await asyncio.sleep(0.01)
    line = heard(43, now_us)
    assert page.items[0].event.id == event_id(line.boot_id, now_us - 5_000, line.text)
    await closed(ears, intake, store)


@in_loop
async def test_whether_syslog_shows_the_log_is_known_after_the_first_look(
    tmp_path: Path, fifo: FakeKernelLog
) -> None:
    names = frozenset({ProbeName.KLOG})
    ears, intake, store = ears_of(tmp_path, probes=names, read_log=lambda: b"<6>[ 1.000000] x\n")
    ears.start()
    assert not ears.health()[0].hears
    await ears.looked_once()
    assert ears.health()[0].hears
    await closed(ears, intake, store)


def test_the_drivers_tracepoint_is_a_witness_until_it_is_let_go_and_when_it_is_taken_up(
    ebpf: None, tmp_path: Path, fifo: FakeKernelLog
) -> None:
    driver = DriverCalls()

    async def told(store: Store, wanted: Callable[[Sequence[Event]], bool]) -> Sequence[Event]:
        async with asyncio.timeout(DEADLINE_S):
            while True:
                page = await store.stream.page(0, 1000, EVERYTHING)
                events = [item.event for item in page.items if item.event.kind == "xid"]
                if wanted(events):
                    return events
                await asyncio.sleep(0.01)

    def happens(code: int) -> None:
        fifo.write(f"NVRM: Xid (PCI:0000:91:00): {code}, pid=7, name=x, Ch 00000008")
        driver.call("nvidia_dev_xid", "0000:91:00.0", code, b"Ch 00000008\n")

    async def test() -> None:
        names = frozenset({ProbeName.KMSG, ProbeName.DRIVER})
        ears, intake, store = ears_of(tmp_path, kmsg=fifo.path, probes=names, load_driver=driver.load)
        ears.start()
        assert ears.driver is not None
        hold = DriverHold(tracepoint=ears.driver)
        happens(43)
        [first] = await told(store, lambda events: [len(event.witnesses) for event in events] == [2])
        assert {witness.probe for witness in first.witnesses} == {"kmsg", "driver"}
        assert (first.count, first.origin) == (1, "kernel")
        assert (await hold.let_go())["tracepoint"] == {"was_attached": True}
        fifo.write("NVRM: Xid (PCI:0000:91:00): 45, pid=7, name=x, Ch 00000008")
        events = await told(store, lambda events: len(events) == 2)
        assert [len(event.witnesses) for event in events if event.code == 45] == [1]
        hold.take_up()
        happens(94)
        await told(store, lambda events: [len(e.witnesses) for e in events if e.code == 94] == [2])
        await closed(ears, intake, store)

    try:
        asyncio.run(test())
    finally:
        driver.close()
