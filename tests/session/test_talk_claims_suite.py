"""The suite of the talk's findings: confirmed on a simulated server, refuted when the cause is switched off."""

from __future__ import annotations

from pathlib import Path

import pytest

import pytest_nriperf.session.handles  # noqa: F401 - before pytester takes stock: numpy loads once a process

SUITE = Path(__file__).parents[2] / "perf_suites" / "test_talk_claims.py"


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    text = SUITE.read_text().replace("import pytest\n", "import pytest\nimport pytest_nriperf.session.handles\n", 1)
    pytester.makepyfile(test_talk_claims=text)
    return pytester.runpytest("-p", "no:cacheprovider", "-rs", *arguments)


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("CI", raising=False)


def test_all_findings_are_confirmed_on_the_simulated_server(pytester: pytest.Pytester) -> None:
    result = run(pytester, "--nri-node=sim:2s64c2t-snc2", "--nri-model=sim:")
    result.assert_outcomes(passed=5, skipped=1)
    for number in ("(1) stream", "(2) stream", "(3) node", "(4) node"):
        result.stdout.fnmatch_lines([f"SIMULATED confirmed: {number}*"])
    result.stdout.fnmatch_lines(["*needs a boot with SNC off too*"])


@pytest.mark.parametrize(
    ("cause", "test"),
    [
        ("bandwidth", "test_all_cpus_for_one_inference_are_not_optimal"),
        ("hyperthreads", "test_pay_two_take_one"),
        ("remote", "test_eight_replicas_on_half_the_cpus_nearly_triple_the_node"),
    ],
)
def test_without_its_cause_a_finding_is_refuted_with_figures(pytester: pytest.Pytester, cause: str, test: str) -> None:
    result = run(pytester, "--nri-node=sim:2s64c2t-snc2", f"--nri-model=sim:off={cause}", "-k", test)
    result.assert_outcomes(failed=1, deselected=5)
    result.stdout.fnmatch_lines(["*SIMULATED refuted: *(claim: at least *"])


def test_a_machine_too_small_for_a_claim_says_so(pytester: pytest.Pytester) -> None:
    result = run(pytester, "--nri-node=sim:1s2c2t", "--nri-model=sim:")
    result.assert_outcomes(skipped=6)
    result.stdout.fnmatch_lines(["*needs at least 16 cores, this node has 2*"])
