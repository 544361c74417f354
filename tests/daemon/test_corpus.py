"""Every line of the corpus of real and published kernel log lines decodes as expected beside it.

The corpus is no part of the repository. `XIDWATCH_CORPUS` names the file; by default it is looked
for beside the work tree.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from daemon import pci
from daemon.decoded import Context, Decoded, Fault
from daemon.event import Kind
from daemon.grammar import decode, find, strip_prefix
from probes import kmsg_record
from probes.line import Origin

CORPUS = Path(
    os.environ.get("XIDWATCH_CORPUS")
    or Path(__file__).parents[2].parent / "shared" / "data" / "kernel_log_corpus.jsonl"
)
ROWS: list[dict[str, Any]] = (
    [json.loads(row) for row in CORPUS.read_text("utf-8").splitlines()] if CORPUS.is_file() else []
)

pytestmark = pytest.mark.skipif(not ROWS, reason=f"no corpus at {CORPUS} (XIDWATCH_CORPUS names another)")

WRONG: Mapping[tuple[str, str], str] = {
    ("NVRM: Rate limiting GSP RPC error prints", "pci"): (
        "expected none, but the line names the GPU: `for GPU at PCI:0000:9b:00`"
    ),
    ("NVRM: Xid (PCI:0000:00:1E.0): NOT_A_NUMBER", "pci"): (
        "expected none, but only the code is malformed: the device is worth keeping"
    ),
    ("NVRM: sxid (PCI:0000:02:00): 10045", "pci"): (
        "expected none, but only the marker is malformed: the device is worth keeping"
    ),
}
"""(start of the message, key) → why the corpus's expectation for that key is not what we do."""

FAULTS = {
    "xid": (Kind.XID, None),
    "sxid": (Kind.SXID, None),
    "sxid_detail": (Kind.SXID, None),
    "gpu_lost_text": (Kind.GPU_LOST, "GPU_LOST"),
    "driver_load": (Kind.DRIVER_LOADED, None),
    "malformed_sxid": (Kind.NVRM, "MALFORMED_SXID"),
    "gsp_dump": (Kind.NVRM, "GSP_DUMP"),
    "gsp_rate_limit": (Kind.NVRM, "GSP_RPC_ERRORS_RATE_LIMITED"),
    "rm_init_failed": (Kind.NVRM, "RM_INIT_ADAPTER_FAILED"),
    "assert": (Kind.NVRM, "NV_ASSERT_FAILED"),
}
"""The corpus's kind of a line that tells of a fault → our kind and name."""

CONTEXT = {"gpu_map", "gpu_serial"}
SILENT = {
    "unrelated",
    "peermem",
    "nvswitch_info",
    "other_nvrm",
    "malformed_header",
    "fabric_manager_log",
}
"""Kinds of lines that must decode to nothing."""


def message(row: Mapping[str, Any]) -> str:
    """The line without its prefix."""
    return strip_prefix(row["line"])[0]


def rows(*, key: str | None = None, present: bool = True) -> list[Any]:
    """Test parameters: the rows that expect something of `key`, named by id."""
    return [
        pytest.param(row, id=str(row["id"]))
        for row in ROWS
        if key is None or (row["expect"].get(key) is not None) == present
    ]


def is_wrong(row: Mapping[str, Any], key: str) -> bool:
    """True when the table above says that the corpus errs here."""
    return any(key == wrong_key and message(row).startswith(start) for start, wrong_key in WRONG)


def fault_of(row: Mapping[str, Any]) -> Fault:
    """The decoded fault of a row that must have one."""
    decoded = decode(message(row))
    assert isinstance(decoded, Fault), decoded
    return decoded


@pytest.mark.parametrize("row", rows())
def test_a_line_is_of_the_expected_kind(row: dict[str, Any]) -> None:
    kind, decoded = row["expect"]["kind"], decode(message(row))
    if kind in CONTEXT:
        assert isinstance(decoded, Context)
    elif kind in SILENT:
        assert decoded is None
        assert find(message(row)) is None
    elif kind == "malformed_xid" and not message(row).startswith("NVRM: "):
        assert decoded is None, "text of a process is no malformed Xid"
        assert find(message(row)) is None
    elif kind == "malformed_xid":
        assert fault_of(row).name == "MALFORMED_XID"
    elif kind == "nvlink_text":
        assert decoded is None or fault_of(row).name == "NVLINK_POST_RX_DETECT_FAILED"
        assert (decoded is None) == ("training completed" in row["line"])
    else:
        expected_kind, expected_name = FAULTS[kind]
        assert (fault_of(row).kind, fault_of(row).name) == (expected_kind, expected_name)


@pytest.mark.parametrize("row", rows())
def test_exactly_the_xids_are_xids_and_exactly_the_sxids_are_sxids(row: dict[str, Any]) -> None:
    expect, decoded = row["expect"], find(message(row))
    kind, code = (decoded.kind, decoded.code) if isinstance(decoded, Fault) else (None, None)
    assert (kind is Kind.XID) == expect["is_xid"]
    assert (code if kind is Kind.XID else None) == expect["xid"]
    assert (code if kind is Kind.SXID else None) == expect["sxid"]


@pytest.mark.parametrize("row", rows())
def test_the_device_is_the_expected_one(row: dict[str, Any]) -> None:
    decoded: Decoded = decode(message(row))
    found = decoded.pci if decoded is not None else None
    if is_wrong(row, "pci"):
        assert found is not None
        assert row["expect"]["pci"] is None
        return
    expected = row["expect"].get("bdf") or row["expect"]["pci"]
    assert found == (pci.normalize(expected) if expected else None)


@pytest.mark.parametrize("row", rows())
def test_process_and_mig_instance_are_the_expected_ones(row: dict[str, Any]) -> None:
    expect, decoded = row["expect"], decode(message(row))
    fault = decoded if isinstance(decoded, Fault) else None
    assert (fault.pid if fault else None) == expect["pid"]
    assert (fault.process_name if fault else None) == expect["process"]
    mig = fault.mig if fault else None
    assert (mig.gi if mig else None, mig.ci if mig else None) == (expect.get("mig_gi"), expect.get("mig_ci"))


FIELDS: Mapping[str, Callable[[Fault], object]] = {
    "link": lambda fault: fault.detail["link"],
    "caused_by": lambda fault: fault.detail["caused_by_xid"],
    "recovery_from": lambda fault: fault.detail["recovery_from"],
    "recovery_to": lambda fault: fault.detail["recovery_to"],
    "nvswitch": lambda fault: fault.nvswitch,
    "first": lambda fault: fault.detail["first"],
}


@pytest.mark.parametrize("key", FIELDS)
def test_a_field_has_the_expected_value_and_is_absent_elsewhere(key: str) -> None:
    expecting = [row for row in ROWS if row["expect"].get(key) is not None]
    assert expecting
    for row in ROWS:
        expected = row["expect"].get(key)
        if expected is not None:
            assert FIELDS[key](fault_of(row)) == expected, row["line"]
            continue
        decoded = decode(message(row))
        if isinstance(decoded, Fault):
            ours = {"caused_by": "caused_by_xid"}.get(key, key)
            assert ours not in decoded.detail, row["line"]


@pytest.mark.parametrize("row", rows(key="nvlink5"))
def test_an_nvlink5_line_gives_unit_verdict_and_words(row: dict[str, Any]) -> None:
    expected, fault = row["expect"]["nvlink5"], fault_of(row)
    assert fault.detail["unit"] == expected["unit"]
    assert fault.word == expected["severity"].lower()
    assert fault.detail["xc"] == expected["xc"]
    assert fault.detail["words"] == expected["words"]
    assert fault.detail["reason"] == expected["subcode"], "what peers call the sub-code is the reason"


@pytest.mark.parametrize("row", rows(key="sxid_severity"))
def test_an_sxid_gives_its_printed_verdict(row: dict[str, Any]) -> None:
    assert fault_of(row).word == row["expect"]["sxid_severity"].lower().replace("-", "")


@pytest.mark.parametrize("row", rows(key="uuid"))
def test_a_gpu_line_gives_its_uuid(row: dict[str, Any]) -> None:
    decoded = decode(message(row))
    assert isinstance(decoded, Context)
    assert decoded.uuid == row["expect"]["uuid"]


@pytest.mark.parametrize("row", rows(key="kmsg_header"))
def test_a_kmsg_record_tells_its_origin_and_drops_header_and_dictionary(row: dict[str, Any]) -> None:
    header = row["expect"]["kmsg_header"]
    text, origin = strip_prefix(row["line"])
    if header["facility"] is None:  # the priority is no number
        assert (text, origin) == (row["line"], Origin.UNKNOWN)
        assert row["expect"]["trusted"] is False
        return
    record = kmsg_record.parse(row["line"].encode())
    assert record is not None
    assert (record.facility, record.level) == (header["facility"], header["level"])
    assert (record.seq, record.kernel_us) == (header["seq"], header["ts_us"])
    assert (origin is Origin.KERNEL) == row["expect"]["trusted"]
    assert dict(record.dictionary) == row["expect"].get("dictionary", {})
    assert "\n SUBSYSTEM" not in text


def test_every_expectation_called_wrong_still_stands_in_the_corpus() -> None:
    for start, key in WRONG:
        assert any(message(row).startswith(start) and key in row["expect"] for row in ROWS), start


SCORED: Mapping[str, tuple[str | None, str]] = {
    "what kind of line it is, or that it is nothing": (None, "kind"),
    "an Xid's code, or that it is no Xid": (None, "xid"),
    "an SXid's code, or that it is no SXid": (None, "sxid"),
    "the device, or that there is none": (None, "pci"),
    "pid, process name and MIG instance": (None, "pid"),
    "unit, verdict and words of an NVLink 5 line": ("nvlink5", "nvlink5"),
    "Fatal or Non-fatal of an SXid": ("sxid_severity", "sxid_severity"),
    "the UUID of a GPU line": ("uuid", "uuid"),
}
"""Row of the published table → the key that a line must expect to count (None: any), the key judged."""


def test_the_published_score_is_the_one_of_these_tests() -> None:
    text = (Path(__file__).parents[2] / "docs" / "decoding.md").read_text("utf-8")
    table = dict(re.findall(r"^\| (.+?) \| ([0-9]+ \| [0-9]+ \| [0-9]+) \|$", text, re.MULTILINE))
    for name, (needed, judged) in SCORED.items():
        lines = [row for row in ROWS if needed is None or row["expect"].get(needed) is not None]
        wrong = sum(is_wrong(row, judged) for row in lines)
        assert table[name] == f"{len(lines)} | {len(lines) - wrong} | {wrong}", name
