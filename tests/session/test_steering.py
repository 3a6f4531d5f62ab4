"""While a sweep runs: resumed, cut short, repeated near the front, engines kept, other tests left in peace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import pytest_nriperf.session.steering  # noqa: F401 - before pytester takes stock: numpy loads once a process

CONFTEST = """
import pytest
import pytest_nriperf.session.steering
from pytest_nriperf.testing import FakeClock, FakeGenerator, FakeProvisioner

class Distant(FakeProvisioner):
    def topology(self):
        self.log.append("topology read")
        return super().topology()

    def recall(self):
        return {recalled}

NODES = {{}}
CLOCK = FakeClock()
LOADED = []

class Engine(FakeGenerator):
    def load(self, grant):
        LOADED.append(len(grant.placement.replicas))
        return super().load(grant)

def pytest_nriperf_provisioner(node, settings):
    return NODES.setdefault(node, {kind}("sim:2s4c2t-snc2" if node == "local" else node))

def pytest_nriperf_generator(choice, node):
    return Engine(clock=CLOCK, seed=len(LOADED))

def pytest_unconfigure(config):
    for name, node in NODES.items():
        print("NODE LOG", name, node.log)
    print("LOADED", len(LOADED))
"""

SWEEP = """
import pytest
import pytest_nriperf.session.steering

@pytest.mark.sweep({arguments})
def test_chat({names}):
    llm.measure({prompt}, max_new_tokens=4)
"""


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch, pytester: pytest.Pytester) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("COLUMNS", "160")
    pytester.makeconftest(CONFTEST.format(kind="FakeProvisioner", recalled=None))


def write(pytester: pytest.Pytester, arguments: str, names: str = "llm", prompt: str = "'Hello'") -> None:
    pytester.makepyfile(test_perf=SWEEP.format(arguments=arguments, names=names, prompt=prompt))


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    quiet = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest", "--nri-model=sim:")
    return pytester.runpytest_inprocess(*quiet, *arguments, no_reraise_ctrlc=True)


def documents(pytester: pytest.Pytester) -> list[dict[str, Any]]:
    files = sorted(pytester.path.glob(".nriperf/*/*/recording.json"), key=lambda file: file.stat().st_mtime_ns)
    return [json.loads(file.read_text()) for file in files]


def sessions(pytester: pytest.Pytester) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in sorted(pytester.path.glob(".nriperf/*/session.json"))]


def log_of(result: pytest.RunResult, node: str = "local") -> str:
    (line,) = [line for line in result.outlines if line.startswith(f"NODE LOG {node}")]
    return line.partition("[")[2]


def test_cells_of_one_balloon_share_it_and_its_loaded_engines(pytester: pytest.Pytester) -> None:
    write(pytester, "cpus=[2, 4], prompt=['a', 'b', 'c']", "llm, prompt", "prompt")
    result = run(pytester)
    result.assert_outcomes(passed=6)
    result.stdout.fnmatch_lines(["LOADED 2"])
    log = log_of(result)
    assert log.count("provisioned") == log.count("removed") == 2
    assert log.endswith("'session closed']")


def test_every_run_of_a_given_number_has_fresh_engines(pytester: pytest.Pytester) -> None:
    write(pytester, "cpus=[2, 4]")
    result = run(pytester, "--nri-runs=3")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["LOADED 6"])
    assert [len(document["runs"]) for document in documents(pytester)] == [3, 3]


def test_a_failing_cell_gives_its_balloon_back(pytester: pytest.Pytester) -> None:
    write(pytester, "cpus=[2], prompt=['a', 'b']", "llm, prompt", "prompt")
    path = pytester.path / "test_perf.py"
    path.write_text(path.read_text() + "\n    assert prompt != 'a'\n")
    result = run(pytester)
    result.assert_outcomes(passed=1, failed=1)
    log = log_of(result)
    assert log.count("provisioned") == log.count("removed")


def test_cells_near_the_front_are_measured_again_and_stay_one_item(pytester: pytest.Pytester) -> None:
    write(pytester, "replicas=[1, 2], cpus=[2, 4, 6, 8], hyperthreads=['paired', 'hidden', 'spread'], numa=['any']")
    result = run(pytester)
    result.assert_outcomes(passed=24)
    result.stdout.fnmatch_lines(["test_perf.py::test_chat: 24 cells measured, 4 repeats; seed 0"])
    tests = [document["test"] for document in documents(pytester)]
    assert len(tests) == 28
    assert len(set(tests)) == 24


def test_an_interrupted_sweep_goes_on_with_the_cells_that_are_missing(pytester: pytest.Pytester) -> None:
    write(pytester, "cpus=[2, 4, 6, 8]")
    path = pytester.path / "test_perf.py"
    whole = path.read_text()
    path.write_text(whole + "\n    if len(llm.balloon.allocated[0]) == 6: raise KeyboardInterrupt\n")
    run(pytester)
    before = {document["test"] for document in documents(pytester)}
    assert not sessions(pytester)[0]["finished"]
    path.write_text(whole)
    result = run(pytester, "--nri-resume")
    left = 4 - (len(before) - 1)  # the interrupted cell was recorded, and its item did not pass
    result.assert_outcomes(passed=left, deselected=4 - left)
    result.stdout.fnmatch_lines([f"{len(before) - 1} cell* of test_perf.py::test_chat taken from *", "8 *"])
    assert len(documents(pytester)) == 4
    assert [session["finished"] for session in sessions(pytester)] == [True]


def test_a_spent_budget_leaves_a_session_that_goes_on(pytester: pytest.Pytester) -> None:
    write(pytester, "cpus=[2, 4, 6]")
    run(pytester, "--nri-budget=1ms").assert_outcomes(passed=1, deselected=2)
    assert not sessions(pytester)[0]["finished"]
    assert sessions(pytester)[0]["left_out"] == ["2 cells left out: the time budget was spent; --nri-resume goes on"]
    run(pytester, "--nri-resume").assert_outcomes(passed=2, deselected=1)
    assert len(documents(pytester)) == 3
    assert sessions(pytester)[0]["finished"]


def test_tests_behind_a_sweep_that_was_cut_short_find_their_fixtures(pytester: pytest.Pytester) -> None:
    write(pytester, "cpus=[2, 4, 6]")
    path = pytester.path / "test_perf.py"
    fixture = "\n@pytest.fixture(scope='module', autouse=True)\ndef around():\n    yield\n    print('module done')\n"
    path.write_text(path.read_text() + fixture)
    other = "import pytest_nriperf.session.steering\ndef test_other(llm): llm.measure('x', max_new_tokens=2)"
    pytester.makepyfile(test_then=other)
    result = run(pytester, "--nri-budget=1ms", "-s")
    result.assert_outcomes(passed=2, deselected=2)
    assert result.stdout.str().count("module done") == 1
    assert log_of(result).count("session opened") == 1


def test_an_error_while_a_module_ends_is_reported(pytester: pytest.Pytester) -> None:
    write(pytester, "cpus=[2, 4]")
    path = pytester.path / "test_perf.py"
    fixture = (
        "\n@pytest.fixture(scope='module', autouse=True)\ndef around():\n    yield\n    raise ValueError('late')\n"
    )
    path.write_text(path.read_text() + fixture)
    result = run(pytester)
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*ValueError: late"])


def test_x_stops_a_sweep(pytester: pytest.Pytester) -> None:
    write(pytester, "cpus=[2, 4, 6]")
    path = pytester.path / "test_perf.py"
    path.write_text(path.read_text() + "\n    assert False\n")
    run(pytester, "-x").assert_outcomes(failed=1)
    assert not sessions(pytester)[0]["finished"]


def test_marks_of_class_and_function_and_parametrize_combine(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_perf="""
import pytest
import pytest_nriperf.session.steering

@pytest.mark.balloon(cpus=2, hyperthreads="hidden")
@pytest.mark.sweep(replicas=[1, 2])
class TestIt:
    @pytest.mark.sweep(cpus=[4])
    @pytest.mark.parametrize("prompt", ["a", "b"])
    def test_chat(self, llm, prompt, cpus):
        assert len(llm.balloon.allocated[0]) == cpus == 4
        llm.measure(prompt, max_new_tokens=4)
"""
    )
    result = run(pytester, "-v")
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines_random(
        [f"*::TestIt::test_chat[[]replicas={r}-cpus=4-{p}]*" for r in (1, 2) for p in "ab"]
    )
    assert documents(pytester)[0]["balloon"]["asked"]["hyperthreads"] == "hidden"
    cells = [document["cell"] for document in documents(pytester)]
    assert {cell["prompt"] for cell in cells} == {"a", "b"}
    assert {document["function"] for document in documents(pytester)} == {
        "TestIt::test_chat[prompt=a]",
        "TestIt::test_chat[prompt=b]",
    }


def test_a_gate_judges_cells_only_where_the_sweep_says_so(pytester: pytest.Pytester) -> None:
    text = SWEEP.format(arguments="cpus=[2, 4]{gate}", names="llm, baseline", prompt="'Hello'")
    text = text.replace("    llm.measure", "    m = llm.measure").replace(
        "@pytest", "@pytest.mark.gate('itl')\n@pytest", 1
    )
    pytester.makepyfile(test_perf=text.replace("{gate}", "") + "    baseline.check(m)\n")
    result = run(pytester, "--nri-accept=missing")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*its gate judges no cell of the sweep*"])
    assert not (pytester.path / "baselines").exists()
    pytester.makepyfile(test_perf=text.replace("{gate}", ", gate=True") + "    baseline.check(m)\n")
    run(pytester, "--nri-accept=missing", "--nri-runs=2").assert_outcomes(passed=2)
    (stored,) = pytester.path.glob("baselines/*/test_perf.json")
    assert "test_chat[" not in stored.read_text()


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("cpu=4", "*--nri-set cpu: no sweep has an axis of that name; known are cpus, hyperthreads*"),
        ("cpus=some", "*cpus='some' is no size*"),
        ("hyperthreads=both", "*hyperthreads='both' is none of paired, spread, hidden*"),
        ("cpus=8..4", "*runs backwards*"),
        ("cpus", "*'cpus' is no axis with values*"),
    ],
)
def test_what_is_no_axis_or_no_value_of_it_is_a_usage_error(pytester: pytest.Pytester, option: str, said: str) -> None:
    write(pytester, "cpus=[2], hyperthreads=['paired']")
    result = run(pytester, f"--nri-set={option}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([said])


def test_selecting_and_collecting_start_nothing(pytester: pytest.Pytester) -> None:
    write(pytester, "cpus=[2, 4, 64]")
    result = run(pytester, "--collect-only", "-k", "test_chat")
    assert log_of(result) == "]"
    result.stdout.fnmatch_lines(["1 cell left out: more CPUs than the node has*"])
    assert not (pytester.path / ".nriperf").exists()


def test_a_node_that_cannot_be_read_without_starting_something_is_read_when_it_is_held(
    pytester: pytest.Pytester,
) -> None:
    pytester.makeconftest(CONFTEST.format(kind="Distant", recalled=None))
    write(pytester, "cpus=[2, 4, 64], replicas=[1, 20, 40, 60]")
    assert log_of(run(pytester, "--collect-only")) == "]"
    result = run(pytester, "--nri-seed=1")
    outcomes = result.parseoutcomes()
    assert outcomes["passed"] == 2
    assert outcomes["deselected"] >= 9
    result.stdout.fnmatch_lines(["10 cells left out: more CPUs than the node has*"])


def test_a_remembered_node_is_planned_on_without_reading_it(pytester: pytest.Pytester) -> None:
    recalled = "FakeProvisioner('sim:1s4c2t').topology(), FakeProvisioner('sim:1s4c2t').describe()"
    pytester.makeconftest(CONFTEST.format(kind="Distant", recalled=recalled))
    write(pytester, "cpus=[2, 4, 64]")
    result = run(pytester, "--collect-only", "-q")
    result.stdout.fnmatch_lines(["2 tests collected*"])
    assert "topology read" not in log_of(result)


def test_every_node_has_the_cells_that_exist_on_it(pytester: pytest.Pytester) -> None:
    write(pytester, "cpus=[2, 16, 32]")
    result = run(pytester, "--nri-node=sim:1s4c2t,sim:2s8c2t")
    result.assert_outcomes(passed=4, deselected=2)
    result.stdout.fnmatch_lines(["* on sim:2s8c2t: 3 cells measured*", "sim:1s4c2t: 2 cells left out: more CPUs*"])
    assert {document["node"] for document in documents(pytester)} == {"sim:1s4c2t", "sim:2s8c2t"}


def test_a_sweep_none_of_whose_cells_exists_is_skipped_with_the_reason(pytester: pytest.Pytester) -> None:
    write(pytester, "cpus=[64, 128]")
    result = run(pytester, "-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*2 cells left out: more CPUs than the node has*"])


def test_another_seed_is_another_order_and_is_told(pytester: pytest.Pytester) -> None:
    write(pytester, "cpus=[2, 4, 6, 8], hyperthreads=['paired', 'hidden', 'spread']")
    orders = []
    for seed in ("1", "1", "2"):
        result = run(pytester, f"--nri-seed={seed}", "--nri-dry-run", "-v")
        result.stdout.fnmatch_lines([f"*random order in blocks, seed {seed}"])
        orders.append([line for line in result.outlines if line.startswith("  test_perf.py::test_chat[")])
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2])


def test_a_dry_run_knows_from_earlier_sessions_how_long_it_takes(pytester: pytest.Pytester) -> None:
    write(pytester, "cpus=[2, 4]")
    run(pytester)
    count = len(documents(pytester))
    result = run(pytester, "--nri-dry-run")
    result.stdout.fnmatch_lines(
        ["dry run: nothing was measured; 2 measurements would be made, about *s, ends about *:*"]
    )
    assert len(documents(pytester)) == count


def test_the_search_goes_on_where_it_was_cut_short(pytester: pytest.Pytester) -> None:
    write(pytester, "replicas=[1, 2], cpus=range(2, 9), hyperthreads=['spread'], strategy='front', share=0.6")
    run(pytester, "--nri-budget=1ms")
    first = len(documents(pytester))
    run(pytester, "--nri-resume")
    tests = [document["test"] for document in documents(pytester)]
    assert first == 1
    assert len(tests) == 8
    assert sessions(pytester)[0]["finished"]


def test_recordings_of_a_sweep_can_be_found_by_their_cells(pytester: pytest.Pytester) -> None:
    write(pytester, "cpus=[2, 4]")
    run(pytester)
    folder = next(pytester.path.glob(".nriperf/*/"))
    cells = [json.loads(line) for line in Path(folder / "cells.jsonl").read_text().splitlines()]
    assert {cell["outcome"] for cell in cells} == {"passed"}
    assert all((folder / name / "recording.json").exists() for cell in cells for name in cell["recordings"])
