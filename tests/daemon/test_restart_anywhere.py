"""Promise 1, for the pipeline: a restart between any two records changes nothing that is told."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.event import Event
from daemon.pipeline import Pipeline, Snapshot
from tests.support.records import BOOT, GPU, OTHER_GPU, Heard, xid

WARP = xid(13, "Graphics SM Warp Exception on (GPC 1, TPC 4, SM 0): Misaligned Address")
ESR = xid(13, "Graphics Exception: ESR 0x519730=0x500000f 0x519734=0x0 0x519728=0x1f81fb60 0x51972c=0x1174")
LINES = [
    WARP,
    ESR,
    xid(13, "pid=1, name=a, Graphics Exception: channel 0x0000000a, Class 0000cbc0, Data 0017e2ac"),
    xid(31, "pid=1, name=a, channel 0x0000000a, intr 00000000. MMU Fault: ENGINE GRAPHICS"),
    xid(31, "pid=2, name=b, channel 0x0000000b, intr 00000000. MMU Fault: ENGINE GRAPHICS"),
    xid(48, "pid=1, name=a, DBE", OTHER_GPU),
    xid(79, "GPU has fallen off the bus."),
    f"NVRM: GPU {GPU}.0: GPU has fallen off the bus.",
    xid(154, "GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)"),
]
STEPS = st.tuples(st.sampled_from(LINES), st.sampled_from([10, 1_500, 99_000, 101_000, 900_000, 4_000_000]))


def told(steps: list[tuple[str, int]], restarts: set[int]) -> list[Event]:
    """The last revision of every event, with a restart before each step in `restarts`."""
    heard = Heard()
    heard.pipeline.restore(Snapshot({}, None), boot_id=BOOT, now_us=0)
    at_us = 0
    for n, (text, step_us) in enumerate(steps):
        if n in restarts:
            saved = heard.pipeline.snapshot()
            heard.pipeline = Pipeline(node="test-node")
            heard.revisions += heard.pipeline.restore(saved, boot_id=BOOT, now_us=at_us)
        at_us += step_us
        heard.pass_time(at_us)
        heard.say(text, at_us)
    heard.pass_time(at_us + 600_000_000)
    published: dict[str, int] = {}
    for event in heard.revisions:
        assert event.revision == published.get(event.id, 0) + 1, "a revision was skipped or told twice"
        published[event.id] = event.revision
    return [replace(event, revision=0) for event in heard.events()]


@settings(max_examples=300, deadline=None)
@given(st.lists(STEPS, max_size=25), st.sets(st.integers(0, 24), max_size=6))
def test_a_restart_anywhere_tells_the_same_events(steps: list[tuple[str, int]], restarts: set[int]) -> None:
    assert told(steps, restarts) == told(steps, set())
