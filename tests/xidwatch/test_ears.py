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

from daemon.config import Config, Ebpf, ProbeName
from daemon.event import Event
from daemon.filter import EVERYTHING
from daemon.gpu.driver_hold import DriverHold
from daemon.intake import Intake
from daemon.pipeline import Pipeline
from daemon.store import Store
from probes import kernel
from probes.bpf import availability
from probes.bpf.descriptors import Loader
from probes.bpf.syscalls import BpfError, Step
from probes.errors import UserError
from probes.health import Verdict
from probes.klog import Look
from probes.line import Batch, KernelLine, Origin
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


def ears_of(tmp_path: Path, *, load_driver: Loader = refused, **settings: Any) -> tuple[Ears, Intake, Store]:
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


@in_loop
async def test_what_ebpf_heard_while_the_process_before_still_ran_is_not_told_again(
    tmp_path: Path, fifo: FakeKernelLog
) -> None:
    before_us = kernel.SystemClock().monotonic_us()
    ears, intake, store = ears_of(tmp_path, kmsg=fifo.path)
    ears.start()
    since_us = kernel.SystemClock().monotonic_us()

    def heard(text: str, at_us: int) -> KernelLine:
        return KernelLine(
            text,
            Origin.UNKNOWN,
            kernel.boot_id(),
            None,
            at_us,
            since_us,
            0,
            wall_is_estimate=False,
            probe="bpf",
        )

    old = heard("NVRM: Xid (PCI:0000:91:00): 43, pid=7, name=x, Ch 00000008", before_us - 1)
    new = heard("NVRM: Xid (PCI:0000:91:00): 94, pid=7, name=x, Contained", since_us)
    ears.take(Batch("bpf", kernel.boot_id(), [old, new], last_seq=None))
    async with asyncio.timeout(DEADLINE_S):
        while not (await store.stream.page(0, 1000, EVERYTHING)).items:
            await asyncio.sleep(0.01)
    assert [event.code for event in await closed(ears, intake, store) if event.kind == "xid"] == [94]


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
