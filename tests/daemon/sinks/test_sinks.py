"""All sinks together: each stops nothing but itself."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from daemon.ring import Ring
from daemon.sinks.alerts import AlertBook
from daemon.sinks.batch import Node
from daemon.sinks.configuration import load
from daemon.sinks.cursor import path_of
from daemon.sinks.health import SinkState
from daemon.sinks.sinks import Sinks
from daemon.sinks.targets import SinkConfig
from daemon.stream import EventStream
from tests.daemon.stored import in_loop, until
from tests.support.events import TIME_US, item
from tests.support.receiver import Answer, Receiver


def configured(directory: Path, **urls: str) -> Sequence[SinkConfig]:
    """A webhook for each name, and an Alertmanager called `am`."""
    file = directory / "sinks.toml"
    file.write_text(
        "".join(
            f'[[sink]]\nname = "{name}"\ntype = "{"alertmanager" if name == "am" else "webhook"}"\n'
            f'url = "{url}"\nper-minute = 600\n'
            for name, url in urls.items()
        ),
        encoding="utf-8",
    )
    return load(file)


def sinks_on(stream: EventStream, directory: Path, configs: Sequence[SinkConfig]) -> Sinks:
    node = Node("test-node", lambda: TIME_US - 1)
    return Sinks(configs, stream, state_dir=directory, node=node, agent="xidwatch/test")


def stream_of(*cursors: int) -> EventStream:
    stream = EventStream(Ring(1000, reserve=0), first_cursor=1000)
    stream.publish([item(cursor, id=f"ev_{cursor}") for cursor in cursors])
    return stream


def test_a_bug_in_one_sink_is_counted_and_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(AlertBook, "select", broken)

    async def main(receiver: Receiver) -> None:
        stream = stream_of()
        sinks = sinks_on(stream, tmp_path, configured(tmp_path, am=receiver.url, pager=receiver.url))
        sinks.start()
        stream.publish([item(1001)])
        await until(lambda: receiver.taken and sinks.health()[0].internal_errors)
        assert [health.name for health in sinks.health()] == ["am", "pager"]
        assert [health.as_outlet().up for health in sinks.health()] == [False, True]
        assert "an error of its own" in (sinks.health()[0].reason or "")
        stream.close()
        await sinks.close()

    with Receiver() as receiver:
        in_loop(lambda: main(receiver))
        assert [post.path for post in receiver.received] == ["/"]
    assert "sink am failed" in caplog.text


def test_the_end_breaks_off_what_hangs_and_saves_where_each_sink_is(tmp_path: Path) -> None:
    async def main(slow: Receiver, quick: Receiver) -> None:
        stream = stream_of()
        configs = configured(tmp_path, slow=slow.url, quick=quick.url)
        sinks = sinks_on(stream, tmp_path, configs)
        sinks.start()
        stream.publish([item(1001)])
        await until(lambda: slow.received and quick.taken)
        await until(lambda: sinks.health()[1].cursor == 1001)
        stream.close()
        await sinks.close()
        assert sinks.health()[1].state is SinkState.OK

    with Receiver(lambda received: Answer(hangs=True)) as slow, Receiver() as quick:
        in_loop(lambda: main(slow, quick))
    cursors = {name: json.loads(path_of(tmp_path, name).read_text())["cursor"] for name in ("slow", "quick")}
    assert cursors == {"slow": 0, "quick": 1001}


def test_the_next_process_goes_on_where_the_last_one_was_and_forgets_sinks_that_are_gone(
    tmp_path: Path,
) -> None:
    async def first(receiver: Receiver) -> None:
        stream = stream_of()
        sinks = sinks_on(stream, tmp_path, configured(tmp_path, pager=receiver.url, old=receiver.url))
        sinks.start()
        stream.publish([item(1001, id="ev_1001")])
        await until(lambda: len(receiver.taken) == 2)
        stream.close()
        await sinks.close()

    async def second(receiver: Receiver) -> None:
        stream = stream_of(1001, 1002)
        sinks = sinks_on(stream, tmp_path, configured(tmp_path, pager=receiver.url, new=receiver.url))
        sinks.start()
        await until(lambda: len(receiver.taken) == 3)
        stream.publish([item(1003, id="ev_1003")])
        await until(lambda: len(receiver.taken) == 5)
        stream.close()
        await sinks.close()

    with Receiver() as receiver:
        in_loop(lambda: first(receiver))
        in_loop(lambda: second(receiver))
        by_sink = [(post.json["sink"], post.ids) for post in receiver.taken[2:]]
    assert by_sink[0] == ("pager", ["ev_1002"])
    assert sorted(by_sink[1:]) == [("new", ["ev_1003"]), ("pager", ["ev_1003"])]
    assert not path_of(tmp_path, "old").exists()


def test_an_end_before_the_cursor_was_read_leaves_it_as_it_is(tmp_path: Path) -> None:
    path = path_of(tmp_path, "pager")
    path.parent.mkdir()
    text = '{"version": 1, "cursor": 7, "memory": {"told": {}}, "skipped": []}'
    path.write_text(text)

    async def main() -> None:
        sinks = sinks_on(stream_of(1001), tmp_path, configured(tmp_path, pager="http://127.0.0.1:9"))
        sinks.start()
        await sinks.close()
        await asyncio.sleep(0)

    in_loop(main)
    assert path.read_text() == text
