"""The JSON object of one decoded log line: the keys of an event that one line can give.

The same object for `xidwatch decode`, `xidwatch explain` and the MCP tool. Log text in it is cleaned.
"""

from __future__ import annotations

from typing import Any

from daemon.catalog import detail, meaning
from daemon.decoded import Fault
from daemon.event import Kind
from daemon.text import clean
from probes.line import Origin


def to_dict(fault: Fault, text: str, origin: Origin, driver_version: str | None = None) -> dict[str, Any]:
    """What the line says and means; `text` is the message that `fault` was read from.

    `driver_version` decides between the meanings that a code had over time; None is the current one.
    """
    means = meaning(fault, driver_version)
    is_switch = fault.kind is Kind.SXID
    has_process = fault.pid is not None or fault.process_name is not None
    return {
        "kind": fault.kind,
        "code": fault.code,
        "name": means.name or fault.name,
        "summary": means.summary,
        "severity": means.severity,
        "blame": means.blame,
        "action": means.action,
        "action_text": means.action_text,
        "gpu": None if is_switch else _gpu(fault),
        "nvswitch": {"pci": fault.pci, "instance": fault.nvswitch} if is_switch else None,
        "process": {
            "pid": fault.pid,
            "name": fault.process_name,
            "container_id": None,
            "pod": None,
            "exit_code": None,
            "in_container": None,
            "command_line": None,
            "user": None,
            "started": None,
            "cgroup": None,
            "exit_signal": None,
            "exited_after_us": None,
        }
        if has_process
        else None,
        "detail": detail(fault, driver_version),
        "lines": [clean(text)],
        "origin": origin,
        "drill": fault.drill,
        "driver_version": fault.detail.get("driver_version"),
    }


def _gpu(fault: Fault) -> dict[str, Any] | None:
    if fault.pci is None:
        return None
    mig = fault.mig and {"gi": fault.mig.gi, "ci": fault.mig.ci}
    return {"pci": fault.pci, "uuid": None, "serial": None, "index": None, "name": None, "mig": mig}
