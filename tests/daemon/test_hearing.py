"""What an event says of a line depends on the driver that the log itself names."""

from __future__ import annotations

import pytest

from tests.support.records import Heard, xid

LINK_DOWN = xid(149, "NETIR_LINK_EVT  Fatal   XC0 i0 Link 01 (0x021425c6 0x00000000 0x00000000 0x00000000)")


@pytest.mark.parametrize(
    ("version", "subcode", "investigation"),
    [
        ("570.158.01", 14, "INVESTIGATE_PEER_DEVICE"),
        ("580.159.04", 70, None),
        (None, 14, "INVESTIGATE_PEER_DEVICE"),
    ],
)
def test_the_words_of_an_nvlink_error_are_read_by_the_driver_that_was_loaded(
    version: str | None, subcode: int, investigation: str | None
) -> None:
    heard = Heard()
    if version is not None:
        heard.say(f"NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  {version}  Release Build", 1)
    [event] = heard.say(LINK_DOWN, 2)
    assert event.detail["subcode"] == subcode
    assert event.detail.get("nvidia_investigation") == investigation


def test_an_event_of_a_74_says_what_its_bits_mean() -> None:
    [event] = Heard().say(xid(74, "NVLink: fatal error detected on link 6(0x10, 0x0, 0x0, 0x0, 0x0)"), 1)
    assert event.detail["error_bits"] == [
        "word 1 bit 4: likely hardware (ECC or parity): report it if seen more than twice on this link"
    ]
