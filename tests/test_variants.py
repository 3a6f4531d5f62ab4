"""Two variants in one measurement: pairs of runs, their order, their recordings, their verdicts, their mistakes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

import pytest_nriperf.session.handles  # noqa: F401 - before pytester takes stock: numpy loads once a process
from pytest_nriperf.cli import main
from pytest_nriperf.recording import open_recording

CONFTEST = """
import pytest_nriperf.session.handles  # noqa: F401 - before pytester takes stock: numpy loads once a process
from pytest_nriperf.testing import FakeClock, FakeGenerator, FakeProvisioner

NODE = FakeProvisioner("sim:2s4c2t-snc2")
CLOCK = FakeClock()
SEEDS = iter(range(1000))

class Watched(FakeGenerator):
    def start_loading(self, grant):
        NODE.log.append(f"{self.label} begins to load")

    def load(self, grant):
        NODE.log.append(f"{self.label} on {sorted(grant.placement.allocated)}")
        return super().load(grant)

def pytest_nriperf_provisioner(node, settings):
    return NODE

def pytest_nriperf_generator(choice, node, options):
    slower = float(options.environment.get("SLOWER", "1")) * (2 if choice.dtype == "float64" else 1)
    made = Watched(itl_s=0.005 * slower, ttft_s=0.02 * slower, seed=next(SEEDS), clock=CLOCK)
    made.label = f"{choice.text} {options.python or 'python'} {dict(options.environment)}"
    return made

def pytest_unconfigure(config):
    for line in NODE.log:
        print("LOG", line)
"""

TEST = """
import pytest

@pytest.mark.llm(model="org/name")
@pytest.mark.gate("itl")
@pytest.mark.balloon(cpus=4)
@pytest.mark.variants({variants})
def test_it(llm, baseline):
    m = llm.measure("Hello", max_new_tokens=16)
    assert m.itl.value == m.variants["{last}"].itl.value
    baseline.check(m)
"""


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A made-up node whose engines heed dtype, SLOWER and nothing else."""
    for name in ("CI", "GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "160")
    pytester.makeconftest(CONFTEST)
    return pytester


def run(suite: pytest.Pytester, variants: str, *arguments: str, last: str = "b") -> pytest.RunResult:
    suite.makepyfile(test_perf=TEST.format(variants=variants, last=last))
    return run_file(suite, *arguments)


def run_file(suite: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return suite.runpytest_inprocess("-p", "no:cacheprovider", "-p", "no:hypothesispytest", *arguments)


def documents(suite: pytest.Pytester) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Recordings of the session by the name of their variant."""
    files = suite.path.glob(".nriperf/*/*/recording.json")
    found = [(file.parent, json.loads(file.read_text())) for file in files]
    return {document["variant"]["name"]: (folder, document) for folder, document in found}


def log(result: pytest.RunResult) -> list[str]:
    return [line.removeprefix("LOG ") for line in result.outlines if line.startswith("LOG ")]


def test_runs_take_turns_so_that_a_steady_drift_falls_out(suite: pytest.Pytester) -> None:
    result = run(suite, 'a={"env": {"WHO": "A"}}, b={"env": {"WHO": "B"}}', "--nri-runs=4")
    result.assert_outcomes(passed=1)
    order = "".join(line.partition("'WHO': '")[2][:1] for line in log(result) if " on [" in line)
    assert order == "ABBABAAB"
    assert log(result).count("provisioned cpus=4") == 1


def test_a_slower_second_variant_fails_and_is_told_in_a_line_a_metric(suite: pytest.Pytester) -> None:
    result = run(suite, 'a={}, b={"env": {"SLOWER": "1.2"}}', "--nri-runs=6")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*itl worse (SIMULATED): a * ms, b * ms, change +*",
            "*b against a: worse by *6 pairs of runs*",
            "*test_perf.py::test_it*SIMULATED*",
            "*6 pairs*",
            "  itl * b * ms *a * ms *+*worse",
        ]
    )


def test_a_faster_second_variant_passes_as_better(suite: pytest.Pytester) -> None:
    result = run(suite, 'old={"dtype": "float64"}, new={"dtype": "float32"}', "--nri-runs=6", last="new")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["  itl * new * ms *old * ms *-5*better"])


def test_equal_variants_are_the_same_or_unknown_and_pass(suite: pytest.Pytester) -> None:
    result = run(suite, "a={}, b={}", "--nri-runs=6")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["  itl *same"])


def test_too_few_pairs_cannot_tell_and_say_how_many_would(suite: pytest.Pytester) -> None:
    result = run(suite, 'a={}, b={"env": {"SLOWER": "1.5"}}', "--nri-runs=3")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*3 pairs have 8 sign patterns*", "*measure 5 pairs*"])


def test_an_adaptive_number_of_pairs_stops_at_a_look(suite: pytest.Pytester) -> None:
    run(suite, 'a={}, b={"env": {"SLOWER": "1.5"}}', "--nri-runs=4..20").assert_outcomes(failed=1)
    counts = {len(document["runs"]) for _, document in documents(suite).values()}
    assert len(counts) == 1
    assert 4 < counts.pop() < 20


def test_each_variant_has_a_recording_that_names_the_other(suite: pytest.Pytester) -> None:
    run(suite, 'a={"python": "/opt/old/bin/python"}, b={"env": {"X": "1"}}', "--nri-runs=2").assert_outcomes(passed=1)
    found = documents(suite)
    assert found["a"][0] != found["b"][0]
    for name, (folder, document) in found.items():
        assert document["variant"]["of"] == ["a", "b"]
        assert document["variant"]["mode"] == "turns"
        assert document["test"] == "test_perf.py::test_it"
        assert document["function"] == f"test_it[variant={name}]"
        assert (folder / "tokens-002.parquet").exists()
    assert found["a"][1]["engine"] == {"python": "/opt/old/bin/python", "environment": {}}
    assert found["b"][1]["engine"] == {"python": "", "environment": {"X": "1"}}


def test_variants_enter_no_baseline(suite: pytest.Pytester) -> None:
    run(suite, "a={}, b={}", "--nri-accept=all", "--nri-runs=2").assert_outcomes(passed=1)
    assert not list(suite.path.glob("baselines/**/*.json"))


def test_recorded_variants_are_judged_again_and_not_accepted(
    suite: pytest.Pytester, capsys: pytest.CaptureFixture[str]
) -> None:
    run(suite, 'a={}, b={"env": {"SLOWER": "1.2"}}', "--nri-runs=6").assert_outcomes(failed=1)
    (session,) = suite.path.glob(".nriperf/*/session.json")
    capsys.readouterr()
    assert main(["judge", str(session.parent), "--json"]) == 1
    (verdict,) = json.loads(capsys.readouterr().out)["verdicts"]
    assert verdict["outcome"] == "worse"
    assert verdict["reason"].startswith("b against a")
    assert verdict["runs"] == verdict["baseline_runs"] == 6
    assert main(["accept", str(session.parent)]) == 1
    assert "variants left aside" in capsys.readouterr().out
    assert main(["show", str(session.parent)]) == 0
    assert capsys.readouterr().out.count("variant_") >= 2
    assert main(["report", str(session.parent), "--output", "page.html"]) == 1


def test_balloons_that_differ_are_made_for_each_run_and_never_held_together(suite: pytest.Pytester) -> None:
    result = run(suite, 'a={"hyperthreads": "spread"}, b={"hyperthreads": "hidden"}', "--nri-runs=2")
    result.assert_outcomes(passed=1)
    held = [line.partition(" ")[0] for line in log(result) if line.startswith(("provisioned", "removed"))]
    assert held == ["provisioned", "removed"] * 4
    found = documents(suite)
    assert found["a"][1]["balloon"]["canonical"] == "cpus=4,hyperthreads=spread"
    assert found["b"][1]["balloon"]["sizes"] == "4 allocated / 2 visible"


def test_a_duet_runs_in_two_equal_disjoint_halves_that_are_swapped(suite: pytest.Pytester) -> None:
    result = run(suite, 'a={"env": {"WHO": "A"}}, b={"env": {"WHO": "B"}}, mode="duet"', "--nri-runs=2")
    result.assert_outcomes(passed=1)
    lines = [line for line in log(result) if " on [" in line]
    halves = [(line.partition("'WHO': '")[2][0], json.loads(line.partition(" on ")[2])) for line in lines]
    (_, first), (_, second) = halves[:2]
    assert len(first) == len(second) == 4
    assert not set(first) & set(second)
    assert halves == [("A", first), ("B", second), ("A", second), ("B", first)]
    assert log(result).count("provisioned cpus=4,replicas=2") == 1
    found = documents(suite)
    assert found["a"][1]["variant"]["mode"] == "duet"
    assert found["a"][1]["balloon"]["canonical"] == "cpus=4"
    assert found["a"][1]["balloon"]["granted"]["replicas"] != found["b"][1]["balloon"]["granted"]["replicas"]


def test_engines_of_a_duet_load_at_the_same_time(suite: pytest.Pytester) -> None:
    result = run(suite, 'a={"env": {"WHO": "A"}}, b={"env": {"WHO": "B"}}, mode="duet"', "--nri-runs=4")
    seen = [(line.partition("'WHO': '")[2][0], "begins" in line) for line in log(result) if "WHO" in line]
    # Of each pair both have begun before either is waited for; who is the first changes.
    assert seen == [(who, begins) for pair in ("AB", "AB", "BA", "BA") for begins in (True, False) for who in pair]


def test_a_duet_without_a_size_gets_half_of_the_node_each(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        "import pytest\n@pytest.mark.llm(model='org/name')\n@pytest.mark.variants(a={}, b={}, mode='duet')\n"
        "def test_it(llm): llm.measure('a', max_new_tokens=2)"
    )
    result = run_file(suite, "--nri-runs=1")
    result.assert_outcomes(passed=1)
    assert sorted(len(json.loads(line.partition(" on ")[2])) for line in log(result) if " on [" in line) == [8, 8]


def test_a_session_that_broke_off_is_resumed_with_whole_pairs(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_perf=TEST.format(variants="a={}, b={}", last="b") + "    raise KeyboardInterrupt\n")
    suite.runpytest_inprocess("-p", "no:cacheprovider", "--nri-runs=2", no_reraise_ctrlc=True)
    before = {name: set(document["runs"]) for name, (_, document) in documents(suite).items()}
    run(suite, "a={}, b={}", "--nri-runs=3", "--nri-resume").assert_outcomes(passed=1)
    after = {name: set(document["runs"]) for name, (_, document) in documents(suite).items()}
    assert before == {"a": {"1", "2"}, "b": {"1", "2"}}
    assert after == {"a": {"1", "2", "3"}, "b": {"1", "2", "3"}}


def test_the_model_of_a_variant_is_its_own_and_the_option_replaces_the_others(suite: pytest.Pytester) -> None:
    run(suite, 'a={}, b={"model": "org/other"}', "--nri-model=org/third", "--nri-runs=1").assert_outcomes(passed=1)
    assert {name: document["model"]["choice"] for name, (_, document) in documents(suite).items()} == {
        "a": "org/third",
        "b": "org/other",
    }


MISTAKES = {
    "a={}": "*variants: 1 variants, it takes two with a name each*",
    "a={}, b={}, c={}": "*variants: 3 variants*",
    "{}, b={}": "*variants: 2 variants*with a name each*",
    "a={}, b={}, mode='trio'": "*variants: mode = 'trio' is unknown*'duet'*",
    "a={}, b={'cpuss': 2}": "*variants: b: unknown argument 'cpuss'; did you mean 'cpus'?*",
    "a={}, b={'cpus': 3, 'hyperthreads': 'hidden'}": "*variants: b: balloon: cpus=3 *the nearest sizes*",
    "a={}, b={'model': 3}": "*variants: b: llm: model = 3 is no text*",
    "a={}, b={'env': {'X': 1}}": "*variants: b: env = *no text*",
    "a={}, b={'python': 3}": "*variants: b: python = 3 is no path*",
    "a='x', b={}": "*variants: a = 'x' is no dictionary*",
    "a={}, b={'cpus': 2}, mode='duet'": "*two equal balloons*",
    "a={'replicas': 'numa'}, b={'replicas': 'numa'}, mode='duet'": "*duet*replicas='numa'*",
}


@pytest.mark.parametrize("variants", MISTAKES)
def test_a_mistake_in_the_mark_is_a_usage_error_that_names_it(suite: pytest.Pytester, variants: str) -> None:
    result = run(suite, variants)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([MISTAKES[variants]])
    assert "Traceback" not in result.stderr.str() + result.stdout.str()


def test_generate_cannot_say_of_which_variant(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        "import pytest\n@pytest.mark.variants(a={}, b={})\ndef test_it(llm): llm.generate('a', max_new_tokens=2)"
    )
    result = run_file(suite)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*generate: a test with variants cannot say which*use measure*"])


def test_a_duet_of_real_processes_runs_on_disjoint_cpus(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("NRIPERF_LOCK_DIR", str(pytester.path))
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two CPUs")
    pytester.makepyfile(
        "import pytest, sys\n"
        "@pytest.mark.llm(model='sim:itl=5ms,ttft=5ms')\n"
        "@pytest.mark.balloon(cpus=1, hyperthreads='spread')\n"
        "@pytest.mark.variants(a={'env': {'WHO': 'A'}}, b={'python': sys.executable}, mode='duet')\n"
        "def test_it(llm): llm.measure('Hello', max_new_tokens=8)\n"
    )
    result = run_file(pytester, "--nri-runs=1", "--nri-repeats=0", "--nri-reference=on")
    result.assert_outcomes(passed=1)
    found = {name: document for name, (_, document) in documents(pytester).items()}
    (a,), (b,) = (found[name]["balloon"]["granted"]["replicas"] for name in "ab")
    assert a["visible"] != b["visible"]
    for name in "ab":
        assert found[name]["runs"]["1"]["verified"]
        folder = documents(pytester)[name][0]
        counters = open_recording(folder).counters().to_pylist()
        assert {row["replica"] for row in counters if row["source"] == "reference"} == {0}
