"""Hook of MkDocs: what the documents link to outside of `docs/` becomes part of the site.

On GitHub a link such as `../SECURITY.md` or `../deploy/prometheus/rules.yaml` leads into the repository. The
site has these files under `repository/`: Markdown as a page, everything else as it is. A link to a file that
does not exist is left as it is, and MkDocs, which is run strictly, reports it.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
FOLDER = "repository"
_LINK = re.compile(r"(?<=\]\()(?!#)([^():\s]+?)(#[^()\s]*)?(?=\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that the navigation names, and every file that a page links to."""
    wanted = {name for name in _named(config.nav) if name.startswith(f"{FOLDER}/")}
    for page in files.documentation_pages():
        wanted |= {_in_site(target) for target in _targets(page.content_string, "docs")}
    for name in sorted(wanted):
        _add(files, config, name)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links lead to where the site has the file."""
    home = posixpath.dirname(_in_repository(page.file.src_uri))

    def moved(found: re.Match[str]) -> str:
        name = _in_site(posixpath.normpath(posixpath.join(home, found[1])))
        if files.get_file_from_path(name) is None:
            return found[0]
        return posixpath.relpath(name, posixpath.dirname(page.file.src_uri) or ".") + (found[2] or "")

    return _LINK.sub(moved, markdown)


def _add(files: Files, config: MkDocsConfig, name: str) -> None:
    source = ROOT / _in_repository(name)
    if files.get_file_from_path(name) is None and source.is_file():
        files.append(File.generated(config, name, abs_src_path=str(source)))


def _targets(text: str, home: str) -> set[str]:
    """What a page in this folder of the repository links to, as paths in the repository."""
    return {posixpath.normpath(posixpath.join(home, found[1])) for found in _LINK.finditer(text)}


def _in_site(path: str) -> str:
    return path.removeprefix("docs/") if path.startswith("docs/") else f"{FOLDER}/{path}"


def _in_repository(name: str) -> str:
    return name.removeprefix(f"{FOLDER}/") if name.startswith(f"{FOLDER}/") else f"docs/{name}"


def _named(nav: object) -> list[str]:
    """Every page that a navigation names."""
    if isinstance(nav, str):
        return [nav]
    parts = nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ()
    return [name for part in parts for name in _named(part)]
