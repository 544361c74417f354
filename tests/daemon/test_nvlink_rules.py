"""NVIDIA's tables for the words of NVLink errors are read as they are meant."""

from __future__ import annotations

from typing import Any

import pytest

from daemon.catalog import bucket_text, detail, meaning
from daemon.decoded import Fault
from daemon.event import Action, Severity
from daemon.grammar import decode
from daemon.nvlink_rules import readings, rule, subcode
from daemon.tables import rows

LINE = "NVRM: Xid (PCI:0009:01:00): {code}, {unit} {word} XC0 i0 Link 01 ({first} {status} 0x00000000)"


def xid(code: int, unit: str, word: str, first: str, status: str = "0x00000000") -> Fault:
    decoded = decode(LINE.format(code=code, unit=unit, word=word, first=first, status=status))
    assert isinstance(decoded, Fault)
    return decoded


BEFORE_R575 = xid(149, "NETIR_LINK_EVT", "Fatal", "0x021425c6")
FROM_R575 = xid(149, "NETIR_LINK_DOWN", "Fatal", "0x02100011")


def test_the_drivers_version_chooses_the_layout_of_the_words() -> None:
    assert detail(BEFORE_R575, "570.158.01")["subcode"] == 14
    assert detail(FROM_R575, "575.51.02")["subcode"] == 17
    assert detail(FROM_R575, "580.159.04")["nvidia_investigation"] == "INVESTIGATE_PEER_DEVICE"


def test_words_that_do_not_fit_the_drivers_layout_have_no_rule() -> None:
    assert rule(149, BEFORE_R575.detail, "580.159.04") is None
    assert rule(149, FROM_R575.detail, "570.158.01") is None
    assert detail(BEFORE_R575, "580.159.04")["subcode"] == 70


@pytest.mark.parametrize("fault", [BEFORE_R575, FROM_R575])
@pytest.mark.parametrize("version", [None, "", "a driver never seen"])
def test_without_a_version_the_layout_that_fits_the_unit_is_taken(fault: Fault, version: str | None) -> None:
    found = rule(149, fault.detail, version)
    assert found is not None
    assert (found.action, found.severity) == ("RESET_GPU", "Link Fatal")
    assert detail(fault, version)["subcode"] == found.subcode


def test_words_outside_the_tables_keep_both_readings_and_get_no_rule() -> None:
    fault = xid(149, "NETIR_LINK_EVT", "Fatal", "0x03f425c6")
    found = detail(fault)
    assert "nvidia_action" not in found
    assert "subcode" not in found
    assert (found["subcode_before_r575"], found["subcode_from_r575"], found["reason"]) == (14, 70, 63)
    assert meaning(fault).severity is Severity.FATAL
    assert subcode(found, "999.1") == 70


@pytest.mark.parametrize(
    ("fault", "severity", "action"),
    [
        (BEFORE_R575, Severity.FATAL, Action.DRAIN_AND_RESET),
        (xid(149, "NETIR_LINK_EVT", "Fatal", "0x026001c6"), Severity.WARNING, Action.IGNORE),
        (
            xid(149, "NETIR_BER_EVENT", "Nonfatal", "0x00086226", "0x00000001"),
            Severity.WARNING,
            Action.IGNORE,
        ),
        (xid(145, "RLW_REMAP", "Fatal", "0x00000082", "0x00000040"), Severity.FATAL, Action.RESET_GPU),
        (xid(145, "RLW_REMAP", "Nonfatal", "0x00000082", "0x00000040"), Severity.WARNING, Action.IGNORE),
        (xid(145, "RLW_REMAP", "Nonfatal", "0x00000004", "0x00000001"), Severity.WARNING, Action.RESTART_APP),
        (xid(145, "RLW_RXPIPE", "Fatal", "0x000000c2", "0x00000001"), Severity.FATAL, Action.RESET_GPU),
        (xid(145, "RLW_RXPIPE", "Nonfatal", "0x000000c2", "0x00000001"), Severity.WARNING, Action.IGNORE),
        (xid(150, "MSE Degraded", "Fatal", "0x00000000", "0xffffffff"), Severity.FATAL, Action.RESET_GPU),
    ],
)
def test_the_line_says_how_bad_it_is_and_the_table_what_to_do(
    fault: Fault, severity: Severity, action: Action
) -> None:
    means = meaning(fault)
    assert (means.severity, means.action) == (severity, action)


def test_an_error_that_was_promoted_to_fatal_has_the_action_for_that() -> None:
    assert detail(xid(145, "RLW_RXPIPE", "Fatal", "0x000000c2", "0x00000001"))["nvidia_action"] == "RESET_GPU"
    assert detail(xid(145, "RLW_RXPIPE", "Nonfatal", "0x000000c2", "0x00000001"))["nvidia_action"] == "IGNORE"


def test_either_name_of_a_renamed_unit_finds_its_rule() -> None:
    for unit in ("TLW_RX", "TLW_RX_PIPE0", "TLW_RX/TLW_RX_PIPE0"):
        found = rule(146, xid(146, unit, "Fatal", "0x0000000a", "0x00000004").detail)
        assert found is not None
        assert found.action == "RESET_GPU"


def test_a_cut_line_has_no_rule() -> None:
    line = LINE.format(code=149, unit="NETIR_LINK_EVT", word="Fatal", first="0x021425c6", status="0x00000000")
    for cut in (line.index("Fatal") + 5, line.index("0x02") + 6, line.index("0x0000") + 9):
        decoded = decode(line[:cut])
        assert isinstance(decoded, Fault)
        assert "nvidia_action" not in detail(decoded)


def test_each_set_bit_of_a_74_is_read() -> None:
    found = readings(["0x00010011", "0x1", "0x2000", "0x40000", "0x100000", "0xffffffff"])
    assert [reading.partition(":")[0] for reading in found] == [
        "word 1 bit 0",
        "word 1 bit 4",
        "word 1 bit 16",
        "word 3 bit 13",
        "word 4 bit 18",
        "word 5 bit 20",
    ]


@pytest.mark.parametrize("words", [None, [], ["0x0", "0x0"], ["0x8"], 7])
def test_words_without_known_bits_say_nothing(words: Any) -> None:
    assert readings(words) == []


def test_the_words_of_a_74_are_read_in_its_detail() -> None:
    decoded = decode(
        "NVRM: Xid (PCI:0000:b9:00): 74, NVLink: fatal error detected on link 6(0x10000, 0x0, 0x0, 0x0, 0x0)"
    )
    assert isinstance(decoded, Fault)
    assert detail(decoded)["error_bits"] == [
        "word 1 bit 16: possibly hardware: check seating and cables of the link, "
        "then run diagnostics if it stays"
    ]


def test_every_bucket_word_of_the_tables_has_a_sentence() -> None:
    used = {row[key] for row in rows("xid.csv") for key in ("nvidia_action", "nvidia_investigation")}
    used |= {
        row[key] for row in rows("nvlink5.csv") for key in ("action", "investigation", "action_if_fatal")
    }
    for bucket in used - {""}:
        text = bucket_text(bucket)
        assert text is not None, bucket
        assert text.endswith("."), bucket
    assert {row["bucket"] for row in rows("buckets.csv")} == used - {""}
