"""A name server that does not answer holds nobody up."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any

import pytest

from daemon.sinks.names import NameLookup
from tests.support.waiting import DEADLINE_S


def test_a_look_up_that_hangs_does_not_keep_the_process_from_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()
    in_time: list[bool] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: in_time.append(answered.wait(DEADLINE_S)))

    async def main() -> None:
        names = NameLookup()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await names.look_up("https://alerts.example.com/gpu")
        names.close()

    asyncio.run(main())
    assert in_time == [], "asyncio.run waited for the look-up"
    answered.set()


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://[fe80::1%25eth0]:9/x"])
def test_an_address_is_none_to_look_up(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(socket, "getaddrinfo", asked.append)
    asyncio.run(NameLookup().look_up(url))
    assert asked == []


def test_a_name_behind_a_proxy_is_the_proxys_to_look_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:3128")
    asked: list[Any] = []
    monkeypatch.setattr(socket, "getaddrinfo", asked.append)
    asyncio.run(NameLookup().look_up("https://name.invalid"))
    assert asked == []


def test_a_name_without_an_address_is_an_error() -> None:
    async def main() -> None:
        names = NameLookup()
        try:
            with pytest.raises(OSError, match=r".+"):
                await names.look_up("http://name.invalid")
        finally:
            names.close()

    asyncio.run(main())
