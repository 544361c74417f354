"""What of a log has been worked off where no sequence numbers tell, so that a restart tells nothing twice.

syslog(2) gives the whole log again after each start, also of what /dev/kmsg had brought to the process
before; and eBPF may hear a line that no other probe has brought yet. They are known by kernel time and text:
everything older than a mark is done, and of what is near the mark, or was heard ahead of it, a digest of each
line is kept. Kernel times may be milliseconds out of order, so the mark alone would lose lines. /dev/kmsg has
a mark of its own: what it brings is known by its numbers, and only syslog(2) needs that mark.

Saved as one row of state, in the same transaction as the events. Belongs to the intake.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict, deque
from functools import lru_cache
from typing import Any

from probes.klog import NAME as KLOG
from probes.line import KernelLine

_OUT_OF_ORDER_US = 10_000
_REMEMBERED = 1024
_NOTHING = -1

_Identity = tuple[int, str]
"""Kernel time in µs, and a digest of the first line: syslog(2) shows each line by itself."""


class Passed:
    """Lines of one boot; what an earlier process had done, and what is done by now."""

    def __init__(self, boot_id: str, saved: str | None) -> None:
        """`saved` is what `dump` gave, or None; that of another boot, or that cannot be read, is none."""
        self.changed = False
        """True while the saved copy is out of date."""
        self.is_pressing = False
        """True while nothing but a new copy would tell what is done."""
        self._boot_id = boot_id
        self._klog, self._kmsg = _Mark(), _Mark()
        try:
            data = json.loads(saved) if saved is not None else {}
            if data.get("boot_id") == boot_id:
                self._klog, self._kmsg = _Mark(data["klog"]), _Mark(data["kmsg"])
        except (ValueError, TypeError, KeyError, AttributeError):
            self._klog, self._kmsg = _Mark(), _Mark()

    def was_done(self, line: KernelLine) -> bool:
        """True, once for each line, when an earlier process had worked this line off."""
        identity = self._identity(line)
        if identity is None:
            return False
        by_klog = self._klog.was_done(identity, line.probe)
        by_kmsg = line.probe == KLOG and self._kmsg.was_done(identity, KLOG)
        return by_klog or by_kmsg

    def note(self, line: KernelLine) -> None:
        """The events of this line are being kept. Only lines with the log's own time may be noted."""
        identity = self._identity(line)
        if identity is not None:
            self._klog.add(identity, moves=line.probe == KLOG)
            self.changed = self.is_pressing = True

    def shown(self, line: KernelLine) -> None:
        """/dev/kmsg has brought this line: its sequence number tells from now on that it is done."""
        identity = self._identity(line)
        if identity is not None:
            self._kmsg.add(identity, moves=True)
            self.changed = True
            if self._klog.is_unset:  # the lines of klog it needs itself
                self._klog.forget(identity)

    def dump(self) -> str:
        """The state as one line of JSON."""
        self.changed = self.is_pressing = False
        return json.dumps({"boot_id": self._boot_id, "klog": self._klog.dump(), "kmsg": self._kmsg.dump()})

    def _identity(self, line: KernelLine) -> _Identity | None:
        if line.kernel_us is None or line.boot_id != self._boot_id:
            return None
        return line.kernel_us, _digest(line.text.partition("\n")[0])


class _Mark:
    """How far one probe has come, and what is done near there."""

    def __init__(self, saved: dict[str, Any] | None = None) -> None:
        """`saved` is what `dump` gave. Raises ValueError, TypeError or KeyError when it is none."""
        self._at_us = _NOTHING
        self._forgotten_us = _NOTHING  # up to here, what was near is no longer known line by line
        self._near: deque[_Identity] = deque()
        if saved is not None:
            self._at_us, self._forgotten_us = int(saved["at_us"]), int(saved["forgotten_us"])
            self._near.extend((int(at_us), str(digest)) for at_us, digest in saved["near"])
        self._done_before_us = max(self._at_us - _OUT_OF_ORDER_US, min(self._forgotten_us + 1, self._at_us))
        near = tuple(self._near)
        self._done: defaultdict[str, Counter[_Identity]] = defaultdict(lambda: Counter(near))

    @property
    def is_unset(self) -> bool:
        return self._at_us == _NOTHING

    def was_done(self, identity: _Identity, probe: str) -> bool:
        done = self._done[probe]  # each probe shows it once
        is_near = done[identity] > 0
        if is_near:
            done[identity] -= 1
        return is_near or identity[0] < self._done_before_us

    def add(self, identity: _Identity, *, moves: bool) -> None:
        if moves:
            self._at_us = max(self._at_us, identity[0])
        self._near.append(identity)
        if len(self._near) > _REMEMBERED:
            self._forgotten_us = max(self._forgotten_us, self._near.popleft()[0])

    def forget(self, identity: _Identity) -> None:
        if identity in self._near:
            self._near.remove(identity)

    def dump(self) -> dict[str, Any]:
        near = [each for each in self._near if each[0] >= self._at_us - _OUT_OF_ORDER_US]
        self._near = deque(near)
        return {"at_us": self._at_us, "forgotten_us": self._forgotten_us, "near": near}


@lru_cache(maxsize=64)
def _digest(text: str) -> str:
    """Asked for twice of each line: whether it was done, and to note it."""
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).hexdigest()
