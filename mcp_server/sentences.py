"""What pydantic finds wrong with input, said in one sentence for people and assistants."""

from __future__ import annotations

from pydantic import ValidationError

from daemon.text import clean


def validation_sentence(error: ValidationError) -> str:
    """`since: Input should be a valid integer; limt: not known here`, at most three findings."""
    findings = []
    for each in error.errors(include_url=False, include_context=False, include_input=False)[:3]:
        place = ".".join(str(part) for part in each["loc"])
        text = "not known here" if each["type"] == "extra_forbidden" else each["msg"]
        findings.append(clean(f"{place}: {text}" if place else text, 160))
    return "; ".join(findings)
