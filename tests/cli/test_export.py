"""Exports: the forms that other tools read."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from pytest_nriperf.cli import main
from tests.recorded import record_session

GAPS = (10.0, 11.0, 9.0)


@pytest.fixture
def session(tmp_path: Path) -> Path:
    return record_session(tmp_path / "out", "s1", GAPS)


def exported(session: Path, form: str, target: Path) -> str:
    assert main(["export", str(session), "--format", form, "--out", str(target)]) == 0
    return target.read_text()


def test_pytest_benchmark_compares_the_exported_run(session: Path, tmp_path: Path) -> None:
    exported(session, "pytest-benchmark", tmp_path / ".benchmarks/Linux-CPython-3-64bit/0001_nriperf.json")
    other = record_session(tmp_path / "out", "s2", [2 * gap for gap in GAPS], day=2)
    exported(other, "pytest-benchmark", tmp_path / ".benchmarks/Linux-CPython-3-64bit/0002_nriperf.json")
    done = subprocess.run(
        [sys.executable, "-c", "from pytest_benchmark.cli import main; main()", "compare", "--columns=min,mean,rounds"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "test_chat[itl]" in done.stdout
    assert "(2.0" in done.stdout


def test_the_statistics_are_those_of_the_runs(session: Path, tmp_path: Path) -> None:
    document = json.loads(exported(session, "pytest-benchmark", tmp_path / "b.json"))
    stats = {row["group"]: row["stats"] for row in document["benchmarks"]}
    assert stats["itl"]["median"] == pytest.approx(0.010)
    assert stats["itl"]["rounds"] == 3
    assert stats["throughput"]["min"] < stats["throughput"]["max"]


def test_csv_and_json_lines_hold_the_same_rows(session: Path, tmp_path: Path) -> None:
    rows = list(csv.DictReader(exported(session, "csv", tmp_path / "x.csv").splitlines()))
    lines = [json.loads(line) for line in exported(session, "jsonl", tmp_path / "x.jsonl").splitlines()]
    assert [row["value"] for row in rows] == [str(line["value"]) for line in lines]
    assert {line["run"] for line in lines if line["metric"] == "itl"} == {0, 1, 2}


def test_openmetrics_is_read_by_its_reference_parser(session: Path, tmp_path: Path) -> None:
    parse: Callable[[str], Iterable[Any]] = text_string_to_metric_families
    families = {family.name: family for family in parse(exported(session, "openmetrics", tmp_path / "m"))}
    medians = [s for s in families["nriperf_itl_seconds"].samples if s.labels["statistic"] == "median"]
    assert medians[0].value == pytest.approx(0.010)
    assert medians[0].labels["test"] == "suites/test_chat.py::test_chat"


def test_a_file_of_pytest_benchmark_holds_one_session(session: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = record_session(session.parent, "s2", GAPS, day=2)
    assert main(["export", str(session), str(other), "--format", "pytest-benchmark"]) == 2
    assert "holds one session, 2 were named; export them one by one: s1, s2" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_a_usage_error(session: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(session), "--out", "/proc/nowhere/x"]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_two_variants_and_two_sessions_are_told_apart(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for name, factor in (("a", 1.0), ("b", 2.0)):
        variant = {"name": name, "of": ["a", "b"]}
        made = record_session(tmp_path / name, "s1", [factor * gap for gap in GAPS], variant=variant)
        (out / "s1").mkdir(parents=True, exist_ok=True)
        (made / "test_chat").rename(out / "s1" / name)
    later = record_session(out, "s2", [3 * gap for gap in GAPS], day=2, variant={"name": "b", "of": ["a", "b"]})
    arguments = ["export", str(out / "s1"), str(later)]
    test = "suites/test_chat.py::test_chat[variant={}]".format

    assert main([*arguments, "--format", "openmetrics", "--out", str(tmp_path / "m")]) == 0
    parse: Callable[[str], Iterable[Any]] = text_string_to_metric_families
    families = {family.name: family for family in parse((tmp_path / "m").read_text())}
    samples = [one for one in families["nriperf_itl_seconds"].samples if one.labels["statistic"] == "median"]
    medians = {one.labels["test"]: one.value for one in samples}
    assert len(samples) == 2
    assert medians == {test("a"): pytest.approx(0.010), test("b"): pytest.approx(0.030)}

    assert main([*arguments, "--format", "csv", "--out", str(tmp_path / "c")]) == 0
    rows = list(csv.DictReader((tmp_path / "c").read_text().splitlines()))
    keys = [(row["test"], row["session"], row["metric"], row["statistic"], row["run"]) for row in rows]
    assert len(set(keys)) == len(keys)
    assert {key[:2] for key in keys} == {(test("a"), "s1"), (test("b"), "s1"), (test("b"), "s2")}

    assert main(["export", str(out / "s1"), "--format", "pytest-benchmark", "--out", str(tmp_path / "b.json")]) == 0
    names = [row["fullname"] for row in json.loads((tmp_path / "b.json").read_text())["benchmarks"]]
    assert len(set(names)) == len(names)
