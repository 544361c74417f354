"""What the tests of the eBPF probe share: a machine that can, and a probe whose sink can be waited on."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from probes.bpf.availability import attach
from probes.bpf.probe import BpfProbe
from probes.bpf.unavailable import Unavailable
from probes.health import ProbeHealth
from probes.kmsg import OnChange
from tests.support.bpf import Hear
from tests.support.listening import Listener
from tests.support.real_kernel_log import skip_unless_usable


@pytest.fixture(scope="session")
def bpf_machine() -> None:
    """Skip, with the reason, where no program can be loaded or no line written."""
    skip_unless_usable()
    found = attach()
    if isinstance(found, Unavailable):
        pytest.skip(found.reason)
    found.close()


@pytest.fixture
def hear(bpf_machine: None) -> Hear:
    """Runs a test in an event loop with a probe that hears, and returns the sink."""

    def run(
        test: Callable[[Listener, BpfProbe], Awaitable[None]],
        on_change: OnChange = lambda health: None,
        **options: Any,
    ) -> Listener:
        async def main() -> Listener:
            listener = Listener()

            def changed(health: ProbeHealth) -> None:
                on_change(health)
                listener.wake()

            probe = BpfProbe(listener, on_change=changed, **options)
            probe.start()
            try:
                await test(listener, probe)
            finally:
                probe.close()
            return listener

        return asyncio.run(main())

    return run


@pytest.fixture
def token() -> str:
    """A word that no other line of the log holds."""
    return secrets.token_hex(8)
