"""Plots of a run: well-formed SVG with its title, its axes and every line, for light and dark pages."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from benchmarks import drawing
from tests.support.benchmark_run import result, written

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def plots(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """The plots of a made-up run, by name."""
    directory = tmp_path_factory.mktemp("run")
    (directory / "of-an-earlier-run.svg").write_text("old")
    written(directory)
    return drawn(directory)


def drawn(directory: Path) -> Mapping[str, Path]:
    try:
        return {path.stem: path for path in drawing.draw(directory)}
    except drawing.UnavailableError as reason:
        pytest.skip(f"no matplotlib: {reason}")


def elements(plot: Path, kind: str) -> Iterator[ET.Element]:
    """The elements of this kind; also proves that the file is well-formed."""
    return ET.parse(plot).iter(SVG + kind)  # noqa: S314  # written by ourselves a moment ago


def texts(plot: Path) -> set[str]:
    """Every text in it."""
    return {"".join(element.itertext()).strip() for element in elements(plot, "text")}


def lines(plot: Path) -> int:
    """How many lines it draws."""
    ids = (element.get("id", "") for element in elements(plot, "g"))
    return sum(bool(re.fullmatch(r"line-\d+", each)) for each in ids)


def test_there_is_one_plot_for_each_distribution_and_series_and_none_of_earlier_runs(
    plots: Mapping[str, Path],
) -> None:
    assert sorted(plots) == ["latency", "readers", "storm-memory"]
    (directory,) = {path.parent for path in plots.values()}
    assert sorted(path.stem for path in directory.glob("*.svg")) == sorted(plots)


SHARE = "share of measurements that took no longer, %"


@pytest.mark.parametrize(
    ("name", "told", "count"),
    [
        ("latency", {"From a line to a client", "delay, ms", SHARE}, 4),
        ("readers", {"One event to many", "subscribers", "delay, ms"}, 2),
        ("storm-memory", {"Memory in a storm", "time, s", "resident memory, MB"}, 1),
    ],
)
def test_a_plot_has_its_title_its_axes_the_machine_and_every_line(
    plots: Mapping[str, Path], name: str, told: set[str], count: int
) -> None:
    shown = texts(plots[name])
    assert told <= shown
    assert any("Abacus" in text for text in shown)
    assert lines(plots[name]) == count


def test_baselines_are_dashed_and_ours_are_not(plots: Mapping[str, Path]) -> None:
    for name, dashed in (("latency", [False, False, True, True]), ("readers", [False, True])):
        found = []
        for number in range(len(dashed)):
            (group,) = (each for each in elements(plots[name], "g") if each.get("id") == f"line-{number}")
            styles = [path.get("style", "") for path in group.iter(f"{SVG}path")]
            found.append(any("stroke-dasharray" in style for style in styles))
        assert found == dashed


def test_a_legend_tells_medians_of_distributions_and_growth_of_series(plots: Mapping[str, Path]) -> None:
    assert "median 4, p99 5.5" in texts(plots["latency"])
    assert any("expected O(n)" in text for text in texts(plots["readers"]))


def test_every_colour_has_its_counterpart_on_dark_pages(plots: Mapping[str, Path]) -> None:
    for plot in plots.values():
        text = plot.read_text()
        style, _, drawing_of_it = text.partition("</style>")
        assert "prefers-color-scheme: dark" in style
        for what, colour in set(re.findall(r"(fill|stroke): (#[0-9a-f]{6})", drawing_of_it)):
            assert f'[style*="{what}: {colour}"]' in style, (plot.name, what, colour)


def test_a_quick_run_says_so_in_its_plots_and_the_same_data_gives_the_same_file(tmp_path: Path) -> None:
    written(tmp_path, replace(result(), extent="quick"))
    first = {name: path.read_bytes() for name, path in drawn(tmp_path).items()}
    assert {name: path.read_bytes() for name, path in drawn(tmp_path).items()} == first
    assert all(b"too few samples" in content for content in first.values())


def test_the_lock_of_what_draws_pins_everything_by_hash_and_names_no_registry() -> None:
    text = drawing.LOCK.read_text(encoding="utf-8")
    entries = re.split(r"\n(?=\S)", text)
    assert any(entry.startswith("matplotlib==") for entry in entries)
    assert all("==" in entry and "--hash=sha256:" in entry for entry in entries)
    assert "://" not in text
