"""The reads of the worker, in a process that loads the fake libnvidia-ml: what the tests ask.

`python -m tests.support.gpu_reader` reads one JSON request a line and answers with one line.
"""

from __future__ import annotations

import fnmatch
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.support.fake_nvml import Scenario

ROOT = Path(__file__).parents[2]

INVALID_ARGUMENT, NOT_SUPPORTED, TIMEOUT, FUNCTION_NOT_FOUND = 2, 3, 10, 13
VERSION_MISMATCH, UNKNOWN = 25, 999
UNSUPPORTED = "not supported by this GPU"
OLD = "not known to this driver version"


class ReaderProcess:
    """A process with the fake library; each question is asked of a fresh Device unless `again`."""

    def __init__(self, scenario: Scenario) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.gpu_reader"],
            cwd=ROOT,
            env={**os.environ, **scenario.environment()},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(
        self, operation: str, *, again: bool = False, gpu: int = 0, **arguments: object
    ) -> dict[str, Any]:
        """The payload as JSON; AssertionError when the operation raised anything but DeviceGone.

        `{"gone": message}` where it raised that.
        """
        request = {"operation": operation, "again": again, "gpu": gpu, "arguments": arguments}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        assert "raised" not in answer, answer["raised"]
        return answer

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)
        assert self._process.stdout is not None
        self._process.stdout.close()


def without_field(scenario: Scenario, field: int | str, code: int) -> None:
    """The field value `field` answers the error `code`."""
    scenario.answers(f"field({field})", code, 0, 0, 0)


def nulls(value: object, path: str) -> Iterator[str]:
    """The paths of every null within, but for objects that keep reasons of their own."""
    if value is None:
        yield path
    elif isinstance(value, Mapping):
        if path and "unread" in value:
            everything_null_has_a_reason(value)
            return
        for name, inner in value.items():
            if name != "unread":
                yield from nulls(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from nulls(inner, f"{path}.{number}")


def everything_null_has_a_reason(payload: Mapping[str, Any]) -> None:
    """Each null has one reason, and each reason is one of a null."""
    found = set(nulls(payload, ""))
    reasons = set()
    for path, reason in payload["unread"].items():
        assert reason
        matching = fnmatch.filter(found, path)
        assert matching, f"{path} has a reason and a value"
        reasons.update(matching)
    assert found - reasons == set(), "null without a reason"


def _serve() -> None:
    import pynvml  # type: ignore[import-untyped]  # nvidia-ml-py has no types

    from daemon.gpu import call_notes
    from daemon.gpu.worker.device import Device, DeviceGone
    from daemon.gpu.worker.reads import OPERATIONS

    pynvml.nvmlInit()
    slot = call_notes.CallNotes(call_notes.create()).slot("test")
    devices: dict[int, Device] = {}
    for line in sys.stdin:
        request = json.loads(line)
        gpu = request["gpu"]
        if not request["again"] or gpu not in devices:
            devices[gpu] = Device("0000:18:00.0", pynvml.nvmlDeviceGetHandleByIndex(gpu), slot)
        try:
            answer = OPERATIONS[request["operation"]](devices[gpu], request["arguments"])
        except DeviceGone as gone:
            answer = {"gone": gone.message}
        except Exception as error:
            answer = {"raised": repr(error)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
