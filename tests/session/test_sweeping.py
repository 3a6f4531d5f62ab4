"""A sweep is pytest items: selected, ordered, cut short, chosen and told as pytest does."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import pytest_nriperf.session.handles  # noqa: F401 - before pytester takes stock: numpy loads once a process

NODE = ("--nri-node", "sim:2s8c2t-snc2", "-p", "no:cacheprovider")
TEST = """
import pytest
import pytest_nriperf.session.handles

@pytest.mark.llm(model="sim:parameters=8G")
@pytest.mark.sweep({arguments})
def test_chat({names}):
    llm.measure("Hello", max_new_tokens=8, requests=2)
"""


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("COLUMNS", "160")


def write(pytester: pytest.Pytester, arguments: str, names: str = "llm") -> None:
    pytester.makepyfile(test_perf=TEST.format(arguments=arguments, names=names))


def recorded(pytester: pytest.Pytester) -> list[dict[str, object]]:
    """Documents of all recordings in the order in which they were made."""
    files = pytester.path.glob(".nriperf/*/*/recording.json")
    return [json.loads(file.read_text()) for file in sorted(files, key=lambda file: file.stat().st_mtime_ns)]


def test_every_cell_is_an_item_with_the_cell_in_its_id(pytester: pytest.Pytester) -> None:
    write(pytester, "replicas=[1, 2], cpus=[4, 8], hyperthreads=['hidden']")
    result = pytester.runpytest(*NODE, "--collect-only", "-q")
    result.stdout.fnmatch_lines_random(
        [f"test_perf.py::test_chat[[]replicas={r}-cpus={c}-hyperthreads=hidden]" for r in (1, 2) for c in (4, 8)]
    )


def test_cells_are_measured_once_in_an_order_by_seed_and_recorded_with_their_axes(pytester: pytest.Pytester) -> None:
    write(pytester, "replicas=[1, 2, 4], cpus=[2, 4], seed=7")
    pytester.runpytest(*NODE).assert_outcomes(passed=6)
    documents = recorded(pytester)
    cells = [document["cell"] for document in documents]
    assert sorted(map(str, cells)) == sorted(
        str({"replicas": str(r), "cpus": str(c)}) for r in (1, 2, 4) for c in (2, 4)
    )
    assert cells != sorted(cells, key=str)
    assert {len(document["runs"]) for document in documents} == {1}  # type: ignore[arg-type]
    assert documents[0]["simulated"] is True


def test_the_summary_has_the_table_of_wisdom_and_says_simulated(pytester: pytest.Pytester) -> None:
    write(pytester, "replicas=[1, 2, 4], cpus=[2, 4, 8]")
    result = pytester.runpytest(*NODE)
    result.stdout.fnmatch_lines(["*nriperf sweep*", "Node throughput by replicas and cpus SIMULATED", "  SIMULATED: *"])


def test_cells_that_cannot_exist_are_told_once_with_their_count(pytester: pytest.Pytester) -> None:
    write(pytester, "replicas=[1, 4], cpus=[2, 16, 64], snc=[1, 2]")
    result = pytester.runpytest(*NODE)
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(
        [
            "sweep test_perf.py::test_chat: 3 cells, random order in blocks, seed 0",
            "6 cells left out: needs a boot with SNC off (for example replicas=1-cpus=2-snc=1)",
            "3 cells left out: more CPUs than the node has (for example replicas=1-cpus=64-snc=2: 64 of 32)",
        ]
    )
    session = json.loads(next(pytester.path.glob(".nriperf/*/session.json")).read_text())
    assert session["left_out"][0].startswith("6 cells left out: needs a boot with SNC off")


def test_an_option_overrides_an_axis(pytester: pytest.Pytester) -> None:
    write(pytester, "replicas=[1, 2], cpus=[4, 8]")
    pytester.runpytest(*NODE, "--nri-set", "cpus=2..6:2", "--nri-set", "replicas=1").assert_outcomes(passed=3)


def test_selection_by_k_leaves_the_other_cells_alone(pytester: pytest.Pytester) -> None:
    write(pytester, "replicas=[1, 2], cpus=[4, 8], hyperthreads=['paired', 'hidden']")
    pytester.runpytest(*NODE, "-k", "hidden").assert_outcomes(passed=4, deselected=4)


def test_an_axis_of_the_users_own_reaches_the_test(pytester: pytest.Pytester) -> None:
    write(pytester, "cpus=[4], tokens=[3, 5]", "llm, tokens")
    path = pytester.path / "test_perf.py"
    path.write_text(path.read_text().replace("max_new_tokens=8", "max_new_tokens=tokens"))
    pytester.runpytest(*NODE).assert_outcomes(passed=2)
    assert {document["parameters"]["max_new_tokens"] for document in recorded(pytester)} == {3, 5}  # type: ignore[index]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("cpus=4", r"cpus = 4 is no list of values; write cpus=\[4\]"),
        ("cpuz=[4]", "'cpuz' is no argument of a balloon or a model, nor of the test; add cpuz to the arguments"),
        ("[4]", r"\[4\] has no name; write sweep"),
        ("cpus=[4], strategy='best'", "strategy = 'best' is unknown; write full or front"),
    ],
)
def test_a_mistake_in_the_mark_is_a_usage_error(pytester: pytest.Pytester, arguments: str, message: str) -> None:
    write(pytester, arguments)
    result = pytester.runpytest(*NODE)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    text = result.stdout.str() + result.stderr.str()
    assert re.search(message, text), text


def test_repeats_come_in_blocks_and_are_pooled(pytester: pytest.Pytester) -> None:
    write(pytester, "cpus=[2, 4, 8], repeats=2")
    result = pytester.runpytest(*NODE)
    result.assert_outcomes(passed=3)
    cells = [document["cell"]["cpus"] for document in recorded(pytester)]  # type: ignore[index]
    assert sorted(cells[:3]) == sorted(cells[3:]) == ["2", "4", "8"]
    result.stdout.fnmatch_lines(["Median of 2 runs a cell*"])


def test_the_search_measures_a_part_and_tells_what_it_left(pytester: pytest.Pytester) -> None:
    write(pytester, "replicas=[1, 2, 4], cpus=range(2, 33, 2), strategy='front', share=0.4")
    result = pytester.runpytest(*NODE)
    result.assert_outcomes(passed=9, deselected=19)
    result.stdout.fnmatch_lines(["*9 cells measured, 2 repeats*", "19 cells left out: by what was measured they *"])
    assert len(recorded(pytester)) == 11


def test_a_dry_run_tells_the_plan_and_measures_nothing(pytester: pytest.Pytester) -> None:
    write(pytester, "replicas=[1, 2], cpus=[4, 8]")
    result = pytester.runpytest(*NODE, "--nri-dry-run", "--nri-budget", "2h")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        ["dry run: nothing was measured; 4 measurements would be made, of unknown length*, at most 2h 00m"]
    )
    assert recorded(pytester) == []


def test_a_spent_budget_ends_the_sweep_with_what_it_left(pytester: pytest.Pytester) -> None:
    write(pytester, "replicas=[1, 2], cpus=[4, 8]")
    result = pytester.runpytest(*NODE, "--nri-budget", "1ms")
    result.assert_outcomes(passed=1, deselected=3)
    result.stdout.fnmatch_lines(["3 cells left out: the time budget was spent; --nri-resume goes on"])


def test_a_failing_cell_does_not_end_the_search(pytester: pytest.Pytester) -> None:
    write(pytester, "replicas=[1, 2], cpus=[2, 4, 8, 16], strategy='front', share=1.0")
    path = pytester.path / "test_perf.py"
    path.write_text(path.read_text() + "\n    assert len(llm.balloon.allocated[0]) != 4\n")
    result = pytester.runpytest(*NODE)
    outcomes = result.parseoutcomes()
    assert outcomes["failed"] >= 2
    assert outcomes["passed"] >= 6


def test_the_report_of_a_sweep_has_its_front(pytester: pytest.Pytester) -> None:
    write(pytester, "replicas=[1, 2], cpus=[2, 4, 8]")
    pytester.runpytest(*NODE, "--nri-report", "page.html").assert_outcomes(passed=6)
    page = Path(pytester.path / "page.html").read_text()
    assert 'id="pareto"' in page
    assert "SIMULATED" in page
