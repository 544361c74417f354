"""The image, with the grants that docs/docker.md names and no others: what it hears, holds and contains."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import pytest
from mcp import Client, StdioServerParameters

from probes import kernel
from probes.kernel import Capability
from tests.image.contained import Contained
from tests.image.documented import daemon_in
from tests.support import fake_nvml, real_kernel_log
from tests.support.fake_nvml import Scenario
from tests.support.podman import Image, Podman, skip_unless_bpf_may_be_loaded
from tests.support.readers import Follower, Item
from tests.support.waiting import wait_for
from xidwatch.version import VERSION

pytestmark = pytest.mark.slow

Start = Callable[..., Contained]
ALL_THREE = {Capability.SYSLOG, Capability.BPF, Capability.PERFMON}
HEARS = {
    "/dev/kmsg only": {"kmsg"},
    "eBPF only": {"bpf", "klog"},
    "A machine with GPUs": {"kmsg", "bpf"},
}
"""What hears, by section of the document."""
GRANTED = {
    "/dev/kmsg only": {Capability.SYSLOG},
    "eBPF only": ALL_THREE,
    "A machine with GPUs": ALL_THREE,
    "A demo without GPUs": set[Capability](),
}
"""The capabilities of its container."""


def mask(capabilities: set[Capability]) -> int:
    return sum(1 << each for each in capabilities)


@pytest.mark.kmsg
@pytest.mark.parametrize("section", HEARS)
def test_a_line_of_the_kernel_log_is_pushed_with_exactly_the_grants_of_the_document(
    start: Start, figures: list[str], section: str
) -> None:
    real_kernel_log.skip_unless_usable()
    if "bpf" in HEARS[section]:
        skip_unless_bpf_may_be_loaded()
    daemon = start(daemon_in(section), "--allow-drills", "--gpu", "off")
    assert daemon.hears() == HEARS[section]
    with Follower(daemon) as reader:
        check_a_drill_is_pushed(reader)

    still = GRANTED[section] - {Capability.BPF, Capability.PERFMON}
    for held in ("CapEff", "CapPrm"):
        assert int(daemon.status(held), 16) == mask(still), held
    assert int(daemon.status("CapBnd"), 16) == mask(GRANTED[section])
    assert (int(daemon.status("CapInh"), 16), int(daemon.status("CapAmb"), 16)) == (0, 0)
    assert (daemon.status("NoNewPrivs"), daemon.status("Seccomp")) == ("1", "2")
    assert daemon.status("Uid").split() == ["0"] * 4
    first = daemon.exec("cat", "/proc/self/status").out  # what a process begins with
    assert f"CapEff:\t{mask(GRANTED[section]):016x}" in first
    memory = int(daemon.status("VmRSS").split()[0]) / 1024
    figures.append(f"{section}: answers after {daemon.up_after_s:.2f} s, {memory:.0f} MiB resident")


def check_a_drill_is_pushed(reader: Follower) -> Item:
    """Write drills until one comes as an event of its own: all of a machine draw on one allowance, so that
    what other tests wrote can make it a part of an overflow."""
    domain = real_kernel_log.own_domain()
    buses = iter(range(0x11, 0x60))

    def pushed() -> Item | None:
        pci = f"{domain}:{next(buses):02x}:00"
        real_kernel_log.write(real_kernel_log.drill_line(pci, 31, 4711))
        with contextlib.suppress(AssertionError):
            return wait_for(partial(item_at, reader, f"{pci}.0"), "the drill", deadline_s=3)
        return None

    return wait_for(pushed, "a drill with an event of its own", pause_s=1.0)


def item_at(reader: Follower, pci: str) -> Item | None:
    """The event of its own that it was given of the device at this address."""
    found = (each for each in reader.items if each["kind"] == "xid")
    return next((each for each in found if (each["gpu"] or {}).get("pci") == pci), None)


@pytest.mark.parametrize("section", GRANTED)
def test_nothing_can_be_written_but_the_state_the_socket_and_what_is_in_memory(
    start: Start, podman: Podman, section: str
) -> None:
    daemon = start(daemon_in(section), "--gpu", "off")
    for path in ("/usr/local/lib/python3.12/site-packages/xidwatch/new", "/etc/new", "/new"):
        refused = daemon.exec("touch", path)
        assert refused.code != 0
        assert "Read-only file system" in refused.err
    assert daemon.exec("touch", "/var/lib/xidwatch/new", "/run/xidwatch/new").code == 0
    changed = [line.split()[1] for line in podman("diff", daemon.name).out.splitlines()]
    of_the_engine = ("/etc", "/run", "/dev", "/proc", "/sys", "/tmp", "/var")
    assert not [path for path in changed if not path.startswith(of_the_engine)]


def test_without_any_grant_it_serves_invented_gpus_and_says_that_it_hears_nothing(
    start: Start, images: Mapping[str, Image]
) -> None:
    if kernel.log_access().dmesg_restrict is False:
        pytest.skip("kernel.dmesg_restrict is 0: the log is open to everyone")
    daemon = start(daemon_in("A demo without GPUs"))
    assert daemon.get("/readyz")[0] == 503
    assert len(inventory(daemon)) == 8
    assert json.loads(daemon.exec("xidwatch", "status", "--json").out)["gpu"]["mock"] is True
    check = daemon.exec(*health_command(images["xidwatch"]))
    assert check.code == 1
    assert check.out.startswith("not ready: kmsg: /dev/kmsg does not exist in this podman container")
    assert json.loads(daemon.exec("xidwatch", "doctor", "--json").out)["hears"] is False


@pytest.mark.parametrize(
    ("section", "lacks"),
    [
        ("A machine with GPUs", set[str]()),
        ("/dev/kmsg only", {"processes"}),
        ("A demo without GPUs", {"processes", "kept"}),
    ],
)
def test_doctor_says_what_the_container_lacks(start: Start, section: str, lacks: set[str]) -> None:
    daemon = start(daemon_in(section), "--gpu", "off")
    said = {
        each["name"]: each for each in json.loads(daemon.exec("xidwatch", "doctor", "--json").out)["checks"]
    }
    assert said["container"]["finding"].startswith("podman, user 0, with ")
    assert {"processes", "kept", "network", "node_name"} & set(said) == lacks
    for name in lacks:
        assert said[name]["hint"]


def inventory(daemon: Contained) -> Sequence[object]:
    """The GPUs that it tells an assistant of."""

    async def ask() -> Sequence[object]:
        async with Client(f"http://127.0.0.1:{daemon.port}/mcp") as client:
            answer = (await client.call_tool("get_gpu_inventory", {})).structured_content
        assert answer is not None
        gpus: Sequence[object] = answer["gpus"]
        return gpus

    return asyncio.run(ask())


def health_command(image: Image) -> list[str]:
    """What an engine runs to learn of the container's health."""
    kind, *words = image.config["Healthcheck"]["Test"]
    assert kind == "CMD"
    return list(words)


@pytest.mark.kmsg
def test_the_health_check_passes_while_a_live_source_hears(start: Start, images: Mapping[str, Image]) -> None:
    real_kernel_log.skip_unless_usable()
    daemon = start(daemon_in("/dev/kmsg only"), "--gpu", "off")
    check = daemon.exec(*health_command(images["xidwatch"]))
    assert (check.code, check.out) == (0, "ready: hears the kernel log through kmsg\n")


@pytest.mark.kmsg
def test_a_client_in_the_container_has_a_full_session_with_the_running_daemon(
    start: Start, podman: Podman
) -> None:
    real_kernel_log.skip_unless_usable()
    daemon = start(daemon_in("/dev/kmsg only"), "--allow-drills", "--gpu", "mock")
    with Follower(daemon) as reader:
        event = check_a_drill_is_pushed(reader)
    asyncio.run(asyncio.wait_for(check_session(daemon, podman, event), 60))


async def check_session(daemon: Contained, podman: Podman, event: Item) -> None:
    """Connect as a client that starts its server: tools, resources, prompts, and what the daemon has kept."""
    command, *arguments = daemon.exec_command("xidwatch", "stdio")
    server = StdioServerParameters(command=command, args=arguments, env=podman.environment)
    async with Client(server) as client:
        assert client.server_info is not None
        assert (client.server_info.name, client.server_info.version) == ("xidwatch", VERSION)
        tools = {tool.name for tool in (await client.list_tools()).tools}
        assert {"get_xid_events", "wait_for_xid", "describe_gpu_node"} <= tools
        assert (await client.list_prompts()).prompts
        page = (await client.call_tool("get_xid_events", {"since": event["cursor"] - 1})).structured_content
        assert page is not None
        assert event["id"] in [each["id"] for each in page["events"]]
        waited = await client.call_tool("wait_for_xid", {"since": event["cursor"] - 1, "timeout_s": 5})
        assert waited.structured_content is not None
        assert waited.structured_content["timed_out"] is False
        fleet = (await client.call_tool("get_gpu_inventory", {})).structured_content
        assert fleet is not None
        assert len(fleet["gpus"]) == 8
        status = await client.read_resource("node://status")
        assert VERSION in status.contents[0].model_dump_json()


@pytest.mark.parametrize("gpu", ["off", "mock"])
def test_as_process_1_it_ends_on_sigterm_with_code_0_before_the_engine_loses_patience(
    start: Start, gpu: str
) -> None:
    daemon = start(daemon_in("A demo without GPUs"), "--gpu", gpu)
    assert "\t1" in "\t" + daemon.status("NSpid").rpartition("\t")[2]
    assert daemon.stop(within_s=2) == 0
    assert "Traceback" not in daemon.log()


def test_the_process_that_reads_the_gpus_does_not_stay_behind_when_it_dies(
    start: Start, tmp_path: Path
) -> None:
    fleet = Scenario(tmp_path, fake_nvml.build(tmp_path))
    variables = [flag for item in fleet.environment().items() for flag in ("--env", "=".join(item))]
    driver = ("--volume", f"{tmp_path}:{tmp_path}", *variables)  # as NVIDIA's runtime brings the real one
    daemon = start(daemon_in("A demo without GPUs"), "--gpu", "nvml", flags=driver)
    assert len(inventory(daemon)) == 8
    (reads_the_gpus,) = daemon.children()
    os.kill(reads_the_gpus, signal.SIGKILL)
    wait_for(lambda: len(inventory(daemon)) == 8 and reads_the_gpus not in daemon.children(), "its successor")
    assert "Z" not in daemon.children().values()
    assert daemon.stop(within_s=2) == 0


@pytest.mark.kmsg
def test_the_target_with_bcc_compiles_a_program_that_hears(start: Start) -> None:
    real_kernel_log.skip_unless_usable()
    skip_unless_bpf_may_be_loaded()
    flags = ("--ebpf-loader", "bcc", "--ebpf", "required", "--allow-drills", "--gpu", "off")
    daemon = start(daemon_in("eBPF only"), *flags, image="xidwatch:bcc")
    assert daemon.hears() == {"bpf", "klog"}
    said = daemon.exec("xidwatch", "doctor", "--ebpf-loader", "bcc").out
    assert "the bcc loader attached a program to" in said
    with Follower(daemon) as reader:
        event = check_a_drill_is_pushed(reader)
    assert event["witnesses"][0]["probe"] == "bpf"
    assert int(daemon.status("CapEff"), 16) == mask({Capability.SYSLOG})
    assert "Z" not in daemon.children().values()
    assert daemon.stop(within_s=2) == 0


@pytest.mark.kmsg
def test_a_new_container_goes_on_with_the_volume_of_the_old_one(start: Start) -> None:
    real_kernel_log.skip_unless_usable()
    first = start(daemon_in("/dev/kmsg only"), "--allow-drills", "--gpu", "off")
    with Follower(first) as reader:
        event = check_a_drill_is_pushed(reader)
    first.kill()
    second = start(daemon_in("/dev/kmsg only"), "--allow-drills", "--gpu", "off")
    assert [each["id"] for each in second.events()].count(event["id"]) == 1


@pytest.mark.parametrize(
    ("flags", "arguments", "says"),
    [
        (("--volume", "xidwatch:/run/xidwatch:ro"), (), "/run/xidwatch/mcp.sock"),
        (
            (),
            ("--state-dir", "/srv/state"),
            "state directory /srv/state: read-only file system",
        ),
    ],
)
def test_where_it_cannot_write_it_says_so_and_ends(
    podman: Podman, images: Mapping[str, Image], flags: Sequence[str], arguments: Sequence[str], says: str
) -> None:
    base = ("run", "--rm", *podman.run_flags(), "--read-only", "--cap-drop", "ALL", *flags)
    done = podman(*base, "xidwatch", "serve", "--listen", "127.0.0.1:0", *arguments)
    assert done.code == 2, done.err
    assert says in done.err
    assert re.search(r"^hint: ", done.err, re.MULTILINE)
    assert "Traceback" not in done.err
