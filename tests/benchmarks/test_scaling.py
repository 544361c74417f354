"""How growth is fitted and judged, and that every scale measures what it says, on small sizes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from benchmarks import scaling
from benchmarks.figure import Plan, Unavailable
from benchmarks.scaling import SCALES, Scale
from benchmarks.series import Growth, Lines, Order, Point, Series, fit
from tests.support.daemon import ROOT

SIZES = (1_000, 10_000, 100_000, 1_000_000)


def points(cost: Callable[[float], float], sizes: Sequence[float] = SIZES) -> list[Point]:
    return [Point(size, cost(size)) for size in sizes]


def series(expected: Order, cost: Callable[[float], float], *, judged: bool = True) -> Series:
    lines = Lines({"work": expected})
    for size in SIZES:
        lines.add("work", size, [cost(size), 2 * cost(size)])
    growth = lines.growth(judged=judged)
    return Series("work", "Work", "things", "ms", lines.points, growth, "It is so.", missing={"play": "none"})


@pytest.mark.parametrize(
    ("cost", "exponent"),
    [(lambda n: 7.0, 0), (lambda n: 0.1 * n, 1), (lambda n: n * n, 2), (lambda n: 5 / n, -1)],
)
def test_the_exponent_of_a_power_is_found_whatever_its_factor(
    cost: Callable[[float], float], exponent: float
) -> None:
    found = fit(points(cost))
    assert found == pytest.approx(exponent, abs=1e-9)


@pytest.mark.parametrize("few", [[], [Point(1, 1)], [Point(5, 1), Point(5, 2)], [Point(1, 0), Point(2, 1)]])
def test_no_growth_is_made_up_where_none_can_be_fitted(few: Sequence[Point]) -> None:
    growth = Growth.of(few, Order.CONSTANT)
    assert (growth.exponent, growth.held) == (None, None)
    assert growth.words == "no growth can be fitted"


@pytest.mark.parametrize(
    ("expected", "cost", "held"),
    [
        (Order.CONSTANT, lambda n: 3.0, True),
        (Order.CONSTANT, math.sqrt, False),
        (Order.LOGARITHMIC, math.log, True),
        (Order.LOGARITHMIC, lambda n: n, False),
        (Order.LINEAR, lambda n: n, True),
        (Order.LINEAR, lambda n: n * math.log(n), True),
        (Order.LINEAR, lambda n: n**1.5, False),
    ],
)
def test_a_cost_that_grows_faster_than_expected_is_missed(
    expected: Order, cost: Callable[[float], float], held: bool
) -> None:
    growth = Growth.of(points(cost), expected)
    assert growth.held is held
    assert ("MISSED" in growth.words) is not held


def test_a_fixed_cost_does_not_hide_growth_at_the_end() -> None:
    growth = Growth.of(points(lambda n: 1_000 + n / 1_000), Order.CONSTANT)
    assert growth.exponent is not None and growth.exponent < 0.3
    assert growth.held is True
    growth = Growth.of(points(lambda n: 1_000 + n / 100), Order.CONSTANT)
    assert growth.exponent is not None and growth.exponent < 0.35
    assert growth.tail is not None and growth.tail > 0.4
    assert growth.held is False
    assert "at the end" in growth.words


def test_a_baseline_is_told_and_not_judged() -> None:
    growth = Growth.of(points(lambda n: n**3), None)
    assert growth.held is None
    assert growth.words == "x^3.00"


def test_a_series_survives_its_json() -> None:
    for each in (series(Order.LINEAR, lambda n: n), series(Order.CONSTANT, lambda n: n, judged=False)):
        assert Series.from_dict(json.loads(json.dumps(each.to_dict()))) == each
    assert not series(Order.CONSTANT, lambda n: n).held
    assert series(Order.CONSTANT, lambda n: n, judged=False).held


def test_what_is_measured_once_has_no_99th_percentile() -> None:
    assert Point.of(1, [3.0]) == Point(1, 3.0, None)
    assert Point.of(1, [3.0, 1.0, 2.0]) == Point(1, 2.0, 3.0)


def test_a_line_that_was_not_announced_is_refused() -> None:
    with pytest.raises(KeyError):
        Lines({"work": None}).add("play", 1, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("scale", SCALES, ids=lambda scale: scale.name)
def test_every_line_of_a_scale_is_measured_at_every_size(scale: Scale) -> None:
    try:
        found = scaling.measure(scale, quick=True)
    except Unavailable as reason:
        pytest.skip(str(reason))
    assert len({each.name for each in found}) == len(found) > 0
    for each in found:
        assert each.explanation
        assert each.held, "a quick run judges nothing"
        assert each.growth.keys() <= each.lines.keys()
        assert each.lines.keys().isdisjoint(each.missing)
        for name, measured in each.lines.items():
            assert len(measured) >= 2, (each.name, name)
            assert [point.x for point in measured] == sorted(point.x for point in measured)
            assert all(point.p50 > 0 for point in measured) or each.name == "lines-lost", (each.name, name)
        assert Series.from_dict(json.loads(json.dumps(each.to_dict()))) == each


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Plan], Sequence[Series]]], None]:
    """Makes a scale the only one that there is."""
    return lambda measure: monkeypatch.setattr(scaling, "SCALES", (Scale("work", "work", measure),))


def test_growth_that_should_not_be_is_exit_code_1_and_stands_in_the_json(
    only: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    only(lambda plan: [series(Order.CONSTANT, lambda n: n)])
    assert scaling.main(["--json", str(tmp_path / "series.json")]) == 1
    written = json.loads((tmp_path / "series.json").read_text())
    assert written["held"] is False
    assert [Series.from_dict(each).held for each in written["series"]] == [False]
    assert {"cpu", "kernel", "python", "load"} <= set(written["machine"])
    out = capsys.readouterr().out
    assert "x^1.00, expected O(1): MISSED" in out
    assert "play: not measured: none" in out


def test_a_scale_that_cannot_be_measured_is_told_with_its_reason(
    only: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(plan: Plan) -> Sequence[Series]:
        raise Unavailable("no compiler")

    only(measure)
    assert scaling.main([]) == 0
    assert "not measured: work: no compiler" in capsys.readouterr().out


def test_the_growth_goes_into_the_table_of_a_document(only: Callable[..., None], tmp_path: Path) -> None:
    only(lambda plan: [series(Order.LINEAR, lambda n: n)])
    document = tmp_path / "scaling.md"
    document.write_text(f"before\n{scaling.BEGIN}\nold\n{scaling.END}\nafter\n")
    assert scaling.main(["--document", str(document)]) == 0
    text = document.read_text()
    assert "| Work: work | things | 1,000 | 1,000,000 | n^1.00 | n^1.00 | O(n) | yes |" in text
    assert text.startswith("before\n") and text.endswith("after\n")
    assert "old" not in text
    with pytest.raises(ValueError, match="lacks the line"):
        scaling.write(Path(__file__), [])


def test_the_published_document_takes_the_table() -> None:
    text = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    assert text.index(scaling.BEGIN) < text.index(scaling.END)
    for scale in SCALES:
        assert f"| `{scale.name}` |" in text


def test_an_unknown_scale_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        scaling.main(["nonsense"])
    assert ended.value.code == 2
    assert "journal" in capsys.readouterr().err
