"""What a process without a source of readings says of its GPUs."""

from __future__ import annotations

import asyncio

from daemon.gpu.source import SourceName
from daemon.gpu.verdict import State
from mcp_server.services import unwatched


def test_a_process_that_looks_at_no_gpu_calls_none_healthy() -> None:
    look = asyncio.run(unwatched().health())
    assert (look.state.name, look.gpus) == (SourceName.OFF, ())
    assert look.verdict is not None
    assert look.verdict.state is State.UNKNOWN
    assert look.events_unread == "this process does not look at GPUs"
