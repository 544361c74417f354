"""The offset of the two clocks, against lines of the real kernel log."""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path

import pytest

from probes import log_stamp
from probes.kmsg_record import kernel_time
from tests.support import real_kernel_log


@pytest.fixture
def offset_us() -> int:
    """Skips where perf may not be used."""
    offset = log_stamp.offset_us()
    if offset is None:
        pytest.skip("perf_event_open(2) is refused here")
    return offset


@pytest.mark.kmsg
def test_a_line_is_stamped_between_the_moments_before_and_after_it_was_written(offset_us: int) -> None:
    real_kernel_log.skip_unless_usable()
    token = secrets.token_hex(8).encode()
    fd = os.open(real_kernel_log.KMSG, os.O_RDWR | os.O_NONBLOCK)
    try:
        os.lseek(fd, 0, os.SEEK_END)
        before = time.monotonic_ns() // 1000
        os.write(fd, b"<7>" + token + b"\n")
        after = time.monotonic_ns() // 1000
        while token not in (data := os.read(fd, 8192)):
            pass
    finally:
        os.close(fd)
    stamp = kernel_time(data)
    assert stamp is not None
    assert before - 1000 <= stamp + offset_us <= after + 1000  # the log's clock may differ between CPUs


def test_a_measurement_says_when_it_was_made(offset_us: int) -> None:
    before = time.monotonic_ns() // 1000
    measured = log_stamp.measure()
    assert measured is not None
    assert abs(measured.offset_us - offset_us) < 1000
    assert before <= measured.at_us <= time.monotonic_ns() // 1000


def test_measuring_leaves_no_descriptor_and_no_other_name_behind(offset_us: int) -> None:
    def left() -> tuple[int, str]:
        return len(list(Path("/proc/self/fd").iterdir())), Path("/proc/thread-self/comm").read_text("utf-8")

    before = left()
    log_stamp.offset_us()
    assert left() == before
