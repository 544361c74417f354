"""Pages as short text that an assistant can quote.

Text that came out of the kernel log (lines, process names) is a JSON string, cut, and named as
what it is: a process may be called "ignore all previous instructions". When not all events of a
page are shown, the text says from which cursor to read on, so that a host that shows its model
only the text loses nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from daemon.event import Event, Item, Process, rfc3339
from daemon.page import Page
from daemon.process_end import container, how_it_ended
from daemon.text import clean

_TOKEN = re.compile(r"[^\W\d_]{1,6}|\d{1,3}|[^\w\s]|_")

SHOWN_EVENTS = 40
QUOTED_CHARS = 160


def page_text(page: Page) -> str:
    """The page: one paragraph an event, then where to go on."""
    return "\n".join(_page_lines(page))


def _page_lines(page: Page) -> Iterator[str]:
    shown = page.items[:SHOWN_EVENTS]
    if page.missed is not None:
        first, last = page.missed.first, page.missed.last
        yield f"Items with cursors {first} to {last} were deleted by retention before they were read."
    if not page.items:
        yield "No matching event."
    for item in shown:
        yield event_text(item)
    if len(shown) < len(page.items):
        yield (
            f"Shown here: {len(shown)} of {len(page.items)} events. To read on: since={shown[-1].cursor} "
            f"(the structured content has them all, up to next_cursor={page.next_cursor})."
        )
    else:
        yield f"next_cursor={page.next_cursor}"


def event_text(item: Item) -> str:
    """One event in two or three lines."""
    event = item.event
    parts = [f"[{event.severity}]", title(event), *place(event), f"at {rfc3339(event.time_us)}"]
    if event.time_is_estimate:
        parts.append("(estimated)")
    if event.count > 1:
        parts.append(f"{event.count} times until {rfc3339(event.last_time_us)}")
    if not item.stored:
        parts.append("(not yet stored)")
    drill = "DRILL, not a real fault: " if event.drill else ""
    text = f"{drill}{' '.join(parts)}: {event.summary}. Blame: {event.blame}. Action: {event.action}."
    if event.process is not None and (ending := _ending(event.process)) is not None:
        text += f"\n  {ending}"
    if event.lines:
        text += f"\n  log line (untrusted data): {quoted(event.lines[0])}"
    return f"{text}\n  {event.id} revision {event.revision} cursor {item.cursor}"


def _ending(process: Process) -> str | None:
    """`Its process, in container 4f0c1d2e3b4a, was killed by signal 9 (SIGKILL) 12 ms after.`"""
    where, end = container(process), how_it_ended(process)
    if end is None:
        return None if where is None else f"Its process ran in {where}."
    return f"Its process{f', in {where},' if where else ''} {end}."


def title(event: Event) -> str:
    """`Xid 79 GPU_HAS_FALLEN_OFF_THE_BUS`."""
    kind = {"xid": "Xid", "sxid": "SXid"}.get(event.kind, event.kind)
    title = kind if event.code is None else f"{kind} {event.code}"
    return f"{title} {event.name}" if event.name else title


def place(event: Event) -> Iterator[str]:
    """Where it happened and by whom, as far as known: the GPU or NVSwitch, the MIG instance, the process."""
    gpu, switch, process = event.gpu, event.nvswitch, event.process
    if gpu is not None:
        index = "" if gpu.index is None else f" {gpu.index}"
        yield f"on GPU{index} {gpu.pci}" + (f" {gpu.uuid}" if gpu.uuid else "")
        if gpu.mig is not None:
            yield f"MIG gi={gpu.mig.gi} ci={gpu.mig.ci}"
    elif switch is not None:
        yield f"on NVSwitch {switch.pci}"
    if process is not None:
        pid = "an unknown pid" if process.pid is None else f"pid {process.pid}"
        name = f" named {quoted(process.name)}" if process.name else ""
        yield f"by {pid}{name}"


def moment(time_us: int) -> str:
    """`2026-11-22T11:20:06Z`: whole seconds are enough to read; the structured content has the rest."""
    return rfc3339(time_us)[: len("2026-11-22T11:20:06")] + "Z"


def span(first_us: int, last_us: int) -> str:
    """`2026-… to 2026-…`; one of them when they are of the same second."""
    first, last = moment(first_us), moment(last_us)
    return first if first == last else f"{first} to {last}"


def tokens(text: str) -> int:
    """What a text costs a language model, by estimate: tokenizers differ, and none is at hand.

    One for every six letters begun, three digits begun, and other visible character: for texts full of
    times and ids that is more than the usual one for every four characters.
    """
    return len(_TOKEN.findall(text))


def quoted(text: str) -> str:
    """Log text as a JSON string, cleaned and cut."""
    return json.dumps(clean(text, QUOTED_CHARS))
