"""Which reports Kubernetes gets: the values of `--node-reports`."""

from __future__ import annotations

from enum import StrEnum

from daemon.settings import did_you_mean
from probes.errors import UserError


class NodeReport(StrEnum):
    """One kind of report."""

    EVENTS = "events"
    """A Node Event for each critical or fatal fault."""
    CONDITIONS = "conditions"
    """The condition `GPUFatalError` in the status of the node."""


def parse_reports(text: str) -> frozenset[NodeReport]:
    """`events,conditions`, or `none`. Raises UserError."""
    if text == "none":
        return frozenset()
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in set(NodeReport):
            valid = ", ".join(NodeReport)
            raise UserError(
                f"{name!r} is not none, nor a list of {valid}", hint=did_you_mean(name, NodeReport)
            )
    return frozenset(NodeReport(name) for name in names)
