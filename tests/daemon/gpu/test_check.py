"""What `xidwatch doctor` says of reading GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from daemon.gpu.check import check
from daemon.gpu.mock import MockFleet, MockSource, parse
from daemon.gpu.protocol import Trouble
from daemon.gpu.readings import Reading
from daemon.gpu.source import Sweep
from probes.health import Verdict


class OneHangs(MockSource):
    """Mock GPUs of which the last hangs before its address is known."""

    async def inventory(self, gpus: Sequence[str] | None = None, *, insist: bool = False) -> Sweep:
        sweep = await super().inventory(gpus, insist=insist)
        last = len(sweep.gpus) - 1
        hung = Reading(f"#{last}", answered=False, trouble=Trouble.HUNG, reason="it hangs")
        return replace(sweep, gpus=(*sweep.gpus[:last], hung))


def fleet() -> MockFleet:
    return MockFleet(parse("[[gpu]]\n[[gpu]]\n"))


def test_gpus_that_answer_are_counted() -> None:
    found = check(MockSource(fleet()))
    assert (found.verdict, found.finding) == (Verdict.OK, "2 GPUs invented (--gpu mock)")


def test_a_gpu_that_hangs_before_its_address_is_known_is_named_by_its_index() -> None:
    found = check(OneHangs(fleet()))
    assert found.verdict is Verdict.WARN
    assert found.finding == "1 of 2 GPUs do not answer; GPU at NVML index 1: it hangs"
