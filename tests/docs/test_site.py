"""The documents as a site: `make docs` builds it without a warning, every page is found, no link breaks."""

from __future__ import annotations

import re
import subprocess
from collections import defaultdict
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.support.daemon import ROOT

DOCS = ROOT / "docs"
INSTALL_DEADLINE_S = 600
LOADS = {"img", "link", "script", "iframe", "source"}
"""Elements that fetch what they name."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site."""
    installed = make(".cache/docs/.installed")
    if installed.returncode:
        pytest.skip(f"MkDocs cannot be had: {installed.stderr.strip().splitlines()[-1]}")
    place = tmp_path_factory.mktemp("site")
    built = make("docs", f"DOCS_OUT={place}")
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr, built.stderr
    return place


def make(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "--silent", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=INSTALL_DEADLINE_S,
        check=False,
    )


class Page(HTMLParser):
    """What a page links to, what it loads, and its anchors."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.loads: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note its addresses and its name."""
        named = dict(attrs)
        for address in (named.get("href"), named.get("src")):
            if address is not None:
                (self.loads if tag in LOADS else self.links).add(address)
        for name in (named.get("id"), named.get("name") if tag == "a" else None):
            if name is not None:
                self.anchors.add(name)


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    """Every page of the site."""
    return {path: Page(path) for path in site.rglob("*.html")}


def navigation() -> list[str]:
    """The pages that mkdocs.yml names."""
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    section = text.partition("\nnav:\n")[2].partition("\n\n")[0]
    return re.findall(r": (\S+\.md)$", section, re.MULTILINE)


def test_each_page_is_in_the_navigation_once_and_each_entry_exists() -> None:
    named = navigation()
    assert len(named) == len(set(named))
    ours = {name for name in named if not name.startswith("repository/")}
    assert ours == {path.name for path in DOCS.glob("*.md")}
    for name in set(named) - ours:
        assert (ROOT / name.removeprefix("repository/")).is_file()


def test_each_entry_of_the_navigation_is_a_page_of_the_site(site: Path) -> None:
    for name in navigation():
        assert (site / name).with_suffix(".html").is_file(), name


def test_no_link_within_the_site_is_broken(site: Path, pages: dict[Path, Page]) -> None:
    broken = defaultdict(list)
    for path, page in pages.items():
        if path.name == "404.html":
            continue  # served for every path: its links begin at the root of the server
        for link in page.links | page.loads:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            exists = target.is_file() and target.is_relative_to(site)
            known = parts.fragment in pages[target].anchors if exists and target in pages else exists
            if not exists or (parts.fragment and not known):
                broken[path.name].append(link)
    assert not broken


def test_nothing_is_loaded_from_elsewhere(site: Path, pages: dict[Path, Page]) -> None:
    for path, page in pages.items():
        assert not [address for address in page.loads if "//" in address], path.name
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//|@import", style.read_text(encoding="utf-8")), (
            style.name
        )


def test_the_site_holds_documents_and_no_programs_of_ours(site: Path) -> None:
    assert not [path.name for path in site.rglob("*") if path.suffix in (".py", ".pyc", ".lock")]


def test_what_documents_link_to_in_the_repository_is_in_the_site(site: Path) -> None:
    rules = ROOT / "deploy" / "prometheus" / "rules.yaml"
    assert (site / "repository" / rules.relative_to(ROOT)).read_text() == rules.read_text()
    assert "Reporting a vulnerability" in (site / "repository" / "SECURITY.html").read_text()


def test_the_search_finds_every_page(site: Path) -> None:
    index = (site / "search" / "search_index.json").read_text(encoding="utf-8")
    for name in navigation():
        assert f'"location":"{Path(name).with_suffix(".html")}' in index, name
