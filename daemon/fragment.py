"""One record of the log, several calls of printk(): what each of them printed is a fragment of it.

The driver prints with KERN_CONT. Where the task or CPU that prints has not finished a line, the kernel
puts such text behind that line: /dev/kmsg and syslog(2) show one record, while eBPF hears every call by
itself. The fragment that tells of a fault stands where the grammar finds that fault in the record.

That it was a call of its own does not prove that the driver made it: the kernel prints names which a
process chose by calls of their own as well (`pr_cont_cgroup_name()` behind `cpuset=` in the report of an
out-of-memory kill).
"""

from __future__ import annotations

from typing import Final

from daemon.decoded import Fault
from daemon.grammar import decode, find
from probes.log_formats import MARKERS

_BEGINNING: Final = len("NVRM: Xid (PCI:0000:91:00): 31, ")


def place_of(text: str) -> int:
    """Where in a message its fault begins: 0, or behind other text."""
    found = find(text) if _names_driver_again(text) else None
    if not isinstance(found, Fault) or not found.glued:
        return 0
    places = (place for place in range(1, len(text)) if text.startswith(MARKERS, place))
    return next(place for place in places if _tells_it(text[place:], found))


def beginning(text: str) -> str:
    """What a record and its fragment that tells of the fault have in common, however it goes on."""
    place = place_of(text)
    return text[place : place + _BEGINNING].partition("\n")[0]


def is_fragment(heard: str, record: str) -> bool:
    """True when the call that printed `heard` made a part of `record`, the one that tells of its fault."""
    if heard in ("", record) or heard not in record:
        return False
    return place_of(heard) == 0 and record.startswith(heard, place_of(record))


def _names_driver_again(text: str) -> bool:
    """Without that the grammar finds nothing behind other text; most lines end here."""
    return text.find("NVRM: ", 1) > 0 or text.find("nvidia-nvswitch", 1) > 0


def _tells_it(text: str, found: Fault) -> bool:
    fault = decode(text)
    return isinstance(fault, Fault) and (fault.kind, fault.code, fault.pci, fault.text) == (
        found.kind,
        found.code,
        found.pci,
        found.text,
    )
