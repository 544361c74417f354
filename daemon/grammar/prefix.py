"""What stands before the message in a saved log.

Only `xidwatch decode` and `explain` need this; a live probe hands on the bare message, and a replay reads
whole files. The formats are those of `probes.log_formats`, which also says what each of them proves.
Nothing here decides whether a line is a fault.
"""

from __future__ import annotations

from probes.line import Origin
from probes.log_formats import MARKERS, parse

__all__ = ["MARKERS", "strip_prefix"]


def strip_prefix(line: str) -> tuple[str, Origin]:
    """The message of a saved log line, and who printed it as far as the format says.

    A line without a known prefix, or of another program, comes back as it is: a program that quotes an
    Xid in its own log reports nothing.
    """
    if line.startswith(MARKERS):
        return line, Origin.UNKNOWN
    found = parse(line)
    if found is None or found.text is None:
        return line, Origin.UNKNOWN
    return found.text, found.origin
