"""`xidwatch explain` says what a code or a pasted line means, to people and to programs."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from daemon.catalog import codes
from daemon.code_pages import HEADINGS
from daemon.event import Kind
from probes.errors import UserError
from xidwatch import explain

FATAL_79 = "NVRM: Xid (PCI:0000:91:00): 79, pid=446, name=python3, GPU has fallen off the bus."


def explained(argument: str, *, colour: bool = False) -> str:
    out = io.StringIO()
    assert explain.run(argument, as_json=False, out=out, colour=colour) == 0
    return out.getvalue()


def as_json(argument: str) -> dict[str, Any]:
    out = io.StringIO()
    assert explain.run(argument, as_json=True, out=out, colour=False) == 0
    assert out.getvalue().count("\n") == 1
    assert out.getvalue().isascii()
    value = json.loads(out.getvalue())
    assert isinstance(value, dict)
    return value


def refusal(argument: str) -> UserError:
    with pytest.raises(UserError) as caught:
        explain.run(argument, as_json=False, out=io.StringIO(), colour=False)
    return caught.value


@pytest.mark.parametrize("argument", ["79", " 79 ", "xid 79", "Xid: 79", "XID79", "xid #79"])
def test_a_small_number_is_an_xid(argument: str) -> None:
    text = explained(argument)
    assert text.startswith("Xid 79  GPU_HAS_FALLEN_OFF_THE_BUS\n")
    for word in ("fatal", "hardware", "reboot_node", "Drain and reboot the node"):
        assert word in text


@pytest.mark.parametrize("argument", ["20034", "sxid 20034", "SXid20034"])
def test_a_number_from_10000_on_is_an_sxid(argument: str) -> None:
    assert explained(argument).startswith("SXid 20034  DLPL_LTSSM_FAULT_UP\n")


def test_every_code_can_be_explained_in_both_forms() -> None:
    for kind in (Kind.XID, Kind.SXID):
        for code in codes(kind):
            assert str(code) in explained(str(code))
            assert as_json(f"{kind} {code}")["code"] == code


def test_json_of_a_code_has_the_keys_of_an_event() -> None:
    assert as_json("45").keys() == {
        "kind", "code", "name", "summary", "severity", "blame", "action", "action_text", "note",
        "nvidia_action", "nvidia_investigation", "page",
    }  # fmt: skip
    assert as_json("13")["blame"] == "application"
    assert as_json("46")["note"] is None


def test_a_pasted_line_gives_what_it_says_and_what_that_means() -> None:
    text = explained(FATAL_79)
    assert text.startswith("Xid 79  GPU_HAS_FALLEN_OFF_THE_BUS\n")
    for word in ("0000:91:00.0", "pid 446 python3", "GPU has fallen off the bus."):
        assert word in text


@pytest.mark.parametrize(
    "prefix",
    ["[6781741.548779] ", "4,359,26994671,c;", "<4>[ 12.5] ", "Okt 06 17:59:27 balrog kernel: "],
)
def test_a_line_may_keep_its_log_prefix(prefix: str) -> None:
    value = as_json(prefix + FATAL_79)
    assert value["code"] == 79
    assert value["gpu"]["pci"] == "0000:91:00.0"
    assert (value["process"]["pid"], value["process"]["name"]) == (446, "python3")


def test_json_of_an_sxid_line_tells_of_a_switch_and_follows_its_word() -> None:
    value = as_json(
        "nvidia-nvswitch3: SXid (PCI:0000:a9:00.0): 11001, Fatal, Link 30 ingress invalid command"
    )
    assert value["nvswitch"] == {"pci": "0000:a9:00.0", "instance": 3}
    assert value["gpu"] is None
    assert value["severity"] == "fatal"
    assert value["detail"]["link"] == 30


def test_a_mig_instance_is_named() -> None:
    line = "NVRM: Xid (PCI:0000:3b:00 GPU-I:05 GPU-CI:02): 31, pid=9, name=a, MMU Fault"
    assert "GPU instance 5, compute instance 2" in explained(line)


def test_of_several_lines_the_one_that_opens_the_fault_is_explained() -> None:
    head = "nvidia-nvswitch0: SXid (PCI:0000:a9:00.0): 20034, Fatal, Link 30 LTSSM Fault Up"
    tail = "nvidia-nvswitch0: SXid (PCI:0000:a9:00.0): 20034, Data {0x50610002, 0x10100030}"
    assert as_json(f"{tail}\n{head}\n")["part"] == "opening"
    assert "an earlier line opened" in explained(tail)


def test_a_lost_gpu_in_three_lines_keeps_its_address() -> None:
    lines = (
        "NVRM: The NVIDIA GPU 0000:b3:00.0\nNVRM: (PCI ID: 10de:2330)\n"
        "NVRM: fallen off the bus and is not responding to commands."
    )
    assert as_json(lines)["kind"] == "gpu_lost"
    assert as_json(lines)["gpu"]["pci"] == "0000:b3:00.0"


def test_a_line_that_only_names_a_gpu_is_said_to_be_no_fault() -> None:
    line = "NVRM: GPU at PCI:0000:00:06: GPU-01234567-89ab-cdef-0123-456789abcdef"
    assert "No fault" in explained(line)
    assert as_json(line)["gpu"]["uuid"] == "GPU-01234567-89ab-cdef-0123-456789abcdef"


def test_a_line_that_a_user_process_wrote_is_called_so() -> None:
    assert "not to be believed" in explained("12,359,26994671,-;" + FATAL_79)


def test_an_unknown_code_in_a_line_is_explained_honestly() -> None:
    assert "not in the catalogue" in explained("NVRM: Xid (PCI:0000:01:00): 999, text")


def test_log_text_cannot_act_on_the_terminal() -> None:
    line = "NVRM: Xid (PCI:0000:91:00): 79, pid=4, name=\x1b[2Jx, text \x1b]0;title\x07 \u202e end"
    text = explained(line)
    assert not set("\x1b\x07\u202e") & set(text)
    out = io.StringIO()
    explain.run(line, as_json=True, out=out, colour=False)
    assert out.getvalue().removesuffix("\n").isprintable()


def test_colour_is_used_only_when_asked_for() -> None:
    assert "\x1b[" in explained("79", colour=True)
    assert "\x1b[" not in explained("79")


def test_texts_line_up_and_fit_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    lines = explained("79").splitlines()
    assert max(map(len, lines)) <= 60
    labelled = {line[2:10].strip(): line[12:] for line in lines[1:]}
    assert labelled["severity"] == "fatal"
    assert labelled["blame"] == "hardware"


@pytest.mark.parametrize("argument", ["0", "999", "177", "9999", "10999", "xid 4294967296"])
def test_an_unknown_number_is_refused_with_what_is_known(argument: str) -> None:
    error = refusal(argument)
    assert "not in the catalogue" in error.message
    assert "Xid 1 to 176" in str(error.hint)


def test_the_other_family_is_offered_when_it_has_the_number() -> None:
    assert refusal("xid 20034").hint == "there is an SXid 20034: ask for `sxid 20034`"
    assert refusal("sxid 79").hint == "there is an Xid 79: ask for `xid 79`"


@pytest.mark.parametrize(
    "argument",
    [
        "",
        "  \n ",
        "foo",
        "-1",
        "7.9",
        "0x4f",
        "٧٩",
        "\u017fxid 20034",
        "9" * 5000,
        "\0\x1b[31m",
        "x" * 100_000,
        "\ud800",
        "usb 1-1: new device",
    ],
)
def test_nonsense_is_refused_in_one_short_sentence(argument: str) -> None:
    error = refusal(argument)
    assert len(error.message) < 160
    assert error.message.isprintable()
    assert error.hint


def test_a_code_shows_its_whole_page_and_nvidias_own_actions() -> None:
    text = explained("79")
    for heading in HEADINGS.values():
        assert (heading in text) == (heading != HEADINGS["sources"]), heading
    assert "RESTART_BM: Restart the node (bare metal)." in text
    page = as_json("79")["page"]
    assert page["now"].startswith("* Drain the node")
    assert as_json("79")["nvidia_action"] == {
        "bucket": "RESTART_BM",
        "text": "Restart the node (bare metal).",
    }
    assert as_json("1")["page"] is None
    assert as_json("20034")["nvidia_action"] is None


def test_a_line_shows_what_to_do_now_and_where_the_rest_is() -> None:
    text = explained(FATAL_79)
    assert HEADINGS["now"] in text
    assert HEADINGS["worse"] not in text
    assert "more: xidwatch explain xid 79" in text
    assert as_json(FATAL_79)["page"]["worse"]


def explained_for(argument: str, driver: str) -> str:
    out = io.StringIO()
    explain.run(argument, as_json=False, out=out, colour=False, driver=driver)
    return out.getvalue()


def test_a_driver_version_chooses_the_meaning_and_the_layout() -> None:
    assert "FAST_PATH_ERROR" in explained_for("139", "535.161.08")
    assert "OFA1_ERROR" in explained_for("139", "580.159.04")
    line = "NVRM: Xid (PCI:0009:01:00): 149, NETIR_LINK_EVT Fatal XC0 i0 Link 01 (0x021425c6 0x00000000)"
    assert "INVESTIGATE_PEER_DEVICE" in explained_for(line, "570.158.01")
    assert "INVESTIGATE_PEER_DEVICE" not in explained_for(line, "580.159.04")


def test_what_is_no_driver_version_is_refused() -> None:
    with pytest.raises(UserError, match="no driver version"):
        explained_for("139", "the latest")
