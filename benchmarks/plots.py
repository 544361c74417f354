"""The plots of a run: one SVG for each distribution and each series, drawn from its figures and samples.

`python -m benchmarks.plots DIR`, run by `benchmarks.drawing` with a Python that has matplotlib; it prints the
files. A plot has a title, both axes named with their units, the machine, and what xidwatch was measured
against beside it, dashed. It is read on light and dark pages alike: its colours are those of a light page,
and a style sheet in the file has others for readers who prefer dark ones. Text stays text. The same data
gives the same file, byte for byte.
"""

from __future__ import annotations

import io
import itertools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl  # type: ignore[import-not-found]  # in an environment of its own
from matplotlib import pyplot as plt
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter  # type: ignore[import-not-found]  # likewise

from benchmarks.figure import median, percentile
from benchmarks.result import FIGURES, SAMPLES, Result, read, read_samples
from benchmarks.samples import Samples
from benchmarks.series import Point, Series

PAPER, INK, FAINT, GRID = "#ffffff", "#1f2328", "#59636e", "#d1d9e0"
OURS = ("#0f766e", "#1d4ed8", "#7e22ce", "#0369a1", "#a21caf", "#4338ca")
BASELINES = ("#b45309", "#be123c", "#4d7c0f", "#475569", "#9f1239")
DARK: Mapping[str, str] = {
    **{PAPER: "#0d1117", INK: "#e6edf3", FAINT: "#9198a1", GRID: "#30363d"},
    **dict(zip(OURS, ("#2dd4bf", "#60a5fa", "#c084fc", "#38bdf8", "#e879f9", "#818cf8"), strict=True)),
    **dict(zip(BASELINES, ("#fbbf24", "#fb7185", "#a3e635", "#94a3b8", "#fda4af"), strict=True)),
}
"""Each colour's counterpart on a dark page."""
MARKERS = "osD^vP"
_MANY_POINTS = 30
"""From here on a line is a course, and marks on it would hide it."""
_MOST_TICKS = 10
_MOST_STEPS = 400
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "xidwatch",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Helvetica", "Arial"],
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.facecolor": PAPER,
    "axes.labelcolor": INK,
    "figure.facecolor": PAPER,
    "grid.color": GRID,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
}


def main(directory: Path) -> Sequence[Path]:
    """Draw the plots of the run in this directory; the files. Raises UnreadableError."""
    result = read(directory / FIGURES)
    plots = {each.name: distribution(each, result) for each in read_samples(directory / SAMPLES)}
    for series in (series for outcome in result.outcomes for series in outcome.series):
        if series.lines:
            plots[series.name] = growth(series, result)
    files = []
    for name, content in plots.items():
        files.append(directory / f"{name}.svg")
        files[-1].write_text(content, encoding="utf-8")
    return files


def distribution(samples: Samples, result: Result) -> str:
    """For each line the share of measurements that were as fast or faster."""
    figure, axes = _canvas(samples.title, result)
    lines = [(name, values, colour, "-") for (name, values), colour in _coloured(samples.ours, OURS)]
    lines += [
        (name, values, colour, "--") for (name, values), colour in _coloured(samples.baselines, BASELINES)
    ]
    for number, (name, values, colour, dash) in enumerate(lines):
        ordered = sorted(values)
        delays, shares = _steps(ordered)
        label = f"{name}\nmedian {_plain(median(ordered))}, p99 {_plain(percentile(ordered, 0.99))}"
        (line,) = axes.step(delays, shares, where="post", color=colour, linestyle=dash, label=label)
        line.set_gid(f"line-{number}")
    axes.set_xscale("log")
    axes.set_ylim(0, 102)
    axes.set_yticks([0, 25, 50, 75, 99])
    axes.set_xlabel(samples.x)
    axes.set_ylabel("share of measurements that took no longer, %")
    _finish(axes, log_x=True)
    return _svg(figure, samples.title, f"{samples.x}; dashed: what it is measured against")


def _steps(ordered: Sequence[float]) -> tuple[Sequence[float], Sequence[float]]:
    """Where the line goes: each value, and the share, in %, that is not above it. Of thousands of values some
    hundreds, as many as can be told apart; of the slowest hundredth, which is what one looks for, each."""
    count = len(ordered)
    tail = count - count // 100
    ranks = [*range(1, tail, max(count // _MOST_STEPS, 1)), *range(tail, count + 1)]
    return (ordered[0], *(ordered[rank - 1] for rank in ranks)), (0, *(100 * rank / count for rank in ranks))


def growth(series: Series, result: Result) -> str:
    """The medians of each line against the size, and a shade up to the 99th percentile."""
    figure, axes = _canvas(series.title, result)
    names = [name for name in series.lines if not _is_baseline(series, name)]
    others = [name for name in series.lines if _is_baseline(series, name)]
    lines = [(name, colour, "-") for name, colour in _coloured(names, OURS)]
    lines += [(name, colour, "--") for name, colour in _coloured(others, BASELINES)]
    for number, (name, colour, dash) in enumerate(lines):
        look = {"color": colour, "linestyle": dash}
        if len(series.lines[name]) < _MANY_POINTS:
            look |= {"marker": MARKERS[number % len(MARKERS)]}
        _draw_line(axes, series, name, look).set_gid(f"line-{number}")
    if series.log_x:
        axes.set_xscale("log")
    if series.log_y:
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
    axes.set_xlabel(series.x)
    axes.set_ylabel(series.y)
    _finish(axes, log_x=series.log_x, log_y=series.log_y)
    points = [point for line in series.lines.values() for point in line]
    sizes = sorted({point.x for point in points})
    if series.log_x and len(sizes) <= _MOST_TICKS:
        axes.set_xticks(sizes, [_plain(size) for size in sizes], minor=False)
        axes.tick_params(axis="x", which="minor", bottom=False)
    if any(point.p99 is not None for point in points):
        axes.get_legend().set_title("line: median; shade: to p99", prop={"size": 8})
    return _svg(figure, series.title, series.explanation)


def _draw_line(axes: Any, series: Series, name: str, look: Mapping[str, str]) -> Any:
    points: Sequence[Point] = series.lines[name]
    known = series.growth.get(name)
    label = name if known is None or known.exponent is None else f"{name}\n{known.words}"
    medians = [point.p50 for point in points]
    (line,) = axes.plot([point.x for point in points], medians, markersize=4, label=label, **look)
    wide = [(point.x, point.p50, point.p99) for point in points if point.p99 is not None]
    if wide:
        axes.fill_between(*zip(*wide, strict=True), color=look["color"], alpha=0.12, linewidth=0)
    return line


def _is_baseline(series: Series, name: str) -> bool:
    known = series.growth.get(name)
    return known is not None and known.expected is None


def _coloured(names: Any, colours: Sequence[str]) -> Any:
    """Each of these, or each item of a mapping, with a colour; they come again when there are too few."""
    each = names.items() if isinstance(names, Mapping) else names
    return zip(each, itertools.cycle(colours), strict=False)


def _canvas(title: str, result: Result) -> tuple[Any, Any]:
    figure, axes = plt.subplots(figsize=(9.6, 5.0), layout="constrained")
    machine = f"{result.machine['cpu']}; {result.machine['kernel']}; {result.machine['python']}"
    if result.extent == "quick":
        machine += "; a quick run, with too few samples to quote"
    figure.get_layout_engine().set(rect=(0, 0, 1, 0.88))
    figure.text(0.012, 0.94, title, fontsize=12, fontweight="bold")
    figure.text(0.012, 0.895, machine, fontsize=8, color=FAINT)
    return figure, axes


def _finish(axes: Any, *, log_x: bool, log_y: bool = False) -> None:
    for axis, is_log in ((axes.xaxis, log_x), (axes.yaxis, log_y)):
        if is_log:
            low, high = axis.get_view_interval()
            axis.set_major_locator(LogLocator(subs=(1.0,) if high / low > 200 else (1.0, 2.0, 5.0)))
            axis.set_minor_formatter(NullFormatter())
        axis.set_major_formatter(FuncFormatter(lambda value, _: _plain(value)))
    axes.grid(visible=True, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=8, labelspacing=0.9)


def _plain(value: float) -> str:
    """`0.05`, `1.5`, `1,000`: never 10^3."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _svg(figure: Any, title: str, description: str) -> str:
    file = io.StringIO()
    metadata = {"Title": title, "Description": description, "Date": None, "Creator": None}
    figure.savefig(file, format="svg", metadata=metadata)
    plt.close(figure)
    rules = "".join(
        f'[style*="{what}: {light}"] {{ {what}: {dark} !important }}\n'
        for light, dark in DARK.items()
        for what in ("fill", "stroke")
    )
    style = f"<style>@media (prefers-color-scheme: dark) {{\n{rules}}}</style>"
    head, separator, rest = file.getvalue().partition("<metadata>")
    lines = f"{head}{style}\n {separator}{rest}".splitlines()
    return "\n".join(line.rstrip() for line in lines) + "\n"


if __name__ == "__main__":
    mpl.use("svg")
    mpl.rcParams.update(_STYLE)
    for path in main(Path(sys.argv[1])):
        print(path)
