"""What of a log without sequence numbers has been worked off, so that a restart tells nothing twice.

syslog(2) gives the whole log again after each start, and eBPF may hear a line that no other probe has
brought yet. Both are known by kernel time and text: everything older than a mark is done, and of what
is near the mark, or was heard ahead of it, a digest of each line is kept. Kernel times may be a
millisecond out of order, so the mark alone would lose lines.

Saved as one row of state, in the same transaction as the events. Belongs to the intake.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, deque

from probes.klog import NAME as KLOG
from probes.line import KernelLine

_OUT_OF_ORDER_US = 10_000
_REMEMBERED = 256


class Passed:
    """Lines of one boot; what an earlier process had done, and what is done by now."""

    def __init__(self, boot_id: str, saved: str | None) -> None:
        """`saved` is what `dump` gave, or None; that of another boot, or that cannot be read, is none."""
        self.changed = False
        """True while the saved copy is out of date."""
        self._boot_id = boot_id
        self._mark_us = -1
        self._near: deque[tuple[int, str]] = deque(maxlen=_REMEMBERED)
        try:
            data = json.loads(saved) if saved is not None else {}
            if data.get("boot_id") == boot_id:
                self._mark_us = int(data["mark_us"])
                self._near.extend((int(at_us), str(digest)) for at_us, digest in data["near"])
        except (ValueError, TypeError, KeyError, AttributeError):
            self._mark_us = -1
            self._near.clear()
        self._done_us = self._mark_us - _OUT_OF_ORDER_US
        self._done = Counter(self._near)

    def was_done(self, line: KernelLine, *, by_mark: bool) -> bool:
        """True, once for each line, when an earlier process had worked this line off.

        `by_mark`: nothing but this tells which lines of its probe are old.
        """
        if line.kernel_us is None or line.boot_id != self._boot_id:
            return False
        if by_mark and line.kernel_us < self._done_us:
            return True
        identity = (line.kernel_us, _digest(line.text)) if self._done else None
        if identity is None or self._done[identity] == 0:
            return False
        self._done[identity] -= 1
        return True

    def note(self, line: KernelLine) -> None:
        """The events of this line are being kept. Only lines with the log\'s own time may be noted."""
        if line.kernel_us is None or line.boot_id != self._boot_id:
            return
        if line.probe == KLOG:
            self._mark_us = max(self._mark_us, line.kernel_us)
        self._near.append((line.kernel_us, _digest(line.text)))
        self.changed = True

    def shown(self, line: KernelLine) -> None:
        """/dev/kmsg has brought this line: its sequence number tells from now on that it is done."""
        is_mine = line.boot_id == self._boot_id and self._mark_us < 0  # those of klog it needs itself
        if self._near and line.kernel_us is not None and is_mine:
            identity = (line.kernel_us, _digest(line.text))
            if identity in self._near:
                self._near.remove(identity)

    def dump(self) -> str:
        """The state as one line of JSON."""
        self.changed = False
        near = [each for each in self._near if each[0] >= self._mark_us - _OUT_OF_ORDER_US]
        self._near = deque(near, _REMEMBERED)
        return json.dumps({"boot_id": self._boot_id, "mark_us": self._mark_us, "near": near})


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).hexdigest()
