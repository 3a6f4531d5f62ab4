"""Whole pytest runs: what a user types and what he reads."""

from __future__ import annotations

import json

import pytest

from tests.made_up_suite import SUITE, configure, made_up_suite, recordings, run


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    return made_up_suite(pytester, monkeypatch)


def test_the_first_session_finds_no_baseline_and_says_how_to_store_one(suite: pytest.Pytester) -> None:
    result = run(suite)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [
            "*test_perf.py::test_chat*",
            "*4 allocated / 2 visible*",
            "*ttft*missing*",
            "*next: accept this session: nriperf accept .nriperf/*",
        ]
    )


def test_a_stored_baseline_is_compared_with(suite: pytest.Pytester) -> None:
    run(suite, "--nri-accept=missing").assert_outcomes(passed=1)
    result = run(suite)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*SIMULATED*", "*itl*baseline * ms*same*"])
    assert "missing" not in result.stdout.str()


def test_a_slower_engine_fails_the_test_that_measured_it(suite: pytest.Pytester) -> None:
    run(suite, "--nri-accept=missing", "--nri-runs=6")
    configure(suite, speed=1.3)
    result = run(suite, "--nri-runs=6", "--junitxml=out.xml")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*itl worse (SIMULATED): baseline * ms, now 6.* ms, change +*"])
    junit = (suite.path / "out.xml").read_text()
    assert 'failures="1"' in junit
    assert 'name="nriperf.itl.verdict" value="worse"' in junit


def test_a_faster_engine_passes_and_is_called_better(suite: pytest.Pytester) -> None:
    run(suite, "--nri-accept=missing", "--nri-runs=6")
    configure(suite, speed=0.7)
    result = run(suite, "--nri-runs=6")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*itl*better*"])


def test_one_run_cannot_tell(suite: pytest.Pytester) -> None:
    run(suite, "--nri-accept=missing", "--nri-runs=1")
    result = run(suite, "--nri-runs=1")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*itl*unknown*"])


@pytest.mark.parametrize(("fail_on", "outcome"), [("missing", "failed"), ("nothing", "passed"), ("worse", "passed")])
def test_fail_on_says_which_verdicts_fail(suite: pytest.Pytester, fail_on: str, outcome: str) -> None:
    run(suite, f"--nri-fail-on={fail_on}").assert_outcomes(**{outcome: 1})


def test_in_ci_a_missing_baseline_fails(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    result = run(suite)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "ttft missing*",
            "itl missing*",
            "all of these:",
            "  no baseline; 5 runs against 0 runs of 0 sessions",
            "next: *",
        ]
    )
    summary = result.outlines[result.outlines.index(next(line for line in result.outlines if "short test" in line)) :]
    assert [line.partition(":")[0] for line in summary[1:-2]] == ["FAILED test_perf.py"]


def test_everything_is_recorded_before_it_is_judged(suite: pytest.Pytester) -> None:
    run(suite, "--nri-fail-on=missing", "--nri-runs=2")
    (document,) = recordings(suite)
    content = json.loads(document.read_text())
    assert content["test"] == "test_perf.py::test_chat"
    assert content["balloon"]["canonical"].count("hidden") == 1
    assert set(content["runs"]) == {"1", "2"}
    assert content["fingerprint"]["identity"]["sockets"] == 2
    assert {file.name for file in document.parent.glob("*-001.parquet")} >= {
        "tokens-001.parquet",
        "requests-001.parquet",
    }


def test_the_node_is_as_it_was_after_success_failure_and_interrupt(suite: pytest.Pytester) -> None:
    for body in ("pass", "raise ValueError", "raise KeyboardInterrupt"):
        suite.makepyfile(test_perf=f"def test_it(llm):\n    llm.measure('Hello', max_new_tokens=2)\n    {body}")
        result = run(suite)
        (line,) = [line for line in result.outlines if line.startswith("NODE LOG")]
        log = line.partition("[")[2]
        assert log.count("provisioned") == log.count("removed") == 1
        assert log.rstrip("]'").endswith("session closed")


def test_selection_stop_and_last_failed_work_as_ever(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        test_perf="def test_a(llm): llm.measure('a', max_new_tokens=2)\n"
        "def test_b(llm): assert not llm.measure('b', max_new_tokens=2)\n"
        "def test_c(llm): llm.measure('c', max_new_tokens=2)"
    )
    suite.runpytest_inprocess("-k", "test_a").assert_outcomes(passed=1, deselected=2)
    suite.runpytest_inprocess("-x").assert_outcomes(passed=1, failed=1)
    suite.runpytest_inprocess("--lf").assert_outcomes(failed=1)


def test_parametrized_tests_have_baselines_of_their_own(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        test_perf="import pytest\n"
        "@pytest.mark.parametrize('prompt', ['a', 'b'])\n"
        "@pytest.mark.gate('itl')\n"
        "def test_it(llm, baseline, prompt): baseline.check(llm.measure(prompt, max_new_tokens=4))"
    )
    run(suite, "--nri-accept=missing").assert_outcomes(passed=2)
    (stored,) = suite.path.glob("baselines/*/test_perf.json")
    assert stored.read_text().count("test_it[prompt=") == 2


def test_a_loaded_model_of_a_class_counts_as_one_run(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        test_perf="""
import pytest

import pytest_nriperf.session.handles  # noqa: F401 - before pytester takes stock: numpy loads once a process

@pytest.fixture(scope="class")
def loaded(nri):
    with nri.balloon(cpus=2) as balloon, nri.llm(model="sim:", balloon=balloon, keep_loaded=True) as llm:
        yield llm

class TestIt:
    @pytest.mark.parametrize("prompt", ["a", "b"])
    def test_first_token(self, loaded, prompt):
        m = loaded.measure(prompt, max_new_tokens=4)
        assert m.runs == (1,)
"""
    )
    run(suite).assert_outcomes(passed=2)
    assert len(recordings(suite)) == 2


def test_a_scenario_drives_the_model_itself(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        test_perf="""
def two_turns(generate):
    first = generate("Hello", max_new_tokens=4)
    generate("Hello" + first.text, max_new_tokens=8)

def test_it(llm):
    m = llm.measure(two_turns, max_new_tokens=8, requests=3)
    assert m.measured == 3 * 2 * len(m.runs)
    assert m.warmup == 2 * len(m.runs)
"""
    )
    run(suite).assert_outcomes(passed=1)


MISTAKES = {
    "baloon(cpus=1)": "*unknown mark 'baloon'; did you mean 'balloon'?*",
    "balloon(cpus=3, hyperthreads='hidden')": "*balloon: cpus=3 *the nearest sizes are 2 and 4*",
    "balloon(cpu=4)": "*balloon*'cpu'*did you mean*cpus*",
    "balloon(4)": "*balloon: 4 has no name*",
    "balloon(hyperthreads='both')": "*balloon*hyperthreads*both*",
    "llm(modell='x')": "*llm: unknown argument 'modell'; did you mean 'model'?*",
    "llm(model=3)": "*llm: model = 3 is no text*",
    "gate('itll')": "*no metric 'itll'; near: *itl*all: ttft, itl,*",
    "gate('itl', tolerance=5)": "*gate: tolerance = 5 is no share*",
    "requires_node(min_cpu=1)": "*requires_node: unknown argument 'min_cpu'; did you mean 'min_cpus'?*",
    "requires_node(min_cpus='many')": "*requires_node: min_cpus = 'many' is no whole number*",
}


@pytest.mark.parametrize("mark", MISTAKES)
def test_a_mistake_in_a_mark_is_a_usage_error_that_names_it(suite: pytest.Pytester, mark: str) -> None:
    suite.makepyfile(test_perf=f"import pytest\n@pytest.mark.{mark}\ndef test_it(llm): pass")
    result = run(suite, "-Wignore::pytest.PytestUnknownMarkWarning")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([MISTAKES[mark]])
    assert "Traceback" not in result.stderr.str() + result.stdout.str()


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--nri-runs=0", "*no number of runs*"),
        ("--nri-alpha=7", "*alpha = 7.0 is not between 0 and 1*"),
        ("--nri-fail-on=slow", "*'slow' is no verdict*"),
        ("--nri-accept=yes", "*accept = 'yes' is unknown*"),
    ],
)
def test_an_impossible_option_is_a_usage_error(suite: pytest.Pytester, option: str, said: str) -> None:
    result = run(suite, option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([said])


def test_an_ini_twin_works_and_an_option_wins_over_it(suite: pytest.Pytester) -> None:
    suite.makeini("[pytest]\nnri_runs = 2\nnri_out = elsewhere")
    run(suite).assert_outcomes(passed=1)
    (document,) = suite.path.glob("elsewhere/*/*/recording.json")
    assert set(json.loads(document.read_text())["runs"]) == {"1", "2"}
    run(suite, "--nri-runs=1", "--nri-out=third").assert_outcomes(passed=1)
    (document,) = suite.path.glob("third/*/*/recording.json")
    assert set(json.loads(document.read_text())["runs"]) == {"1"}


def test_what_does_not_fit_is_refused_in_a_sentence(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_perf="import pytest\n@pytest.mark.balloon(cpus=64)\ndef test_it(llm): pass")
    result = run(suite)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*64*"])
    assert "Traceback" not in result.stdout.str()
    assert "pytest_nriperf/" not in result.stdout.str()


def test_a_run_that_fails_keeps_the_runs_before_it_and_says_where(suite: pytest.Pytester) -> None:
    conftest = suite.path / "conftest.py"
    text = conftest.read_text().replace("clock=CLOCK)", "clock=CLOCK, die='it broke' if next(RUNS) == 2 else '')")
    conftest.write_text(text + "\nRUNS = iter(range(9))\n")
    result = run(suite)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*it broke (run 3 of 5; the 2 finished runs are kept in *.nriperf*)*"])
    assert "Traceback" not in result.stdout.str()
    (document,) = recordings(suite)
    assert set(json.loads(document.read_text())["runs"]) == {"1", "2"}


def test_requests_that_fail_are_counted_and_not_in_the_figures(suite: pytest.Pytester) -> None:
    conftest = suite.path / "conftest.py"
    conftest.write_text(conftest.read_text().replace("clock=CLOCK)", "clock=CLOCK, fail_requests=[0])"))
    result = run(suite, "--nri-runs=2")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*2 requests failed; they are not in the figures*"])


def test_another_boot_and_a_smaller_node_are_skips_with_the_fact(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        test_perf="import pytest\n"
        "@pytest.mark.balloon(snc=4)\ndef test_a(llm): pass\n"
        "@pytest.mark.requires_node(min_cpus=64)\ndef test_b(llm): pass\n"
        "@pytest.mark.requires_node(threads_per_core=2)\ndef test_c(llm): pass"
    )
    result = run(suite, "-rs")
    result.assert_outcomes(passed=1, skipped=2)
    result.stdout.fnmatch_lines(["*needs a boot with SNC-4*", "*needs at least 64 CPUs, this node has 16*"])


def test_collecting_only_starts_nothing(suite: pytest.Pytester) -> None:
    result = run(suite, "--collect-only")
    result.stdout.fnmatch_lines(["*test_chat*", "NODE LOG []"])
    assert not (suite.path / ".nriperf").exists()


def test_workers_of_xdist_on_one_node_are_refused_with_the_reason(suite: pytest.Pytester) -> None:
    result = suite.runpytest_subprocess("-n2")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*2 pytest-xdist workers would measure on one node*"])


def test_a_range_of_runs_stops_when_the_gate_is_settled(suite: pytest.Pytester) -> None:
    run(suite, "--nri-accept=missing", "--nri-runs=8")
    configure(suite, speed=2)
    run(suite, "--nri-runs=4..20").assert_outcomes(failed=1)
    newest = json.loads(recordings(suite)[-1].read_text())
    assert 4 <= len(newest["runs"]) < 20


def test_a_selection_leaves_each_verdicts_share_of_the_alarm_rate_as_it_is(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        test_perf="import pytest\n"
        "@pytest.mark.gate('itl', 'ttft')\ndef test_a(llm): llm.measure('a', max_new_tokens=2)\n"
        "@pytest.mark.gate('itl')\n@pytest.mark.variants(a={}, b={})\ndef test_b(llm): pass\n"
        "@pytest.mark.gate('itl', 'e2e')\ndef test_c(llm): pass\n"
    )
    run(suite, "-k", "test_a", "--nri-runs=1").assert_outcomes(passed=1, deselected=2)
    (document,) = recordings(suite)
    assert json.loads(document.read_text())["gate"]["alpha"] == pytest.approx(0.05 / 5)


def test_a_session_that_broke_off_is_resumed(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        test_perf="def test_a(llm): llm.measure('a', max_new_tokens=2)\n"
        "def test_b(llm):\n    llm.measure('b', max_new_tokens=2)\n    raise KeyboardInterrupt"
    )
    run(suite, "--nri-runs=2")
    before = {file: file.stat().st_mtime_ns for file in suite.path.glob(".nriperf/*/*/*.parquet")}
    suite.makepyfile(
        test_perf="def test_a(llm): llm.measure('a', max_new_tokens=2)\n"
        "def test_b(llm): llm.measure('b', max_new_tokens=2)"
    )
    run(suite, "--nri-runs=2", "--nri-resume").assert_outcomes(passed=2)
    after = {file: file.stat().st_mtime_ns for file in suite.path.glob(".nriperf/*/*/*.parquet")}
    assert after == before


def test_pytest_benchmark_carries_our_metrics(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_perf="def test_it(benchmark, llm): benchmark(llm.generate, 'Hello')")
    result = run(suite, "--benchmark-json=out.json", "--benchmark-min-rounds=3", "--benchmark-max-time=0.01")
    result.assert_outcomes(passed=1)
    (record,) = json.loads((suite.path / "out.json").read_text())["benchmarks"]
    assert record["extra_info"]["nriperf.icl_median_s"] == pytest.approx(0.005, rel=0.05)


def test_a_report_is_one_page_that_needs_nothing_else(suite: pytest.Pytester) -> None:
    run(suite, "--nri-report=out/report.html").stdout.fnmatch_lines(["report written to *out/report.html"])
    page = (suite.path / "out" / "report.html").read_text()
    assert "SIMULATED" in page
    assert "test_perf.py::test_chat" in page


def test_a_suite_that_does_not_use_us_hears_nothing_of_us(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(): pass")
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(passed=1)
    assert "nriperf" not in "".join(line for line in result.outlines if not line.startswith("plugins:"))


def test_verdicts_are_left_for_machines_and_for_a_jobs_page(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(suite.path / "page.md"))
    first = run(suite, "--nri-accept=missing", "--nri-runs=6")
    assert not [line for line in first.outlines if line.startswith("::")]
    configure(suite, speed=1.5)
    result = run(suite, "--nri-runs=6", "--nri-json=out/verdicts.json", "--nri-summary=out/summary.md")
    document = json.loads((suite.path / "out/verdicts.json").read_text())
    assert document["counts"]["worse"] >= 1
    assert document["simulated"] is True
    assert "SIMULATED" in (suite.path / "out/summary.md").read_text()
    assert "🔴 worse" in (suite.path / "page.md").read_text()
    assert any(line.startswith("::error file=test_") for line in result.outlines)


@pytest.mark.parametrize(
    ("variants", "said"), [("", "run 3 of 4..9"), ("@pytest.mark.variants(a={}, b={})", "pair 2 of 4..9")]
)
def test_an_interrupt_says_where_it_was_and_that_finished_runs_are_kept(
    suite: pytest.Pytester, variants: str, said: str
) -> None:
    suite.makepyfile(test_perf=SUITE.replace("def test_chat", f"{variants}\ndef test_chat"))
    conftest = suite.path / "conftest.py"
    conftest.write_text(
        conftest.read_text().replace("    return FakeGenerator", "    interrupted()\n    return FakeGenerator")
        + "\nRUNS = iter(range(1, 9))\n\ndef interrupted():\n    if next(RUNS) == 3:\n        raise KeyboardInterrupt\n"
    )
    result = run(suite, "--nri-runs=4..9")
    text = " ".join(result.outlines)
    assert f"broken off in {said} of test_perf.py::test_chat; finished runs are kept in " in text
    assert ": go on with --nri-resume" in text
    conftest.write_text(conftest.read_text().replace("next(RUNS) == 3", "False"))
    run(suite, "--nri-runs=4..9", "--nri-resume").assert_outcomes(passed=1)
    assert len(list(suite.path.glob(".nriperf/*/session.json"))) == 1


def test_what_an_engine_says_as_it_dies_cannot_command_the_terminal(suite: pytest.Pytester) -> None:
    conftest = suite.path / "conftest.py"
    conftest.write_text(conftest.read_text().replace("clock=CLOCK)", "clock=CLOCK, die='it broke\\n\\x1b[2Jgone')"))
    result = run(suite)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*it broke", "\\x1b[[]2Jgone *"])
    assert "\x1b[2J" not in result.stdout.str()
