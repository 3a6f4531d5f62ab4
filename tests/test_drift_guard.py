"""The machine or the code, in whole pytest runs: reference loads around runs, disturbed runs made again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

# An engine whose runs come with counters: the reference load of a machine of that bandwidth, and stolen time.
CONFTEST = """
from pytest_nriperf.seams import CounterRow
from pytest_nriperf.testing import FakeClock, FakeGenerator, FakeProvisioner

NODE = FakeProvisioner("sim:1s4c1t")
CLOCK = FakeClock()
RUNS = iter(range(1, 1000))

class Counted(FakeGenerator):
    def __init__(self, number, options):
        super().__init__(itl_s=0.005 * {speed}, seed=number, clock=CLOCK)
        self.number, self.options = number, options

    def measure(self, work, progress):
        begin = CLOCK()
        data = super().measure(work, progress)
        if self.options.reference:
            for name, value in (("memory_bandwidth", 1e10 * {bandwidth}), ("matrix_product", 1e11)):
                value *= 1 + 0.002 * (self.number % 3)
                data.counters.append(CounterRow(begin, begin, "reference", name, "gauge", value, "", replica=0))
        stolen = (CLOCK() - begin) // 10 if self.number in {stolen} else 0
        for stamp, value in ((begin, 0), (CLOCK(), stolen)):
            data.counters.append(CounterRow(stamp, stamp, "proc", "cpu_steal_time", "cumulative", value, "ns", cpu=0))
        return data

def pytest_nriperf_provisioner(node, settings):
    return NODE

def pytest_nriperf_generator(choice, node, options):
    print("REFERENCE", options.reference)
    return Counted(next(RUNS), options)
"""

SUITE = """
import pytest

@pytest.mark.llm(model="org/name")
@pytest.mark.gate("itl")
@pytest.mark.balloon(cpus=1)
def test_it(llm, baseline):
    m = llm.measure("Hello", max_new_tokens=16)
    baseline.check(m)
    print("RUNS", m.runs)
"""


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    for name in ("CI", "GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "160")
    pytester.makepyfile(test_perf=SUITE)
    configure(pytester)
    return pytester


def configure(
    suite: pytest.Pytester, *, speed: float = 1.0, bandwidth: float = 1.0, stolen: tuple[int, ...] = ()
) -> None:
    text = CONFTEST.replace("{speed}", str(speed)).replace("{bandwidth}", str(bandwidth))
    suite.makeconftest(text.replace("{stolen}", str(stolen)))


def run(suite: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return suite.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-rfEP", *arguments)


def newest(suite: pytest.Pytester) -> tuple[Path, dict[str, Any]]:
    files = suite.path.glob(".nriperf/*/*/recording.json")
    file = max(files, key=lambda each: each.stat().st_mtime_ns)
    return file.parent, json.loads(file.read_text())


def test_a_machine_that_became_slower_is_told_from_code_that_did(suite: pytest.Pytester) -> None:
    for _ in range(4):
        run(suite, "--nri-reference=on", "--nri-accept=all").assert_outcomes(passed=1)
    configure(suite, speed=1.25, bandwidth=0.8)
    result = run(suite, "--nri-reference=on")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*itl*unknown*", "*the machine changed (memory bandwidth -20 %)*"])
    configure(suite, speed=1.25)
    run(suite, "--nri-reference=on").assert_outcomes(failed=1)


@pytest.mark.parametrize(("option", "wanted"), [("on", True), ("off", False), ("auto", False)])
def test_a_made_up_engine_has_no_reference_load_unless_asked_for(
    suite: pytest.Pytester, option: str, wanted: bool
) -> None:
    result = run(suite, f"--nri-reference={option}", "--nri-runs=1")
    result.stdout.fnmatch_lines([f"REFERENCE {wanted}"])


def test_a_disturbed_run_is_made_again_and_stays_on_disk(suite: pytest.Pytester) -> None:
    configure(suite, stolen=(2,))
    result = run(suite, "--nri-runs=3")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["RUNS (1, 3, 4)", "*warning: disturbed, left out and made again: run 2 (steal 10.0 % of CPU time)"]
    )
    folder, document = newest(suite)
    assert document["runs"]["2"]["disturbances"] == ["steal 10.0 % of CPU time"]
    assert document["runs"]["2"]["repeated"] == 3
    assert document["runs"]["1"]["disturbances"] == []
    assert (folder / "tokens-002.parquet").exists()


def test_runs_are_made_again_up_to_the_limit_and_then_count_with_a_warning(suite: pytest.Pytester) -> None:
    configure(suite, stolen=(1, 2, 3, 4))
    result = run(suite, "--nri-runs=2", "--nri-repeats=1")
    result.stdout.fnmatch_lines(
        [
            "RUNS (2, 3)",
            "*warning: disturbed, left out and made again: run 1 (steal 10.0 % of CPU time)",
            "*warning: disturbed, kept: run 2 (steal 10.0 % of CPU time), run 3 (steal 10.0 % of CPU time)",
        ]
    )
    configure(suite, stolen=(1,))
    run(suite, "--nri-runs=2", "--nri-repeats=0").stdout.fnmatch_lines(["RUNS (1, 2)"])


def test_a_disturbed_run_is_named_by_the_verdict_also_when_it_was_left_out(suite: pytest.Pytester) -> None:
    run(suite, "--nri-accept=missing", "--nri-runs=6")
    configure(suite, speed=1.5, stolen=(2,))
    result = run(suite, "--nri-runs=6")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*warning: disturbed runs of *: 2 (steal 10.0 % of CPU time; repeated)*"])


def test_limits_can_be_moved_for_a_machine_that_always_steals(suite: pytest.Pytester) -> None:
    configure(suite, stolen=(1, 2))
    (suite.path / "nriperf.toml").write_text("runs = 2\n[disturbances]\nsteal_share = 0.2\n")
    run(suite).stdout.fnmatch_lines(["RUNS (1, 2)"])
    (suite.path / "nriperf.toml").write_text("runs = 2\n[disturbances]\nsteel = 0.2\n")
    result = run(suite)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*disturbances*no fact 'steel'*steal_share*"])


def test_both_runs_of_a_pair_are_made_again(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        test_perf=SUITE.replace("@pytest.mark.gate", "@pytest.mark.variants(a={}, b={})\n@pytest.mark.gate")
    )
    configure(suite, stolen=(3,))
    run(suite, "--nri-runs=3").stdout.fnmatch_lines(["RUNS (1, 3, 4)"])
    for file in suite.path.glob(".nriperf/*/*/recording.json"):
        assert json.loads(file.read_text())["runs"]["2"]["repeated"] == 3
