"""`python -m tests.on_call.document`: play every situation and write docs/on-call.md.

What differs from run to run is replaced: times by `TIME`, ids by numbers, cursors by `N`.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from daemon.event import Severity
from mcp_server.quote import tokens
from tests.on_call.scene import Answer, Scene
from tests.on_call.situations import SITUATIONS, Line, Situation
from tests.support.daemon import ROOT

DOCUMENT = ROOT / "docs" / "on-call.md"
MOST_LINES = 12
"""Of a situation's log; of more, the first and last half of them."""
HEADER = """\
# On call

What `analyze_xid_errors` answers in the situations in which it is asked, and how good the answer is. Every
one is played by `tests/on_call` against a running daemon and asked over MCP; `make test` fails when an
answer is no longer the one printed here, and `python -m tests.on_call.document` writes it anew.

Times stand as `TIME`, cursors as `N`; ids are numbered. *Tokens* are an estimate: one for every six letters
begun, three digits begun, and other visible character, which for these texts is a quarter to two fifths
more than the usual one for every four characters. The budget of an answer is 600. Below each answer stands
what of the structured content matters most.
"""

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z")
_ID = re.compile(r"\b(inc|ev)_[0-9a-f]{20}\b")


def section(number: int, situation: Situation, answers: Sequence[Answer], directory: Path) -> str:
    """One situation in Markdown."""
    parts = [f"## {number}. {situation.title}", situation.story]
    if situation.past:
        parts.append(_block(_lines(situation.past)))
    if situation.lines:
        parts.append(_block(_lines(situation.lines)))
    for arguments, (data, answer) in zip(situation.questions, answers, strict=True):
        text = normalised(answer, directory)
        asked = f"with `{json.dumps(dict(arguments))}`" if arguments else "without arguments"
        parts.append(f"Asked {asked}; {cost(text)} tokens:")
        parts.append(_block(text.splitlines()))
        parts.append(_block(essentials(data), "json"))
    parts.append(f"**Judged:** {situation.judgement}")
    return "\n\n".join(parts) + "\n"


def normalised(text: str, directory: Path) -> str:
    """The answer without what differs from run to run."""
    text = text.replace(str(directory), "/node")
    text = _TIME.sub("TIME", text)
    text = text.replace("TIME to TIME", "TIME")  # within one second, or not
    text = re.sub(r"\b(cursor |next_cursor=)\d+", r"\1N", text)
    names: dict[str, str] = {}
    return _ID.sub(lambda found: names.setdefault(found[0], f"{found[1]}_{len(names) + 1}"), text)


def cost(text: str) -> int:
    """The tokens of a normalised text with everything put back in its full length."""
    whole = text.replace("TIME", "2026-11-22T11:20:06Z")
    whole = re.sub(r"\b(inc|ev)_\d+\b", r"\1_1185928c7b7f37a65b48", whole)
    whole = re.sub(r"(cursor |next_cursor=)N", r"\g<1>1795365978363", whole)
    return tokens(whole)


def essentials(data: Mapping[str, Any]) -> Iterator[str]:
    """Of the structured content what decides, an object a line."""
    hearing = data["hearing"]
    yield json.dumps(
        {
            "finding": data["finding"],
            "complete": data["complete"],
            "open_incidents": data["open_incidents"],
            "open_before": len(data["open_before"]),
            "drills_left_out": data["drills_left_out"],
            "hears": hearing["hears"],
            "gaps": hearing["gaps"],
            "lost_records": hearing["lost_records"],
            "forged_lines": hearing["forged_lines"],
            "reaches_what_was_asked": data["asked_from_time"] is None,
        }
    )
    for each in data["incidents"]:
        keys = ("state", "severity", "code", "blame", "action", "before_reboot", "gpus")
        yield json.dumps({"incident": {key: each[key] for key in keys}})
    for each in sorted(data["groups"], key=_worst_first):
        shown = {key: each[key] for key in ("severity", "code", "blame", "action", "count")}
        yield json.dumps({"group": {**shown, "gpu": each["gpu"] and each["gpu"]["pci"]}})


def _worst_first(group: Mapping[str, Any]) -> tuple[int, int, str]:
    gpu = group["gpu"]
    return (-Severity(group["severity"]).rank, group["code"] or 0, gpu["pci"] if gpu else "")


def _lines(lines: Sequence[Line]) -> Iterator[str]:
    shown = list(lines)
    half = MOST_LINES // 2
    left = len(lines) - MOST_LINES
    for line in shown if left <= 0 else shown[:half]:
        yield from _line(line)
    if left > 0:
        yield f"… {left} lines"
        for line in shown[-half:]:
            yield from _line(line)


def _line(line: Line) -> Iterator[str]:
    if line.lost_before:
        yield f"({line.lost_before} records overwritten unread)"
    by = "   (written by a process)" if line.by_a_process else ""
    yield f"[{100 + line.at_s:11.6f}] {line.text}{by}"


def _block(lines: Sequence[str] | Iterator[str], language: str = "text") -> str:
    return "\n".join([f"```{language}", *lines, "```"])


def played(number: int, situation: Situation, directory: Path) -> tuple[str, Sequence[Answer]]:
    """Play it; its section of the document, and the answers as they were given."""
    with Scene(directory, allow_drills=situation.allow_drills, readable=situation.readable) as scene:
        situation.play(scene)
        answers = [scene.ask(arguments) for arguments in situation.questions]
    return section(number, situation, answers, directory), answers


def main() -> int:
    """Write the document."""
    sections = []
    for number, situation in enumerate(SITUATIONS, start=1):
        with tempfile.TemporaryDirectory() as directory:
            sections.append(played(number, situation, Path(directory))[0])
        sys.stderr.write(f"{number}. {situation.title}\n")
    DOCUMENT.write_text("\n".join([HEADER, *sections]), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
