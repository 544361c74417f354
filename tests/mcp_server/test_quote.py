"""One event as text that an assistant can quote."""

from __future__ import annotations

from dataclasses import replace

import pytest

from daemon.event import Item, Process
from mcp_server.quote import event_text
from tests.support.events import XID_79

CONTAINER = "4f0c1d2e3b4a" + "0" * 52


@pytest.mark.parametrize(
    ("process", "words"),
    [
        (
            Process(446, "a", container_id=CONTAINER, exit_signal=9, exited_after_us=12_000),
            "Its process, in container 4f0c1d2e3b4a, was killed by signal 9 (SIGKILL) 12 ms after.",
        ),
        (Process(446, "a", exit_code=0), "Its process exited with code 0."),
        (Process(446, "a", container_id=CONTAINER), "Its process ran in container 4f0c1d2e3b4a."),
    ],
    ids=["killed in a container", "ended by itself", "nobody knows that it ended"],
)
def test_what_became_of_the_process_is_a_sentence(process: Process, words: str) -> None:
    text = event_text(Item.of(1, replace(XID_79, process=process), stored=True))
    assert f"\n  {words}\n" in text


def test_of_a_process_that_nobody_knows_nothing_is_said() -> None:
    text = event_text(Item.of(1, replace(XID_79, process=Process(446, "a")), stored=True))
    assert "Its process" not in text
