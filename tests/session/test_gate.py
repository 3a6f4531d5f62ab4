"""Whole pytest runs: what is judged, accepted and told, and what nothing was said of."""

from __future__ import annotations

import json
import shlex

import pytest

from pytest_nriperf.cli import main
from tests.made_up_suite import CONFTEST, SUITE, configure, made_up_suite, recordings, run


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    return made_up_suite(pytester, monkeypatch)


def test_a_gated_test_that_judged_nothing_is_reported(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_perf=SUITE.replace("baseline.check(m)", "pass"))
    run(suite).stdout.fnmatch_lines(["warning: test_perf.py::test_chat passed without a verdict;*"])


def test_a_skipped_test_whose_baseline_waits_is_reported(suite: pytest.Pytester) -> None:
    run(suite, "--nri-accept=missing").assert_outcomes(passed=1)
    suite.makepyfile(test_perf=SUITE.replace("    m = llm", "    pytest.skip('not today')\n    m = llm"))
    result = run(suite)
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(
        [
            "0 of 1 gated tests judged; 1 skipped",
            "warning: test_perf.py::test_chat was skipped (not today): its baseline (1 session) was compared with *",
        ]
    )


def test_a_baseline_whose_test_is_not_there_any_more_is_reported(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_old=SUITE)
    run(suite, "--nri-accept=missing").assert_outcomes(passed=2)
    assert "not there" not in run(suite, "-k", "nothing").stdout.str()
    (suite.path / "test_old.py").unlink()
    suite.makepyfile(test_perf=SUITE.replace("test_chat", "test_talk"))
    result = run(suite)
    result.stdout.fnmatch_lines(
        [
            "warning: test_perf.py::test_chat has a baseline but is no test any more *delete its entry from *",
            "warning: */test_old.json has baselines of test_old.py, which is not there: delete it",
        ]
    )
    # Of a file that was named in part the rest is not known.
    assert "any more" not in run(suite, "test_perf.py::test_talk").stdout.str()
    assert "any more" not in run(suite, "--lf").stdout.str()


def test_a_test_that_is_expected_to_fail_was_not_skipped(suite: pytest.Pytester) -> None:
    run(suite, "--nri-accept=missing").assert_outcomes(passed=1)
    suite.makepyfile(
        test_perf=SUITE.replace("def test_chat", "@pytest.mark.xfail\ndef test_chat") + "    assert False\n"
    )
    result = run(suite)
    result.assert_outcomes(xfailed=1)
    assert "was skipped" not in result.stdout.str()


UNLISTED = """
import pytest

import pytest_nriperf.session.handles  # noqa: F401 - before pytester takes stock: numpy loads once a process

{mark}
def test_chat(llm, baseline):
    {checks}
"""


def alphas(suite: pytest.Pytester) -> dict[str, tuple[str, float]]:
    verdicts = json.loads((suite.path / "verdicts.json").read_text())["verdicts"]
    return {each["metric"]: (each["outcome"], each["alpha"]) for each in verdicts}


def test_a_test_that_judges_without_a_gate_counts_as_three_verdicts(suite: pytest.Pytester) -> None:
    checks = "baseline.check(llm.measure('a', max_new_tokens=8), 'ttft', 'itl', 'tpot', 'e2e')"
    suite.makepyfile(test_perf=UNLISTED.format(mark="", checks=checks))
    run(suite, "--nri-accept=missing", "--nri-runs=6").assert_outcomes(passed=1)
    configure(suite, speed=1.5)
    run(suite, "--nri-runs=6", "--nri-json=verdicts.json").assert_outcomes(failed=1)
    assert alphas(suite) == {
        "ttft": ("worse", 0.05 / 3),
        "itl": ("worse", 0.05 / 3),
        "tpot": ("worse", 0.05 / 3),
        "e2e": ("unknown", 0.05 / 3),
    }


def test_a_metric_that_the_gate_does_not_name_raises_no_alarm(suite: pytest.Pytester) -> None:
    checks = "baseline.check(llm.measure('a', max_new_tokens=8), 'itl', 'e2e')"
    suite.makepyfile(test_perf=UNLISTED.format(mark="@pytest.mark.gate('itl')", checks=checks))
    run(suite, "--nri-accept=missing", "--nri-runs=6").assert_outcomes(passed=1)
    configure(suite, speed=1.5)
    result = run(suite, "--nri-runs=6", "--nri-json=verdicts.json")
    result.assert_outcomes(failed=1)
    assert alphas(suite) == {"itl": ("worse", 0.05), "e2e": ("unknown", 0.05)}
    result.stdout.fnmatch_lines(["*no share of alpha was set aside*"])


TWICE = """
import pytest

import pytest_nriperf.session.handles  # noqa: F401 - before pytester takes stock: numpy loads once a process

@pytest.mark.gate("ttft", "itl")
def test_chat(llm, baseline):
    m = llm.measure("Hello", max_new_tokens=16, requests=2)
    baseline.check(m, "ttft")
    baseline.check(m, "itl")
    {end}
"""


def slower_tokens(suite: pytest.Pytester) -> None:
    """The first token comes as ever, the others later."""
    suite.makeconftest(CONFTEST.format(speed=1.5, shape="sim:2s4c2t-snc2").replace("0.02 * SPEED", "0.02"))


def stored_sessions(suite: pytest.Pytester) -> int:
    return sum(file.read_text().count('"session"') for file in suite.path.glob("baselines/*/*.json"))


def test_a_measurement_checked_metric_by_metric_has_all_its_verdicts(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", "true")
    suite.makepyfile(test_perf=TWICE.format(end="pass"))
    result = run(suite, "--nri-accept=missing", "--nri-runs=6", "--nri-json=verdicts.json")
    result.assert_outcomes(passed=1)
    assert alphas(suite) == {"ttft": ("missing", 0.025), "itl": ("missing", 0.025)}
    assert stored_sessions(suite) == 1
    (document,) = recordings(suite)
    assert json.loads(document.read_text())["gate"]["metrics"] == ["ttft", "itl"]


def test_a_metric_that_is_checked_twice_is_one_verdict(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_perf=TWICE.format(end="baseline.check(m, 'itl', tolerance=0.3)"))
    run(suite, "--nri-accept=missing", "--nri-runs=6").assert_outcomes(passed=1)
    slower_tokens(suite)
    run(suite, "--nri-runs=6", "--nri-fail-on=nothing", "--nri-json=verdicts.json", "--junitxml=out.xml")
    verdicts = json.loads((suite.path / "verdicts.json").read_text())["verdicts"]
    assert [(each["metric"], each["outcome"]) for each in verdicts] == [("ttft", "same"), ("itl", "worse")]
    assert (suite.path / "out.xml").read_text().count('name="nriperf.itl.verdict"') == 1


def test_a_session_whose_later_check_is_worse_is_not_accepted_by_an_earlier_one(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_perf=TWICE.format(end="pass"))
    run(suite, "--nri-accept=missing", "--nri-runs=6").assert_outcomes(passed=1)
    slower_tokens(suite)
    result = run(suite, "--nri-runs=6", "--nri-accept=all", "--nri-fail-on=nothing")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*is worse than the baseline (itl)*accept --restart*"])
    assert stored_sessions(suite) == 1
    run(suite, "--nri-runs=6", "--nri-accept=all").assert_outcomes(failed=1)
    assert stored_sessions(suite) == 1


def test_a_test_that_fails_for_another_reason_accepts_nothing(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_perf=TWICE.format(end="assert m.failures"))
    result = run(suite, "--nri-accept=all")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*not accepted: the test failed for another reason*"])
    assert stored_sessions(suite) == 0


def test_a_metric_that_is_gated_later_begins_with_accept_missing(suite: pytest.Pytester) -> None:
    run(suite, "--nri-accept=missing").assert_outcomes(passed=1)
    (stored,) = suite.path.glob("baselines/*/*.json")
    document = json.loads(stored.read_text())
    for sessions in document["tests"].values():
        del sessions[0]["metrics"]["itl"]
    stored.write_text(json.dumps(document))
    run(suite, "--nri-accept=missing", "--nri-fail-on=missing").assert_outcomes(passed=1)
    run(suite, "--nri-fail-on=missing").assert_outcomes(passed=1)
    assert stored_sessions(suite) == 2


def test_baselines_that_cannot_be_written_fail_the_test_with_a_sentence(suite: pytest.Pytester) -> None:
    result = run(suite, "--nri-accept=all", "--nri-baselines=test_perf.py")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*baselines: *test_perf.py cannot be written (*); name another folder of baselines*"])
    assert "Traceback" not in result.stdout.str()


OUTCOMES = """
import pytest

import pytest_nriperf.session.handles  # noqa: F401 - before pytester takes stock: numpy loads once a process

pytestmark = pytest.mark.gate("itl")

def test_judged(llm, baseline): baseline.check(llm.measure("a", max_new_tokens=8))
@pytest.mark.skip(reason="not today")
def test_skipped(llm, baseline): pass
def test_broken(llm, baseline): raise ValueError("no such thing")
@pytest.mark.xfail
def test_hopeless(llm, baseline): assert False
def test_silent(llm): llm.measure("a", max_new_tokens=8)
def test_without_our_fixtures(): pass
def test_left_out(llm, baseline): pass
"""


def test_every_gated_test_without_a_verdict_is_accounted_for(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(suite.path / "page.md"))
    suite.makepyfile(test_perf=OUTCOMES)
    result = run(suite, "--nri-runs=1", "--nri-json=verdicts.json", "-k", "not left_out")
    document = json.loads((suite.path / "verdicts.json").read_text())
    assert {one["test"].rpartition("::")[2]: (one["why"], one["reason"]) for one in document["not_judged"]} == {
        "test_skipped": ("skipped", "not today"),
        "test_broken": ("failed", "ValueError: no such thing"),
        "test_hopeless": ("xfailed", ""),
        "test_silent": ("passed", ""),
        "test_without_our_fixtures": ("passed", ""),
        "test_left_out": ("not selected", ""),
    }
    result.stdout.fnmatch_lines(["1 of 7 gated tests judged; 1 skipped, 1 failed, 1 xfailed, 2 passed without*"])
    assert "1 of 7 gated tests judged" in (suite.path / "page.md").read_text()


def test_a_gate_of_which_every_test_is_skipped_says_so(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_perf=SUITE.replace("@pytest.mark.llm", "@pytest.mark.skip(reason='x')\n@pytest.mark.llm"))
    result = run(suite, "--nri-json=verdicts.json")
    result.stdout.fnmatch_lines(["0 of 1 gated tests judged; 1 skipped"])
    assert json.loads((suite.path / "verdicts.json").read_text())["not_judged"][0]["why"] == "skipped"
    assert "NODE LOG []" in result.outlines


def test_what_a_stopped_session_did_not_come_to_is_not_run(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_perf=OUTCOMES)
    run(suite, "-x", "--nri-runs=1", "--nri-json=verdicts.json")
    whys = [one["why"] for one in json.loads((suite.path / "verdicts.json").read_text())["not_judged"]]
    assert whys == ["skipped", "failed", *["not run"] * 4]


def pasted(result: pytest.RunResult) -> list[str]:
    """The words of the command of ours that the output ends a line with."""
    (line,) = dict.fromkeys(
        line.partition("nriperf accept ")[2] for line in result.outlines if "nriperf accept " in line
    )
    return ["accept", *shlex.split(line)]


@pytest.mark.parametrize("options", [(), ("--nri-baselines=kept by us",), ("--nri-out=some where",)])
def test_the_command_that_makes_a_missing_baseline_can_be_pasted(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    odd = "@pytest.mark.parametrize('x', ['a b; $'])\ndef test_chat(x, "
    suite.makepyfile(test_perf=SUITE.replace("def test_chat(", odd))
    suite.makepyprojecttoml("")
    below = suite.mkdir("below")
    monkeypatch.chdir(below)
    assert main(pasted(run(suite, "--rootdir=..", "..", *options))) == 0
    monkeypatch.chdir(suite.path)
    run(suite, "--nri-fail-on=missing", *options).assert_outcomes(passed=1)


def test_the_command_that_accepts_what_is_meant_to_be_worse_can_be_pasted(suite: pytest.Pytester) -> None:
    run(suite, "--nri-accept=missing", "--nri-runs=6")
    configure(suite, speed=1.3)
    assert main(pasted(run(suite, "--nri-runs=6"))) == 0
    run(suite, "--nri-runs=6").assert_outcomes(passed=1)


def test_a_file_that_cannot_be_written_loses_nothing_else_and_fails_the_session(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(suite.path / "no/page.md"))
    result = run(
        suite, "--nri-runs=1", "--nri-json=test_perf.py/x", "--nri-report=test_perf.py/y", "--nri-summary=s.md"
    )
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [
            "error: verdicts: test_perf.py/x cannot be written (*); name another file",
            "error: report: test_perf.py/y cannot be written (*); name another file",
            "summary written to s.md",
            "error: summary: no/page.md cannot be written (No such file or directory); name another file",
        ]
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "Traceback" not in result.stdout.str() + result.stderr.str()
