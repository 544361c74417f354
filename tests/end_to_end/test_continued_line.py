"""A record that the kernel printed by several calls, made real: the report of an out-of-memory kill names the
cgroup of the process in a call of its own (KERN_CONT), as the driver prints an Xid behind an unfinished line.

The name reads like the driver's line. Whichever probes hear it, it is one event, and no alarm.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from probes.bpf import availability
from probes.health import Verdict
from tests.support import real_kernel_log
from tests.support.daemon import Daemon
from tests.support.gpu_process import cgroup
from tests.support.real_kernel_log import own_domain
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.kmsg, pytest.mark.slow]

LIMIT = 20_000_000
GREED = f"x = bytearray({4 * LIMIT})\nfor n in range(0, len(x), 4096): x[n] = 1"


@pytest.fixture(autouse=True)
def ebpf() -> None:
    """Skips where eBPF or the kernel log cannot be had."""
    real_kernel_log.skip_unless_usable()
    found = availability.check()
    if found.verdict is not Verdict.OK:
        pytest.skip(found.finding)


@contextmanager
def named(name: str) -> Iterator[tuple[Path, Path]]:
    """A cpuset of this name, and a memory cgroup with a limit. Skips without version 1 of both."""
    with cgroup("cpuset", name) as cpuset, cgroup("memory", f"xidwatch-test-{os.getpid()}") as memory:
        for what in ("cpuset.cpus", "cpuset.mems"):
            (cpuset / what).write_text((cpuset.parent / what).read_text())
        (memory / "memory.limit_in_bytes").write_text(str(LIMIT))
        (memory / "memory.swappiness").write_text("0")
        yield cpuset, memory


def run_out_of_memory(name: str) -> None:
    """A process in a cpuset of this name takes more memory than it may, and is killed for it."""
    with named(name) as groups:
        join = "".join(f"open({str(group / 'tasks')!r}, 'w').write(str(os.getpid()))\n" for group in groups)
        ended = subprocess.run([sys.executable, "-c", f"import os\n{join}{GREED}"], check=False)
        assert ended.returncode == -signal.SIGKILL


@pytest.mark.parametrize("names", ["kmsg,bpf", "bpf,klog", "kmsg,bpf,klog"])
def test_a_name_that_the_kernel_prints_by_itself_is_one_warning(tmp_path: Path, names: str) -> None:
    domain = own_domain()
    name = f"NVRM: Xid (PCI:{domain}:01:00): 79, pid=7, name=x, GPU has fallen off the bus."
    daemon = Daemon(tmp_path, kmsg=real_kernel_log.KMSG, flags=["--probes", names]).start()

    def about() -> list[dict[str, Any]]:
        return [event for event in daemon.events() if f"{domain}:01" in json.dumps(event)]

    def heard() -> set[str]:
        return {witness["probe"] for event in about() for witness in event["witnesses"]}

    try:
        run_out_of_memory(name)
        wait_for(lambda: heard() == set(names.split(",")), "every probe to hear it", pause_s=0.1)
        [event] = about()
    finally:
        daemon.stop()
    assert (event["code"], event["count"]) == (79, 1)
    assert (event["origin"], event["severity"]) == ("unknown", "warning")
