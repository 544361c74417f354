"""The MCP conformance suite from npm, against the product's server over HTTP.

The suite's own exit code is the verdict: 0 when everything passes but what `baseline.yml` lists,
and everything that it lists fails.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.installed import NodeTools, node_tools
from tests.support.daemon import ROOT, clean_environment
from tests.support.installed import UnavailableError
from tests.support.waiting import DEADLINE_S

BASELINE = Path(__file__).parent / "baseline.yml"
SUITE_DEADLINE_S = 300.0


@pytest.fixture(scope="module")
def tools() -> NodeTools:
    """Node with the suite."""
    try:
        return node_tools()
    except UnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def url(tools: NodeTools) -> Iterator[str]:
    """Where the product's server answers, fixtures beside its own tools."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.conformance.serve_fixtures"],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env=clean_environment(),
        text=True,
    ) as serving:
        assert serving.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(serving.stdout.readline())}/mcp"
        finally:
            serving.terminate()
            assert serving.wait(DEADLINE_S) == 0


@pytest.mark.slow
@pytest.mark.parametrize("version", ["2025-11-25", "2026-07-28"])
def test_the_conformance_suite_passes(tools: NodeTools, url: str, version: str, tmp_path: Path) -> None:
    suite = tools.command("@modelcontextprotocol/conformance", "dist/index.js")
    asked = ["--url", url, "--suite", "all", "--spec-version", version]
    done = subprocess.run(
        [*suite, "server", *asked, "--expected-failures", str(BASELINE), "--output-dir", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=SUITE_DEADLINE_S,
        check=False,
    )
    summary = done.stdout.partition("=== SUMMARY ===")[2]
    assert len(re.findall(r"^✓ ", summary, re.MULTILINE)) > 20, done.stdout + done.stderr
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr


def test_every_entry_of_the_baseline_stands_under_a_reason() -> None:
    reason = ""
    for line in BASELINE.read_text(encoding="utf-8").splitlines():
        if line.strip().startswith("#"):
            reason = line
        elif line.strip().startswith("- "):
            assert reason, line
        else:
            reason = ""
