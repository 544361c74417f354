"""What a line says corrects what its code means by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from daemon.catalog import Meaning, codes, lookup, meaning, meaning_of
from daemon.decoded import Fault, Part, Word
from daemon.event import Action, Blame, Kind, Severity
from daemon.grammar import decode
from daemon.grammar.nvrm import FORMS


def fault(
    kind: Kind,
    code: int | None,
    *,
    word: Word | None = None,
    text: str = "",
    detail: Mapping[str, Any] | None = None,
    name: str | None = None,
) -> Fault:
    return Fault(
        kind, code, name, "0000:3b:00.0", None, None, None, None, text, Part.WHOLE, word, detail or {}
    )


def meaning_of_line(line: str, driver_version: str | None = None) -> Meaning:
    decoded = decode(line)
    assert isinstance(decoded, Fault)
    return meaning(decoded, driver_version)


# -- what the line says ------------------------------------------------------------------------


def test_a_code_means_what_the_table_says_when_the_line_adds_nothing() -> None:
    for kind in (Kind.XID, Kind.SXID):
        for code in codes(kind):
            assert meaning(fault(kind, code)) == lookup(kind, code)


@pytest.mark.parametrize(
    ("new", "severity", "action"),
    [
        ("0x0 (None)", Severity.INFO, Action.IGNORE),
        ("0x1 (GPU Reset Required)", Severity.FATAL, Action.RESET_GPU),
        ("0x2 (Node Reboot Required)", Severity.FATAL, Action.REBOOT_NODE),
        ("0x3 (Drain P2P)", Severity.WARNING, Action.DRAIN_AND_RESET),
        ("0x4 (Drain and Reset)", Severity.WARNING, Action.DRAIN_AND_RESET),
        ("0x5 (Recover IMEX Domain)", Severity.CRITICAL, Action.FOLLOW_RECOVERY_ACTION),
        ("0x9 (Something New)", Severity.WARNING, Action.FOLLOW_RECOVERY_ACTION),
    ],
)
def test_154_follows_the_action_that_its_text_names(new: str, severity: Severity, action: Action) -> None:
    line = f"NVRM: Xid (PCI:0008:01:00): 154, GPU recovery action changed from 0x7 (Old) to {new}"
    means = meaning_of_line(line)
    assert (means.severity, means.action, means.blame) == (severity, action, Blame.UNKNOWN)


@pytest.mark.parametrize(
    ("text", "severity", "action"),
    [
        ("94, Contained: SM (0x1). RST: No, D-RST: No", Severity.CRITICAL, Action.RESTART_APP),
        ("94, Contained: SM (0x1). RST: No, D-RST: Yes", Severity.CRITICAL, Action.DRAIN_AND_RESET),
        ("94, Contained: PMU (0x1). RST: Yes, D-RST: No", Severity.FATAL, Action.RESET_GPU),
        ("94, Contained: GSP-RISCV fatal error", Severity.FATAL, Action.RESET_GPU),
        ("95, Uncontained: LTC TAG (0x2,0x0). RST: Yes, D-RST: No", Severity.FATAL, Action.RESET_GPU),
        ("95, Uncontained: FBHUB. RST: No, D-RST: No", Severity.CRITICAL, Action.RESTART_APP),
        ("95, Uncontained: FBHUB. RST: No, D-RST: Yes", Severity.CRITICAL, Action.DRAIN_AND_RESET),
        ("95, Uncontained", Severity.FATAL, Action.RESET_GPU),
    ],
)
def test_94_and_95_follow_what_the_line_says_of_a_reset(
    text: str, severity: Severity, action: Action
) -> None:
    means = meaning_of_line(f"NVRM: Xid (PCI:0000:01:00): {text}")
    assert (means.severity, means.action, means.blame) == (severity, action, Blame.HARDWARE)


def test_45_names_the_xid_that_caused_it_and_stays_a_consequence() -> None:
    means = meaning_of_line(
        "NVRM: Xid (PCI:0000:01:00): 45, pid=9, name=a, Ch 00000008 caused by previous Xid 31"
    )
    assert means.severity is Severity.INFO
    assert means.action is Action.IGNORE
    assert "Xid 31" in means.summary
    assert "Xid 31" in means.action_text


NVLINK5 = "NVRM: Xid (PCI:0018:01:00): {code}, {unit} {word} XC0 i0 Link 09 ({first} 0x00000000 0x0 0x0)"


@pytest.mark.parametrize("code", range(144, 151))
def test_the_word_in_an_nvlink5_line_beats_the_table(code: int) -> None:
    fatal = meaning_of_line(NVLINK5.format(code=code, unit="UNIT", word="Fatal  ", first="0x025525c6"))
    assert fatal.severity is Severity.FATAL
    assert fatal.action in {Action.DRAIN_AND_RESET, Action.RESET_GPU}
    mild = meaning_of_line(NVLINK5.format(code=code, unit="UNIT", word="Nonfatal", first="0x025525c6"))
    assert mild.severity is Severity.WARNING
    assert mild.action is Action.IGNORE


def test_149_with_reason_38_is_not_fatal_whatever_it_prints() -> None:
    line = NVLINK5.format(code=149, unit="NETIR_LINK_EVT", word="Fatal", first="0x026001c6")
    assert meaning_of_line(line).severity is Severity.WARNING
    assert meaning_of_line(line).action is Action.IGNORE


SXID = "nvidia-nvswitch3: SXid (PCI:0000:a9:00.0): {code}, {word}, Link 30 text"


@pytest.mark.parametrize("code", [11001, 20034, 20009, 10001, 16002])
def test_an_sxid_that_prints_fatal_is_fatal_and_asks_for_more_than_a_look(code: int) -> None:
    means = meaning_of_line(SXID.format(code=code, word="Fatal"))
    assert means.severity is Severity.FATAL
    assert means.action in {Action.RESET_GPU, Action.RESET_FABRIC}


@pytest.mark.parametrize("code", [11001, 20034, 12001])
def test_an_sxid_that_prints_non_fatal_is_at_most_a_warning(code: int) -> None:
    means = meaning_of_line(SXID.format(code=code, word="Non-fatal"))
    assert means.severity is Severity.WARNING
    assert means.action is Action.IGNORE


def test_non_fatal_does_not_make_worse_what_the_table_calls_information() -> None:
    assert meaning_of_line(SXID.format(code=20001, word="Non-fatal")).severity is Severity.INFO


@pytest.mark.parametrize("code", [11004, 12028, 19084])
def test_sxids_that_stall_traffic_stay_critical_although_they_print_non_fatal(code: int) -> None:
    assert meaning_of_line(SXID.format(code=code, word="Non-fatal")).severity is Severity.CRITICAL


@pytest.mark.parametrize("code", [19055, 19057, 19059])
def test_sxids_of_corrected_errors_stay_a_warning_although_they_print_fatal(code: int) -> None:
    assert meaning_of_line(SXID.format(code=code, word="Fatal")).severity is Severity.WARNING


@pytest.mark.parametrize(
    ("kind", "code", "driver", "name"),
    [
        (Kind.XID, 139, "535.288.01", "FAST_PATH_ERROR"),
        (Kind.XID, 139, "560.28.03", "OFA1_ERROR"),
        (Kind.XID, 139, None, "OFA1_ERROR"),
        (Kind.XID, 139, "not a version", "OFA1_ERROR"),
        (Kind.XID, 144, "550.163.01", "KEY_ROTATION_ERROR"),
        (Kind.XID, 144, "580.159.04", "NVLINK_SAW_ERROR"),
        (Kind.SXID, 28001, "535.288.01", "NPORT_MULTICASTTSTATE_TAGPOOL_ECC_LIMIT_ERR"),
        (Kind.SXID, 28001, "550.40.07", "OSFP_THERM_WARN_ACTIVATED"),
        (Kind.SXID, 29006, "535.54", "NPORT_REDUCTIONTSTATE_CRUMBSTORE_RTO_ERR"),
    ],
)
def test_a_number_means_what_the_running_driver_calls_so(
    kind: Kind, code: int, driver: str | None, name: str
) -> None:
    assert meaning(fault(kind, code), driver).name == name


def test_the_rules_of_a_code_do_not_apply_where_the_number_meant_something_else() -> None:
    key_rotation = meaning(fault(Kind.XID, 144, word=Word.NONFATAL), "550.163.01")
    assert key_rotation.severity is Severity.FATAL


def test_an_unknown_code_is_an_honest_warning() -> None:
    for means in (meaning_of_line("NVRM: Xid (PCI:0000:01:00): 999, text"), meaning(fault(Kind.SXID, 5))):
        assert means.name is None
        assert means.summary in {
            "Xid 999: not in the catalogue of this version",
            "SXid 5: not in the catalogue of this version",
        }
        assert (means.severity, means.blame) == (Severity.WARNING, Blame.UNKNOWN)
        assert means.action is Action.CONTACT_SUPPORT


def test_a_code_beyond_32_bits_is_named_by_its_digits() -> None:
    means = meaning_of_line("NVRM: Xid (PCI:0000:01:00): 99999999999999999999, text")
    assert "99999999999999999999" in means.summary
    huge = meaning(fault(Kind.XID, None, detail={"code_text": "9" * 500}))
    assert len(huge.summary) <= 100


ODD_VALUES: tuple[object, ...] = (None, "x", [], {}, 10**30, -1)


def test_odd_detail_never_raises() -> None:
    for code in (45, 94, 95, 149, 154):
        for odd in ODD_VALUES:
            keys = ("caused_by_xid", "recovery_to", "reason", "reset_required", "drain_and_reset_required")
            assert meaning(fault(Kind.XID, code, detail=dict.fromkeys(keys, odd))).summary


# -- events without a code ---------------------------------------------------------------------


def test_every_name_the_grammar_gives_has_words_of_its_own() -> None:
    general = meaning_of(Kind.NVRM)
    for name in {form.name for form in FORMS} | {"MALFORMED_XID", "MALFORMED_SXID"}:
        means = meaning(fault(Kind.NVRM, None, name=name))
        assert means.name == name
        assert means.summary != general.summary, name


def test_a_name_without_words_of_its_own_keeps_its_name() -> None:
    assert meaning_of(Kind.NVRM, "SOMETHING_NEW") == replace(meaning_of(Kind.NVRM), name="SOMETHING_NEW")
    assert meaning_of(Kind.INCIDENT).severity is Severity.WARNING


def test_a_lost_gpu_is_fatal_without_an_xid() -> None:
    means = meaning_of_line("NVRM: GPU 0000:91:00.0: GPU has fallen off the bus.")
    assert (means.severity, means.action) == (Severity.FATAL, Action.REBOOT_NODE)


@pytest.mark.parametrize("kind", [Kind.GAP, Kind.OVERFLOW, Kind.PROBE])
def test_what_the_daemon_says_of_itself_is_a_warning_that_blames_no_one(kind: Kind) -> None:
    means = meaning_of(kind)
    assert (means.severity, means.blame) == (Severity.WARNING, Blame.UNKNOWN)
    assert means.action is not Action.IGNORE


def test_a_probe_that_is_back_and_a_driver_that_loads_are_information() -> None:
    assert meaning_of(Kind.PROBE, "PROBE_UP").severity is Severity.INFO
    assert meaning_of(Kind.PROBE, "PROBE_DOWN").severity is Severity.WARNING
    assert meaning_of(Kind.DRIVER_LOADED).severity is Severity.INFO


def test_malformed_lines_are_at_most_a_warning_and_blame_no_one() -> None:
    for name in ("MALFORMED_XID", "MALFORMED_SXID"):
        means = meaning_of(Kind.NVRM, name)
        assert (means.severity, means.blame) == (Severity.WARNING, Blame.UNKNOWN)
