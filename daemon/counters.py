"""What the pipeline has counted."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """Lines the pipeline has looked at since start."""

    lines: int = 0
    faults: int = 0
    """Lines that told of a fault, or of a part of one."""
    forged: int = 0
    """Lines of userspace origin that looked like the driver's, while drills are not allowed."""
    witnessed_again: int = 0
    """Records that a second probe had seen too."""
    unconfirmed: int = 0
    """Lines of a fault that went out although nobody could show who printed them."""
    proved_late: int = 0
    """Of those, the ones that the log showed to be the kernel's afterwards."""
    disproved: int = 0
    """Of those, the ones that a process had written."""
    recovered: int = 0
    """Lines of a fault that eBPF heard and that were lost to the reader of /dev/kmsg."""
    recovered_unproved: int = 0
    """The same of lines of which nobody could show who printed them."""
    driver_told: int = 0
    """What the driver's own tracepoint told."""
    driver_alone: int = 0
    """Of that, faults of which no other probe had a line in time."""
    nvml_told: int = 0
    """What NVML's event set told."""
    nvml_alone: int = 0
    """Of that, faults of which the log had no line in time."""
    state_errors: int = 0
    """Saved open faults and incidents that could not be read back."""
