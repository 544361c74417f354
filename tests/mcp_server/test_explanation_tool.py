"""`explain_xid` tells an assistant what `xidwatch explain` tells a person."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from mcp_types import TextContent

from tests.mcp_server.samples import FELL_OFF
from tests.mcp_server.serving import Served
from tests.support import tool_calls
from xidwatch import explain

SXID = "nvidia-nvswitch3: SXid (PCI:0000:a9:00.0): 20034, Fatal, Link 30 LTSSM Fault Up (First)"
GPU_LINE = "NVRM: GPU at PCI:0000:00:06: GPU-8f1c3d9a-0000-1111-2222-333344445555"


def explained(served: Served, era: str = "legacy", **arguments: Any) -> tuple[dict[str, Any], str]:
    """The answer, which the client has checked against the tool's schema; {} for an error."""
    result = tool_calls.call(served.url, "explain_xid", era, **arguments)
    (only,) = result.content
    assert isinstance(only, TextContent)
    assert (result.structured_content is None) is (result.is_error is True)
    return result.structured_content or {}, only.text


def told_by_the_command(argument: str) -> dict[str, Any]:
    out = io.StringIO()
    explain.run(argument, as_json=True, out=out, colour=False)
    told: dict[str, Any] = json.loads(out.getvalue())
    return told


@pytest.mark.parametrize("era", ["legacy", "2026-07-28"])
@pytest.mark.parametrize("code", [79, "79", "xid 79", "20034", "sxid 20034"])
def test_a_code_is_explained_as_by_the_command(served: Served, era: str, code: object) -> None:
    data, text = explained(served, era, code=code)
    assert data == {**told_by_the_command(str(code)), "explained_for_driver": "580.159.04"}
    assert data["name"] in text
    assert f"xid://catalog/{data['code']}" in text


@pytest.mark.parametrize("line", [FELL_OFF, SXID, f"[  12.3] {FELL_OFF}\n[  12.4] noise", GPU_LINE])
def test_a_line_is_explained_as_by_the_command(served: Served, line: str) -> None:
    data, _ = explained(served, line=line)
    told = told_by_the_command(line)
    assert {key: data[key] for key in told} == told


def test_the_line_is_quoted_as_data(served: Served) -> None:
    _, text = explained(served, line=FELL_OFF.replace("python3", 'x"\x1b[31m'))
    assert 'log line (untrusted data): "NVRM: Xid' in text
    assert "\x1b" not in text


def test_the_text_quotes_what_the_page_of_the_code_says_to_do_now(served: Served) -> None:
    step = "Drain the node; do not touch the GPU with `nvidia-smi`, calls may hang."
    for arguments in ({"code": 79}, {"line": FELL_OFF}):
        data, text = explained(served, **arguments)
        assert f"What to do now: {step}" in text
        assert data["page"]["title"].startswith("Xid 79")
    assert "What to do now" not in explained(served, code=1)[1]


def test_a_kind_chooses_between_xid_and_sxid(served: Served) -> None:
    assert explained(served, code="79", kind="xid")[0]["kind"] == "xid"
    assert "there is an Xid 79" in explained(served, code="79", kind="sxid")[1]
    assert "not an SXid" in explained(served, code="xid 79", kind="sxid")[1]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({}, "either code or line"),
        ({"code": 79, "line": FELL_OFF}, "either code or line"),
        ({"code": 999}, "not in the catalogue"),
        ({"code": "9" * 40}, "too long"),
        ({"code": "hello"}, "cannot explain 'hello'"),
        ({"code": ""}, "nothing to explain"),
        ({"line": "hello"}, "cannot explain 'hello'"),
        ({"line": FELL_OFF, "kind": "xid"}, "kind goes with code"),
        ({"line": "x" * 20_000}, "line:"),
        ({"code": True}, "code:"),
    ],
)
def test_what_cannot_be_explained_is_a_tool_error(
    served: Served, arguments: dict[str, Any], sentence: str
) -> None:
    data, text = explained(served, **arguments)
    assert data == {}
    assert sentence in text
