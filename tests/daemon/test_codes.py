"""The tables are complete, consistent, and in plain words."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import pytest

from daemon import codes as codes_module
from daemon.codes import Entry, codes, lookup, meaning_of
from daemon.event import Action, Blame, Kind, Severity

DATA = Path(codes_module.__file__).parent / "data"
SHARED = Path(__file__).parents[3] / "shared" / "data"

APPLICATION_ERRORS = (11, 13, 25, 31, 43, 45, 68, 69, 108, 137)
SXIDS_WORSE_THAN_THEIR_COLUMN = {
    10006: (Severity.FATAL, "the switch shuts itself down"),
    10007: (Severity.FATAL, "the driver cannot reach the switch any more"),
    22004: (Severity.CRITICAL, "links do not train without their controller"),
    22009: (Severity.CRITICAL, "a fatal interrupt, by its name"),
    26001: (Severity.FATAL, "the switch does not come back without its management controller"),
    26002: (Severity.FATAL, "the switch does not start without its management controller"),
    26006: (Severity.FATAL, "the switch is no longer managed until a reset"),
    26007: (Severity.FATAL, "the switch is no longer managed until a reset"),
    26008: (Severity.FATAL, "the switch is no longer managed until a reset"),
    **dict.fromkeys(
        (12004, 12005, 12007, 12008, 13004, 13006, 13008, 14013),
        (Severity.CRITICAL, "an uncorrectable memory error, like its twins in other units"),
    ),
}
SXIDS_MILDER_THAN_THEIR_COLUMN = {
    **dict.fromkeys(
        (19055, 19057, 19059), (Severity.WARNING, "printed Fatal for a limit of corrected errors")
    ),
    **dict.fromkeys(
        (11010, 12016, 12017, 12018, 12019, 15007, 19011, 19044, 19045),
        (Severity.INFO, "a detail record of another SXid, no fault"),
    ),
}


def every_entry() -> list[Entry]:
    found = [lookup(kind, code) for kind in (Kind.XID, Kind.SXID) for code in codes(kind)]
    older = [lookup(row_kind, int(row["code"]), "470.1") for row_kind, row in raw_rows() if row["before"]]
    return [entry for entry in [*found, *older] if entry is not None]


def raw_rows() -> list[tuple[Kind, dict[str, str]]]:
    rows = []
    for kind in (Kind.XID, Kind.SXID):
        with (DATA / f"{kind}.csv").open(newline="") as stream:
            rows += [(kind, row) for row in csv.DictReader(stream)]
    return rows


def shared_rows(file: str) -> list[dict[str, str]]:
    path = SHARED / file
    if not path.exists():
        pytest.skip(f"{path} is not here")
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


# -- the tables --------------------------------------------------------------------------------


def test_every_xid_from_1_to_176_is_there() -> None:
    assert codes(Kind.XID) == tuple(range(1, 177))


def test_every_number_has_one_current_row_and_no_driver_branch_twice() -> None:
    rows = Counter((kind, row["code"], row["before"]) for kind, row in raw_rows())
    assert [key for key, count in rows.items() if count > 1] == []
    assert {(kind, int(row["code"])) for kind, row in raw_rows()} == {
        (kind, code) for kind in (Kind.XID, Kind.SXID) for code in codes(kind)
    }


def test_rows_are_sorted_by_code() -> None:
    for kind in (Kind.XID, Kind.SXID):
        numbers = [int(row["code"]) for row_kind, row in raw_rows() if row_kind is kind]
        assert numbers == sorted(numbers)


@pytest.mark.parametrize("kind", [Kind.GAP, Kind.NVRM, Kind.INCIDENT])
def test_kinds_without_numbers_have_no_entries(kind: Kind) -> None:
    assert lookup(kind, 79) is None
    assert codes(kind) == ()


def test_texts_are_short_plain_sentences() -> None:
    for entry in every_entry():
        where = f"{entry.kind} {entry.code}"
        assert 10 <= len(entry.summary) <= 100, where
        assert entry.summary[0].isupper(), where
        assert not entry.summary.endswith("."), where
        assert 10 <= len(entry.action_text) <= 130, where
        assert entry.action_text.endswith("."), where
        assert entry.action_text.count(". ") == 0, f"{where}: one sentence"
        for text in (entry.summary, entry.action_text, entry.note):
            assert text.isascii(), where
            assert text == " ".join(text.split()), where
            assert "@" not in text, f"{where}: an advice key that was not replaced"


def test_names_are_symbols_without_the_common_prefix() -> None:
    for entry in every_entry():
        assert entry.name is not None
        assert entry.name.replace("_", "").isalnum(), entry.code
        assert entry.name == entry.name.upper(), entry.code
        assert not entry.name.startswith("ROBUST_CHANNEL_"), entry.code


def test_names_of_xids_are_unique_among_current_meanings() -> None:
    names = Counter(entry.name for code in codes(Kind.XID) if (entry := lookup(Kind.XID, code)))
    assert names.most_common(1)[0][1] == 1


@pytest.mark.parametrize("code", APPLICATION_ERRORS)
def test_application_errors_are_never_blamed_on_hardware_nor_critical(code: int) -> None:
    entry = lookup(Kind.XID, code)
    assert entry is not None
    assert entry.blame in {Blame.APPLICATION, Blame.UNKNOWN}
    assert entry.severity.rank <= Severity.WARNING.rank
    assert entry.action in {Action.RESTART_APP, Action.IGNORE}


def test_a_fatal_code_asks_for_something_and_information_for_nothing() -> None:
    for entry in every_entry():
        if entry.severity is Severity.FATAL:
            assert entry.action not in {Action.IGNORE, Action.RESTART_APP, Action.CONTACT_SUPPORT}, entry.code
        if entry.severity is Severity.INFO:
            assert entry.action is Action.IGNORE, entry.code
        if entry.action is Action.IGNORE:
            assert entry.severity.rank <= Severity.WARNING.rank, entry.code
        if entry.action is Action.RESTART_APP:
            assert entry.blame is not Blame.FABRIC, entry.code


def test_sxids_are_never_blamed_on_the_application() -> None:
    assert {lookup(Kind.SXID, code).blame for code in codes(Kind.SXID)} <= {  # type: ignore[union-attr]  # listed
        Blame.FABRIC,
        Blame.HARDWARE,
        Blame.DRIVER,
        Blame.UNKNOWN,
    }


def test_an_uncorrectable_memory_error_in_a_switch_is_hardware_and_a_corrected_one_is_at_most_a_warning() -> (
    None
):
    for code in codes(Kind.SXID):
        entry = lookup(Kind.SXID, code)
        assert entry is not None
        assert entry.name is not None
        if entry.name.endswith(("_DBE_ERR", "PARITY_ERR")):
            assert entry.blame is Blame.HARDWARE, code
            assert entry.action is not Action.IGNORE, code
        if "ECC_LIMIT" in entry.name:
            assert entry.severity.rank <= Severity.WARNING.rank, code
            assert entry.action is Action.IGNORE, code


# -- the research it came from -------------------------------------------------------------------


def test_xids_agree_with_the_research_on_name_severity_and_blame() -> None:
    for row in shared_rows("xid_catalog.csv"):
        entry = lookup(Kind.XID, int(row["code"]))
        assert entry is not None
        assert entry.name == row["name"].removeprefix("ROBUST_CHANNEL_")
        assert (entry.code, entry.severity, entry.blame) == (entry.code, row["severity4"], row["blame"])


def test_sxids_agree_with_how_the_driver_prints_them() -> None:
    different = SXIDS_WORSE_THAN_THEIR_COLUMN | SXIDS_MILDER_THAN_THEIR_COLUMN
    for row in shared_rows("sxid_catalog.csv"):
        code = int(row["code"])
        entry = lookup(Kind.SXID, code)
        assert entry is not None
        assert entry.name == row["name"].removesuffix("(525-545)")
        printed_fatal = row["driver_fatality"] in {"fatal", "device"}
        expected = Severity.FATAL if printed_fatal else Severity(row["severity"])
        assert (code, entry.severity) == (code, different.get(code, (expected, ""))[0])


def test_every_deliberate_difference_is_one() -> None:
    rows = {int(row["code"]): row for row in shared_rows("sxid_catalog.csv")}
    for code, (severity, reason) in SXIDS_WORSE_THAN_THEIR_COLUMN.items():
        assert severity.rank > Severity(rows[code]["severity"]).rank, reason
    for code, (severity, reason) in SXIDS_MILDER_THAN_THEIR_COLUMN.items():
        was_fatal = rows[code]["driver_fatality"] == "fatal"
        assert was_fatal or severity.rank < Severity(rows[code]["severity"]).rank, reason


def test_texts_of_events_without_a_code_are_plain_sentences_too() -> None:
    with (DATA / "named.csv").open(newline="") as stream:
        rows = [(Kind(row["kind"]), row["name"] or None) for row in csv.DictReader(stream)]
    assert len(rows) == len(set(rows))
    assert {kind for kind, name in rows if name is None} == set(Kind) - {Kind.XID, Kind.SXID, Kind.INCIDENT}
    for kind, name in rows:
        means = meaning_of(kind, name)
        assert 10 <= len(means.summary) <= 100, (kind, name)
        assert not means.summary.endswith("."), (kind, name)
        assert means.action_text.endswith("."), (kind, name)


# -- NVIDIA's own actions ------------------------------------------------------------------------


def test_xids_have_the_actions_of_nvidias_catalogue_in_its_own_words() -> None:
    same = {
        "Solo: RESTART_FM\\nNot Solo: IGNORE (follow other Xid)": "WORKFLOW_XID_45",
        "N/A Informational only regarding another Xid": "INFORMATIONAL",
        "IGNORE (sympathetic)": "SYMPATHETIC_REPORT_SOLO",
    }
    for row in shared_rows("xid_catalog.csv"):
        entry = lookup(Kind.XID, int(row["code"]))
        assert entry is not None
        investigation = same.get(row["investigatory_action"], row["investigatory_action"])
        assert (entry.code, entry.nvidia_action, entry.nvidia_investigation) == (
            entry.code,
            row["peer_vendor_catalogue"],
            investigation,
        )


def test_nvidia_gives_no_action_for_sxids_nor_for_what_a_number_meant_before() -> None:
    assert all(lookup(Kind.SXID, code).nvidia_action == "" for code in codes(Kind.SXID))  # type: ignore[union-attr]  # listed
    older = lookup(Kind.XID, 139, "535.161.08")
    assert older is not None
    assert (older.name, older.nvidia_action) == ("FAST_PATH_ERROR", "")


@pytest.mark.parametrize(
    ("kind", "code", "version", "name"),
    [
        (Kind.XID, 139, "535.288.01", "FAST_PATH_ERROR"),
        (Kind.XID, 139, "560.28.03", "OFA1_ERROR"),
        (Kind.XID, 144, "550.163.01", "KEY_ROTATION_ERROR"),
        (Kind.XID, 144, "580.159.04", "NVLINK_SAW_ERROR"),
        (Kind.XID, 151, "580.159.04", "KEY_ROTATION_ERROR"),
        (Kind.XID, 141, "580.159.04", "FAST_PATH_ERROR"),
        (Kind.XID, 139, "a driver never seen", "OFA1_ERROR"),
    ],
)
def test_a_number_means_what_it_meant_on_that_driver(kind: Kind, code: int, version: str, name: str) -> None:
    entry = lookup(kind, code, version)
    assert entry is not None
    assert entry.name == name
