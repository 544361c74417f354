from __future__ import annotations

import errno
import io
import json
import os
import uuid
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.decoded import Fault
from daemon.event import Kind
from daemon.grammar import decode
from probes.errors import UserError
from probes.kmsg_record import Record, parse
from xidwatch import drill
from xidwatch.drill import Drill

KMSG = Path("/dev/kmsg")


def compose(code: str, **options: Any) -> str:
    return drill.compose(Drill(code, **options))


def decoded(line: str) -> Fault:
    fault = decode(line)
    assert isinstance(fault, Fault)
    return fault


def written(*, as_json: bool = False, **options: Any) -> tuple[Record, str, str]:
    """The record that a drill left in the real kernel log, and what was said on stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    try:
        fd = os.open(KMSG, os.O_RDONLY | os.O_NONBLOCK)
        os.close(os.open(KMSG, os.O_WRONLY))
    except OSError as error:
        pytest.skip(f"{KMSG}: {error.strerror}")
    token = uuid.uuid4().hex
    try:
        os.lseek(fd, 0, os.SEEK_END)
        code = drill.run(Drill("79", text=token, **options), out=out, err=err, as_json=as_json)
        record = None
        while record is None or token not in record.text:
            record = parse(os.read(fd, 8192))
    finally:
        os.close(fd)
    assert code == 0
    return record, out.getvalue(), err.getvalue()


@pytest.mark.kmsg
def test_a_drill_is_one_marked_record_that_the_kernel_knows_was_written_by_a_process() -> None:
    record, out, err = written(pci="0000:91:00.0", pid=42, name="train.py")
    assert record.text.startswith("xidwatch-drill: xid (PCI:0000:91:00): 79, pid=42, name=train.py, ")
    assert record.facility == 1
    assert "Xid" not in record.text  # what other monitors look for
    assert record.text in out
    assert err == ""


@pytest.mark.kmsg
def test_an_exact_drill_has_the_drivers_form_and_warns() -> None:
    record, _, err = written(exact=True)
    assert record.text.startswith("NVRM: Xid (PCI:0000:00:00): 79, pid=")
    assert err == "warning: other monitors on this node will take this line for a real fault\n"


@pytest.mark.kmsg
def test_json_says_what_was_written_and_where() -> None:
    record, out, _ = written(as_json=True)
    assert json.loads(out) == {"path": "/dev/kmsg", "line": record.text, "exact": False}


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("code", ["13", "31", "79", "95", "119", "154", "9999"])
def test_a_drill_decodes_as_the_xid_it_plays(code: str, exact: bool) -> None:
    fault = decoded(compose(code, exact=exact, pci="0000:91:00", pid=42, name="train.py"))
    assert (fault.kind, fault.code, fault.pci) == (Kind.XID, int(code), "0000:91:00.0")
    assert (fault.pid, fault.process_name, fault.drill) == (42, "train.py", not exact)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(
    ("code", "sxid"), [("20034", False), ("12028", False), ("4294967295", False), ("79", True)]
)
def test_a_drill_decodes_as_the_sxid_it_plays(code: str, sxid: bool, exact: bool) -> None:
    fault = decoded(compose(code, sxid=sxid, exact=exact, pci="0000:a9:00.0"))
    assert (fault.kind, fault.code, fault.pci) == (Kind.SXID, int(code), "0000:a9:00.0")
    assert fault.drill is not exact


def test_without_options_a_drill_names_no_real_device_and_this_process() -> None:
    fault = decoded(compose("79"))
    assert (fault.pci, fault.pid) == ("0000:00:00.0", os.getpid())


@pytest.mark.parametrize("code", ["", "0", "-1", "xid79", "7.9", "4294967296", "9" * 5000, "７９"])
def test_a_bad_code_is_the_users_error(code: str) -> None:
    with pytest.raises(UserError) as raised:
        compose(code)
    assert raised.value.hint


@pytest.mark.parametrize(
    "options",
    [
        {"pci": "garbage"},
        {"pid": 0},
        {"pid": 2**31},
        {"name": "two\nlines"},
        {"text": "bell\x07"},
        {"text": "   "},
        {"text": "\u202eright to left"},
        {"text": "x" * 1000},
        {"name": "é" * 480},
    ],
)
def test_what_would_not_be_one_clean_record_is_the_users_error(options: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        compose("79", **options)


@given(
    st.fixed_dictionaries(
        {
            "text": st.text(),
            "name": st.text(),
            "pid": st.integers(),
            "pci": st.none() | st.text(),
            "sxid": st.booleans(),
            "exact": st.booleans(),
        }
    )
)
def test_any_input_gives_a_short_line_or_the_users_error(options: dict[str, Any]) -> None:
    try:
        line = compose("79", **options)
    except UserError:
        return
    assert len(line.encode()) < drill.LINE_BYTES
    assert line.isprintable()


@pytest.mark.parametrize(
    ("path", "message"),
    [("missing/kmsg", "no such file or directory"), (".", "is a directory")],
)
def test_a_log_that_cannot_be_written_is_the_users_error(tmp_path: Path, path: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        drill.write(tmp_path / path, "xidwatch-drill: xid")


def test_a_file_is_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("precious")
    with pytest.raises(UserError, match="is not the kernel log device"):
        drill.write(tmp_path / "notes", "xidwatch-drill: xid")
    assert (tmp_path / "notes").read_text() == "precious"


def test_a_refusal_says_who_may_write() -> None:
    if os.geteuid() != 0 or not KMSG.exists():
        pytest.skip("only root can give up its rights, and there must be a /dev/kmsg")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setresuid(65534, 65534, 65534)
            drill.write(KMSG, "xidwatch-drill: refused")
        except UserError as error:
            os.write(writing, f"{error.message}|{error.hint}".encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    said = os.read(reading, 4096).decode()
    os.close(reading)
    assert said == (
        f"cannot write /dev/kmsg: {os.strerror(errno.EACCES).lower()}"
        "|run as root, on the node itself or in a container that has the device"
    )
