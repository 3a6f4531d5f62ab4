"""Whole pytest runs: what a balloon's CPUs read from memory is measured once, where no run is bracketed by it."""

from __future__ import annotations

import json
from typing import Any

import pytest

import pytest_nriperf.session.handles  # noqa: F401 - before pytester takes stock: numpy loads once a process
from pytest_nriperf.metrics import Measurement

# A node that counts as a real one, with an engine that can be asked for the reference load.
CONFTEST = """
import pytest_nriperf.session.handles  # noqa: F401 - before pytester takes stock: numpy loads once a process
from dataclasses import replace
from pytest_nriperf.seams import CounterRow
from pytest_nriperf.testing import FakeClock, FakeGenerator, FakeProvisioner

CLOCK = FakeClock()

class Real(FakeProvisioner):
    def describe(self):
        return replace(super().describe(), simulated=False)

class Reading(FakeGenerator):
    def load(self, grant):
        facts = {"weight_bytes": 3e6, "weight_bytes_per_token": 1e6}
        return [replace(info, model={**info.model, **facts}) for info in super().load(grant)]

    def reference_load(self):
        print("LOAD")
        now = CLOCK()
        names = {"memory_bandwidth": 1e9, "matrix_product": 1e11} if BANDWIDTH else {"matrix_product": 1e11}
        return [
            CounterRow(now, now, "reference", name, "gauge", value, "", replica=replica)
            for replica in range(self._replicas)
            for name, value in names.items()
        ]

    def measure(self, work, progress):
        begin = CLOCK()
        data = super().measure(work, progress)
        data.counters += [
            CounterRow(stamp, stamp, "proc", "machine_busy_time", "cumulative", stamp, "ns")
            for stamp in (begin, CLOCK())
        ]
        return data

BANDWIDTH = True
NODE = Real("sim:1s4c1t")

def pytest_nriperf_provisioner(node, settings):
    return NODE

def pytest_nriperf_generator(choice, node, options):
    print("REFERENCE", options.reference)
    return Reading(itl_s=0.005, cv=0.0, clock=CLOCK)
"""

TESTS = """
import pytest

pytestmark = pytest.mark.llm(model="org/name")

@pytest.mark.balloon(cpus=1, replicas=2)
def test_first(llm): llm.measure("Hello", max_new_tokens=16)

@pytest.mark.balloon(cpus=1, replicas=2)
def test_same_cpus(llm): llm.measure("Hello", max_new_tokens=16)

@pytest.mark.balloon(cpus=2)
def test_other_cpus(llm): llm.measure("Hello", max_new_tokens=16)

@pytest.mark.balloon(cpus=2)
@pytest.mark.gate("itl")
def test_gated(llm): llm.measure("Hello", max_new_tokens=16)

@pytest.mark.balloon(cpus=2)
def test_unmarked(llm, baseline): baseline.check(llm.measure("Hello", max_new_tokens=16), "itl")

@pytest.mark.balloon(cpus=2)
@pytest.mark.gate("itl")
@pytest.mark.variants(a={}, b={})
def test_pair(llm): llm.measure("Hello", max_new_tokens=16)
"""


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    for name in ("CI", "GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_perf=TESTS)
    return pytester


def run(suite: pytest.Pytester, *arguments: str) -> list[str]:
    """What the engines were asked, one word a call."""
    result = suite.runpytest_inprocess("-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-rfEP", *arguments)
    assert result.parseoutcomes().get("failed", 0) == result.parseoutcomes().get("errors", 0) == 0
    return [line for line in result.outlines if line == "LOAD" or line.startswith("REFERENCE")]


def recordings(suite: pytest.Pytester) -> dict[str, tuple[dict[str, Any], Measurement]]:
    files = suite.path.glob(".nriperf/*/*/recording.json")
    found = [(json.loads(file.read_text()), Measurement.from_recording(file.parent)) for file in files]
    return {document["test"].rpartition("::")[2]: (document, m) for document, m in found if "variant" not in document}


def test_each_balloon_is_read_once_a_session_and_every_test_on_it_knows(suite: pytest.Pytester) -> None:
    calls = run(suite, "--nri-runs=2", "-k", "first or cpus")
    assert calls.count("LOAD") == 2
    assert calls[:3] == ["REFERENCE False", "LOAD", "REFERENCE False"]
    found = recordings(suite)
    read = {name: document["balloon"]["read_bandwidth"] for name, (document, _) in found.items()}
    assert read == {"test_first": 2e9, "test_same_cpus": 2e9, "test_other_cpus": 1e9}
    attained = found["test_same_cpus"][1].pcm.bandwidth_attained
    # Two replicas of 200 tokens a second, 1 MB a token.
    assert attained.per_run == pytest.approx((0.2, 0.2))


def test_runs_that_are_judged_are_bracketed_and_these_and_pairs_have_no_further_load(suite: pytest.Pytester) -> None:
    for judged in ("gated", "unmarked"):
        assert run(suite, "--nri-runs=1", "-k", judged) == ["REFERENCE True"]
    assert "LOAD" not in run(suite, "--nri-runs=1", "-k", "pair")


@pytest.mark.parametrize("option", ["on", "off"])
def test_who_says_when_the_load_runs_is_heard(suite: pytest.Pytester, option: str) -> None:
    assert "LOAD" not in run(suite, f"--nri-reference={option}", "--nri-runs=1", "-k", "first")
    assert "read_bandwidth" not in recordings(suite)["test_first"][0]["balloon"]


def test_a_load_that_gave_no_bandwidth_is_not_tried_again_and_not_made_up(suite: pytest.Pytester) -> None:
    suite.makeconftest(CONFTEST.replace("BANDWIDTH = True", "BANDWIDTH = False"))
    assert run(suite, "--nri-runs=2", "-k", "first").count("LOAD") == 1
    document, measurement = recordings(suite)["test_first"]
    assert "read_bandwidth" not in document["balloon"]
    assert measurement.pcm.reasons["bandwidth_attained"] == "no reference load gave a memory bandwidth"
