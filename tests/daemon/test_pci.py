"""PCI addresses: every spelling that the driver, NVML and people use."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon import pci


@pytest.mark.parametrize(
    ("spelling", "address"),
    [
        ("0000:91:00", "0000:91:00.0"),
        ("PCI:0000:91:00", "0000:91:00.0"),
        ("PCI:0000:a9:00.0", "0000:a9:00.0"),
        ("00000000:91:00.0", "0000:91:00.0"),
        ("00000008:06:00.0", "0008:06:00.0"),
        ("0000:AF:1E.7", "0000:af:1e.7"),
        ("91:00.0", "0000:91:00.0"),
        ("pci:18:00", "0000:18:00.0"),
        ("0001:00", "0000:01:00.0"),
        ("10000:e1:00.0", "10000:e1:00.0"),
        (" 0000:91:00.0 ", "0000:91:00.0"),
    ],
)
def test_every_spelling_becomes_one(spelling: str, address: str) -> None:
    assert pci.normalize(spelling) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "PCI:",
        "INVALID",
        "invalid-bdf.0",
        "91",
        "0000:91:00.8",
        "0000:9:00.0",
        "0000:91:00.0x",
        "0000:91:00\n",
        "0123:45",
        "000000000:91:00.0",
        "GPU-12345678-1234-1234-1234-123456789abc",
        "\u0660\u0660\u0660\u0660:91:00.0",
        "0" * 10_000,
    ],
)
def test_what_is_no_address_is_none(text: str) -> None:
    assert pci.normalize(text) is None


@given(
    st.integers(0, 0xFFFFFFFF),
    st.integers(0, 0xFF),
    st.integers(0, 0xFF),
    st.integers(0, 7),
)
def test_a_normalised_address_stays_as_it_is(domain: int, bus: int, device: int, function: int) -> None:
    address = f"{domain:04x}:{bus:02x}:{device:02x}.{function}"
    assert pci.normalize(address) == address
    assert pci.normalize(f"PCI:{domain:08X}:{bus:02X}:{device:02X}.{function}") == address


@given(st.text())
def test_any_text_gives_an_address_or_none(text: str) -> None:
    found = pci.normalize(text)
    assert found is None or pci.normalize(found) == found


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("GPU 0000:91:00.0: GPU has fallen off the bus.", "0000:91:00.0"),
        ("GPU at PCI:0000:9b:00 (printing 1 of every 30)", "0000:9b:00.0"),
        ("The NVIDIA GPU 0000:b3:00.0\nNVRM: (PCI ID: 10de:26b5)", "0000:b3:00.0"),
        ("GPU 18:00.0: GPU", "0000:18:00.0"),
        ("RmInitAdapter failed! (0x22:0x56:894)", None),
        ("(PCI ID: 10de:26b5) installed", None),
        ("at 12:34:56 o'clock", None),
        ("a" * 300 + " 0000:91:00.0", None),
    ],
)
def test_an_address_is_found_only_where_it_stands_alone(text: str, address: str | None) -> None:
    assert pci.search(text) == address
