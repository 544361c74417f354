"""The words for how a process ended."""

from __future__ import annotations

import pytest

from daemon.event import Process
from daemon.process_end import container, how_it_ended


@pytest.mark.parametrize(
    ("process", "words"),
    [
        (Process(1, exit_signal=9, exited_after_us=12_345), "was killed by signal 9 (SIGKILL) 12 ms after"),
        (Process(1, exit_signal=6, exited_after_us=-400), "was killed by signal 6 (SIGABRT) 0.4 ms before"),
        (Process(1, exit_signal=40, exited_after_us=2_500_000), "was killed by signal 40 2.5 s after"),
        (Process(1, exit_code=0, exited_after_us=9_999), "exited with code 0 10.0 ms after"),
        (Process(1, exit_code=1), "exited with code 1"),
        (Process(1, exited_after_us=50_000), "ended 50 ms after"),
        (Process(1), None),
    ],
)
def test_the_end_of_a_process_in_words(process: Process, words: str | None) -> None:
    assert how_it_ended(process) == words


def test_a_container_is_named_as_its_tools_name_it() -> None:
    assert container(Process(1, container_id="4f0c1d2e3b4a" + "0" * 52)) == "container 4f0c1d2e3b4a"
    assert container(Process(1)) is None
