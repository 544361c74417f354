"""What `analyze_xid_errors` says to people and assistants, in at most 600 tokens.

One line that sums up, then paragraphs in the order in which they matter, then what makes the answer less
than certain, and how to go on. Of many faults as many are told as there is room for; the structured
content has the others. The first paragraph is told whatever it takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from daemon.analysis import BlindSpots, FaultGroup
from daemon.event import Blame, Event, Item, parse_rfc3339
from daemon.page import MAX_LIMIT
from mcp_server.addresses import Place, uri_of_event, uri_of_incident
from mcp_server.incidents import is_open, line, paragraph
from mcp_server.node_analysis import Looked
from mcp_server.quote import moment, place, span, title, tokens
from mcp_server.wire_analysis import Finding

TEXT_TOKENS: Final = 600
"""What the text may cost its reader, by the estimate of `mcp_server.quote.tokens`."""


def told(looked: Looked) -> str:
    """The text of the answer."""
    return "\n".join(_paragraphs_that_fit(looked))


def _paragraphs_that_fit(looked: Looked) -> Iterator[str]:
    head, foot = _headline(looked), list(_foot(looked))
    paragraphs = _paragraphs(looked)
    room = TEXT_TOKENS - sum(map(tokens, (head, *foot, _left_out(len(paragraphs)))))
    shown = list(_fitting(paragraphs, room))
    yield head
    yield from shown
    if len(shown) < len(paragraphs):
        yield _left_out(len(paragraphs) - len(shown))
    yield from foot


def _fitting(paragraphs: Iterable[str], room: int) -> Iterator[str]:
    """As many as there is room for, in tokens; the first one in any case."""
    for number, text in enumerate(paragraphs):
        room -= tokens(text)
        if number and room < 0:
            return
        yield text


def _left_out(number: int) -> str:
    return f"{number} more, milder, older or over: see the structured content, or {Place.INCIDENTS}."


def _foot(looked: Looked) -> Iterator[str]:
    yield from _reservations(looked)
    if looked.incidents:
        yield "get_incident_report gives the reasons, the log lines, and what to collect before a reset."
    yield (
        f"Asked at {moment(looked.as_of_us)}. next_cursor={looked.next_cursor}: pass it as since to "
        "wait_for_xid to go on watching."
    )


def _paragraphs(looked: Looked) -> list[str]:
    """Open incidents, faults that belong to no incident told, what is over; drills after all of them."""
    open_ones = [
        (item.event.drill, _incident(item, looked)) for item in looked.incidents if is_open(item.event)
    ]
    single = [(group.worst.drill, _paragraph(group, looked)) for group in looked.single_groups]
    over = [(item.event.drill, line(item)) for item in looked.incidents if not is_open(item.event)]
    return [text for _, text in sorted([*open_ones, *single, *over], key=lambda each: each[0])]


def _incident(item: Item, looked: Looked) -> str:
    return paragraph(item, times=looked.times.get(item.event.id, 1), is_minimum=not looked.complete)


def _headline(looked: Looked) -> str:
    since = _since(looked)
    if looked.finding is Finding.FAULTS:
        return _what_is_wrong(looked, since)
    what = f"of severity {looked.severity} or worse"
    if looked.finding is Finding.CANNOT_HEAR:
        return (
            f"Cannot say whether {looked.node} has errors: nothing hears the kernel log. "
            f"None {what} is kept {since}."
        )
    heard = " and ".join(probe.name for probe in looked.probes if probe.live and probe.hears)
    end = ", but not everything was heard." if looked.finding is Finding.NOT_ALL_HEARD else "."
    return f"No errors {what} on {looked.node} {since}, heard by {heard}{end}"


def _since(looked: Looked) -> str:
    if looked.since_cursor:
        return f"since cursor {looked.since_cursor}"
    return f"since {moment(looked.from_us)}" if looked.from_us else "in what is kept"


def _what_is_wrong(looked: Looked, since: str) -> str:
    """How many of what; that none is open is not said when nothing is heard any more."""
    open_ones = looked.open_incidents
    over = sum(not item.event.drill for item in looked.incidents) - len(open_ones)
    single = [group.worst for group in looked.single_groups if not group.worst.drill]
    told = [*(item.event for item in open_ones), *single]
    parts = [_counted(len(open_ones), "open incident")] if open_ones else []
    parts += [_counted(len(single), "single fault" if looked.incidents else "fault")] if single else []
    if not told:
        quiet = (
            "No open incident" if looked.hears else "Nothing is heard now; before, no open incident was left"
        )
        return f"{quiet} on {looked.node}; {_counted(over, 'incident')} {since} that ended:"
    ended = f"; {_counted(over, 'incident')} ended" if over else ""
    deaf = "" if looked.hears else "Nothing is heard now, and before there was: "
    return f"{deaf}{' and '.join(parts)} on {looked.node} {since}, {_verdict(told)}{ended}:"


def _verdict(told: Sequence[Event]) -> str:
    """How bad the worst is, and when nothing but programs is to blame, that."""
    worst = max((event.severity for event in told), key=lambda severity: severity.rank)
    if all(event.blame is Blame.APPLICATION for event in told):
        return f"the worst is {worst}, and all of it is blamed on applications"
    return f"the worst is {worst}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _paragraph(group: FaultGroup, looked: Looked) -> str:
    worst, newest = group.worst, group.newest
    times = f"{group.count} times" if group.count > 1 else "once"
    drill = "DRILL, not a real fault: " if worst.drill else ""
    before = ", before the last reboot" if looked.is_before_reboot(group) else ""
    return (
        f"- {drill}[{worst.severity}] {' '.join([title(worst), *place(worst)])}, {times}, "
        f"{span(group.first_time_us, group.last_time_us)}{before}: "
        f"{worst.summary}. Blame: {worst.blame}. Action: {worst.action}. {worst.action_text}\n"
        f"  newest: {uri_of_event(newest.event.id)} cursor {newest.cursor}"
    )


def _reservations(looked: Looked) -> Iterator[str]:
    """What makes the answer less than certain."""
    if looked.open_before:
        uris = ", ".join(uri_of_incident(item.event.id) for item in looked.open_before[:3])
        more = ", …" if len(looked.open_before) > 3 else ""
        number = _counted(len(looked.open_before), "incident")
        yield f"Still open from before that time: {number}, {uris}{more}."
    for probe in looked.probes:
        if probe.live and not probe.hears:
            hint = f" ({probe.hint})" if probe.hint else ""
            yield f"Does not hear through {probe.name}: {probe.reason}{hint}."
    if not looked.probes:
        yield "No probe runs."
    blind = looked.blind
    if blind and blind.last_time_us is not None:
        yield f"Not heard: {' and '.join(_unheard(blind))}, the last at {moment(blind.last_time_us)}."
    if looked.asked_from_us is not None:
        begin = "" if looked.from_us is None else f" at {moment(looked.from_us)}"
        yield (
            f"Asked from {moment(looked.asked_from_us)} on, but what is kept begins only{begin}: nothing is "
            "known of the time before."
        )
    if looked.missed is not None:
        yield f"Cursors {looked.missed.first} to {looked.missed.last} were deleted by retention."
    if not looked.complete:
        yield f"Only the newest {MAX_LIMIT} events of each severity were looked at."
    if looked.drills_left_out:
        yield f"Left out: {looked.drills_left_out} kinds of drill (include_drills shows them)."
    if looked.forged_lines:
        yield (
            f"Not believed: {_counted(looked.forged_lines, 'line')} written by a process, not the kernel: "
            "forged, or drills, which this daemon does not allow."
        )
    if not looked.knows_a_driver and looked.finding is not Finding.FAULTS:
        yield "Neither the log nor /proc names an NVIDIA driver or GPU: there may be none to hear of."
    no_more_is_said = looked.finding is Finding.FAULTS or looked.asked_from_us is not None
    if looked.watching_since is not None and not no_more_is_said:
        started = moment(parse_rfc3339(looked.watching_since))
        yield (
            f"This daemon runs since {started}; of the time before it knows what its journal and the kernel "
            "log still held."
        )


def _unheard(blind: BlindSpots) -> Iterator[str]:
    if blind.gaps:
        lost = "an unknown number of" if blind.lost_records is None else blind.lost_records
        yield f"{lost} kernel records were lost in {blind.gaps} gap{'s' * (blind.gaps > 1)}"
    if blind.outages:
        yield f"a probe went down {blind.outages} time{'s' * (blind.outages > 1)}"
