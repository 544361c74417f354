"""Every code that an on-call engineer meets has a page: whole, short, and in step with the tables."""

from __future__ import annotations

import re

import pytest

from daemon.catalog import CodePage, codes, lookup, page
from daemon.code_pages import HEADINGS, PAGES, blocks, pages, parse
from daemon.event import Action, Kind, Severity

MET = (
    *(13, 31, 32, 43, 45, 48, 61, 62, 63, 64, 68, 69, 74, 79, 92, 94, 95, 109, 110, 119, 120, 121, 122, 123),
    *(136, 137, 140, 143, *range(144, 151), 154, 155, 156, 158, 160, 161, 162, 163, 171, 172),
)

WHOLE = "# Title\n\nCodes: xid 13-14 31\n" + "".join(
    f"\n## {heading}\n\nText of {name}.\n" for name, heading in HEADINGS.items()
)


@pytest.mark.parametrize("code", MET)
def test_an_xid_that_people_meet_has_a_page(code: int) -> None:
    found = page(Kind.XID, code)
    assert found is not None
    assert code in found.codes


def test_every_fatal_sxid_has_a_page() -> None:
    for code in codes(Kind.SXID):
        entry = lookup(Kind.SXID, code)
        assert entry is not None
        if entry.severity is Severity.FATAL:
            assert page(Kind.SXID, code) is not None, code


def test_every_page_is_about_codes_of_the_catalogue_and_no_code_has_two() -> None:
    seen = [(found.kind, code) for found in pages() for code in found.codes]
    assert len(seen) == len(set(seen))
    assert len(pages()) == len(list(PAGES.glob("*.md")))
    assert all(lookup(kind, code) for kind, code in seen)


@pytest.mark.parametrize("found", pages(), ids=lambda found: found.title)
def test_a_page_is_short_plain_and_whole(found: CodePage) -> None:
    text = "\n".join(text for _, text in found.sections())
    assert 60 <= len(text.split()) <= 330
    assert text.isascii()
    assert max(map(len, text.splitlines())) <= 100
    for heading, section in found.sections():
        for _, block in blocks(section):
            assert block.endswith((".", ".)")), (heading, block)
    assert "sudo" not in text


@pytest.mark.parametrize("found", pages(), ids=lambda found: found.title)
def test_a_page_asks_for_the_reset_or_reboot_that_the_table_asks_for(found: CodePage) -> None:
    for code in found.codes:
        entry = lookup(found.kind, code)
        assert entry is not None
        if entry.action is Action.REBOOT_NODE:
            assert re.search(r"reboot|[Pp]ower (?:it|the node) off", found.now), code
        if entry.action in {Action.RESET_GPU, Action.RESET_FABRIC, Action.DRAIN_AND_RESET}:
            assert "reset" in found.now.lower(), code


def test_a_code_without_a_page_has_none() -> None:
    assert page(Kind.XID, 1) is None
    assert page(Kind.SXID, 79) is None
    assert page(Kind.GAP, 79) is None


def test_a_page_gives_its_sections_in_order_under_their_headings() -> None:
    found = parse(WHOLE)
    assert (found.kind, found.codes, found.title) == (Kind.XID, (13, 14, 31), "Title")
    assert found.sections() == tuple((heading, f"Text of {name}.") for name, heading in HEADINGS.items())


def test_only_the_disagreement_of_sources_may_be_missing() -> None:
    without = WHOLE[: WHOLE.index("\n## Where the sources")]
    assert parse(without).sources == ""
    assert "sources" not in dict(parse(without).sections())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# Title\n",
        WHOLE.replace("Codes: xid", "Codes: bug"),
        WHOLE.replace("## What to do now", "## What now"),
        WHOLE.replace("Text of collect.", ""),
        WHOLE.replace("13-14", "thirteen"),
    ],
)
def test_a_file_that_is_no_page_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse(text)


def test_blocks_join_wrapped_lines_and_tell_items_from_paragraphs() -> None:
    text = "A paragraph\nthat goes on.\n* An item\n  that goes on.\n* Another."
    assert list(blocks(text)) == [
        (False, "A paragraph that goes on."),
        (True, "An item that goes on."),
        (True, "Another."),
    ]
