"""What the tests of the kernel log probe share: a sink that can be waited on, and records for it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.kernel_log import FakeKernelLog


@pytest.fixture
def xid(kernel_log: FakeKernelLog) -> Callable[..., None]:
    """Prints an Xid with this sequence number, by default as the kernel does."""

    def write(seq: int, *, priority: int = 4) -> None:
        text = f"NVRM: Xid (PCI:0000:91:00): 79, pid=1, name=x, {seq}"
        kernel_log.write(text, seq=seq, time_us=1_000_000 + seq, priority=priority)

    return write


@pytest.fixture
def noise(kernel_log: FakeKernelLog) -> Callable[..., None]:
    """Prints records that are no concern of ours, with these sequence numbers."""

    def write(*seqs: int) -> None:
        for seq in seqs:
            kernel_log.write("usb 1-1: new device", seq=seq, priority=6)

    return write
