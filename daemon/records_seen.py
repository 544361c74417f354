"""How often each probe has shown a record of the log, and whether eBPF has heard it.

Records of the same kernel time and first line are told apart by their number: the n-th that one probe shows
is the n-th of another. Only the newest are remembered.
"""

from __future__ import annotations

from collections import OrderedDict

from daemon.same_line import first_line
from daemon.shelf import REMEMBERED
from probes.bpf.probe import NAME as BPF
from probes.klog import NAME as KLOG
from probes.line import KernelLine, Origin

_Identity = tuple[int, str]


class RecordsSeen:
    """Owned by `daemon.confirmation`. All kernel times in µs."""

    def __init__(self) -> None:
        self._seen: OrderedDict[_Identity, dict[str, int]] = OrderedDict()
        self._unproved: OrderedDict[_Identity, KernelLine] = OrderedDict()

    def is_known(self, line: KernelLine, kernel_us: int) -> bool:
        """Count a line of the log; True when another probe had shown it: then it is known whether eBPF heard
        it."""
        identity = (kernel_us, first_line(line.text))
        seen = self._of(identity)
        before = max(seen.values(), default=0)
        seen[line.probe] = seen.get(line.probe, 0) + 1
        if seen[line.probe] <= before:
            return True
        if line.origin is Origin.UNKNOWN:
            self._unproved[identity] = line
            if len(self._unproved) > REMEMBERED:
                self._unproved.popitem(last=False)
        return False

    def take_unproved(self, line: KernelLine, kernel_us: int) -> KernelLine | None:
        """The line as syslog(2) showed it before, which cannot tell of each who printed it; once."""
        return None if line.probe == KLOG else self._unproved.pop((kernel_us, first_line(line.text)), None)

    def hear(self, told: KernelLine) -> None:
        """eBPF has heard this line of the log."""
        if told.kernel_us is not None:
            seen = self._of((told.kernel_us, first_line(told.text)))
            seen[BPF] = seen.get(BPF, 0) + 1

    def hear_up_to(self, nth: int, kernel_us: int, text: str) -> None:
        """eBPF has heard the n-th record of this time and text, and those before it."""
        self._of((kernel_us, text))[BPF] = nth

    def heard(self, kernel_us: int, text: str) -> int:
        """How many of the records of this time and text eBPF is known to have heard."""
        return self._seen.get((kernel_us, text), {}).get(BPF, 0)

    def _of(self, identity: _Identity) -> dict[str, int]:
        seen = self._seen.get(identity)
        if seen is None:
            seen = self._seen[identity] = {}
            if len(self._seen) > REMEMBERED:
                self._seen.popitem(last=False)
        return seen
