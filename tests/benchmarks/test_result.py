"""A run on disk, two of them compared, and one as a part of a document."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks import machine
from benchmarks.compare import comparison
from benchmarks.figure import Figure
from benchmarks.report import BEGIN, DOCUMENT, END, sources, with_figures
from benchmarks.result import UnreadableError, read, read_samples
from tests.support.benchmark_run import MACHINE, latency, result, written


def test_a_run_survives_its_files(tmp_path: Path) -> None:
    figures = written(tmp_path)
    found, run = read(figures), result()
    assert (found.machine, found.extent, found.seconds) == (run.machine, run.extent, run.seconds)
    assert [each.to_dict() for each in found.outcomes] == [each.to_dict() for each in run.outcomes]
    assert read_samples(tmp_path / "samples.json") == [latency()]
    assert json.loads(figures.read_text())["held"] is True


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"schema": 1}', '{"schema": 99}', '{"schema": 1, "machine": {}}']
)
def test_a_file_that_is_no_run_is_refused_in_words_with_exit_code_2(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "figures.json"
    path.write_text(content)
    with pytest.raises(UnreadableError, match=re.escape(str(path))):
        read(path)
    assert command.main(["compare", str(path), str(path)]) == 2
    assert str(path) in capsys.readouterr().err


def test_a_file_that_is_not_there_is_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["compare", "no.json", "no.json"], ["report", "no.json"], ["plot", str(tmp_path)]):
        assert command.main(words) == 2
        assert capsys.readouterr().err.startswith("error: ")


def test_a_comparison_tells_ratios_and_which_way_is_better() -> None:
    before = result(
        [Figure("delay", 4.0, "ms"), Figure("rate", 100, "/s", at_least=True), Figure("lost", 0, "")]
    )
    after = result(
        [Figure("delay", 2.0, "ms"), Figure("rate", 50, "/s", at_least=True), Figure("lost", 3, "")]
    )
    told = {line.split("  ")[0]: line for line in comparison(before, after).splitlines()}
    assert told["delay"].endswith("0.50 x  better")
    assert told["rate"].endswith("0.50 x  worse")
    assert told["lost"].endswith("was none")
    assert told["readers: plain server, at 1,000"].endswith("1.00 x")


def test_a_comparison_says_what_makes_it_doubtful() -> None:
    before = result([Figure("old", 1, "")])
    after = replace(
        result([Figure("new", 1, "")]), extent="quick", machine={**MACHINE, "kernel": "Linux 5.10"}
    )
    told = comparison(before, after)
    assert "not the same kernel: Linux 6.18 x86_64, HZ=250; Linux 5.10" in told
    assert "after: a quick run" in told
    assert "only before: old" in told
    assert "only after: new" in told


def test_a_document_gets_the_figures_and_keeps_the_rest(tmp_path: Path) -> None:
    figures = written(tmp_path / "results" / "abacus")
    (figures.parent / "latency.svg").write_text("<svg><title>From a line to a client</title></svg>")
    document = tmp_path / "docs" / "benchmarks.md"
    document.parent.mkdir()
    document.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    assert command.main(["report", str(figures), "--document", str(document)]) == 0
    text = document.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "\nold\n" not in text
    for told in (
        "Abacus",
        "line → client",
        "≤ 1.50 x",
        "bare loop: 2 ms",
        "n^0.",
        "not measured: bpftrace: not installed",
    ):
        assert told in text
    assert "![From a line to a client](../results/abacus/latency.svg)" in text
    assert [path.resolve() for path in sources(text, document.parent)] == [figures]
    assert with_figures(text, sources(text, document.parent), document.parent) == text


def test_a_document_without_a_place_for_figures_is_left_alone(tmp_path: Path) -> None:
    figures, document = written(tmp_path), tmp_path / "README.md"
    document.write_text("nothing here")
    assert command.main(["report", str(figures), "--document", str(document)]) == 2
    assert document.read_text() == "nothing here"


def test_the_figures_of_our_document_are_those_of_the_files_it_names() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert with_figures(text, sources(text, DOCUMENT.parent), DOCUMENT.parent) == text


def test_the_machine_is_named_by_its_kind_and_not_by_its_host() -> None:
    name = machine.name()
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*-cores(-[a-z0-9]+)*", name)
    described = machine.describe()
    facts = ("cpu", "gpus", "memory", "kernel", "python", "packages", "code", "user", "time", "load")
    assert tuple(described) == facts
    assert "mcp " in described["packages"]


def test_the_gpus_of_a_machine_are_told_by_model_and_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(2):
        (tmp_path / f"0000:0{number}:00.0").mkdir()
        text = f"Model: \t\t NVIDIA H200\nIRQ:   \t\t {number}\n"
        (tmp_path / f"0000:0{number}:00.0" / "information").write_text(text)
    monkeypatch.setattr(machine, "_GPUS", tmp_path)
    assert machine.describe()["gpus"] == "2 × NVIDIA H200"
    assert machine.name().endswith("-cores-nvidia-h200")
