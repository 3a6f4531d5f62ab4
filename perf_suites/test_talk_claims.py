"""Four findings of one server, each a formula that is decided on the node at hand: confirmed, refuted or undecided.

They were told in the talk "Platform Performance Optimization for AI: a Resource Management Perspective" (KubeCon NA
2024). Sizes are shares of the CPUs that may be given out, so the same claims can be put to any node:

    pytest perf_suites/test_talk_claims.py                                        this machine
    pytest perf_suites/test_talk_claims.py --nri-node sim:2s64c2t-snc2 --nri-model sim:      a made-up one

A refuted claim fails with its figures; an undecided one is skipped with them (more runs: --nri-runs 10).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pytest_nriperf.sweep.claims import Finding, any_of, at_least, at_most

MODEL = "smollm2"
ALPHA = 0.025
# Replicas of unlike speed must still all be busy after the slowest has warmed up, or throughput is undefined.
WORK: dict[str, Any] = {"max_new_tokens": 16, "requests": 8}
Decide = Callable[[Finding], None]
Measure = Callable[..., Any]


@pytest.fixture(scope="module")
def measured(nri: Any) -> Measure:
    """A measurement of balloons with these arguments, made once however many claims use it."""
    seen: dict[str, Any] = {}

    def measure(**balloon: Any) -> Any:
        key = repr(sorted(balloon.items()))
        if key not in seen:
            with nri.balloon(**balloon) as granted, nri.llm(model=MODEL, balloon=granted) as llm:
                seen[key] = llm.measure("What happens at KubeCon?", **WORK)
        return seen[key]

    return measure


@pytest.fixture(scope="module")
def told(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """Findings, told together at the end."""
    lines: list[str] = []
    yield lines
    reporter = request.config.pluginmanager.get_plugin("terminalreporter")
    capture = request.config.pluginmanager.get_plugin("capturemanager")
    if reporter is not None and capture is not None and lines:
        with capture.global_and_fixture_disabled():
            reporter.ensure_newline()
            for line in lines:
                reporter.write_line(line)


@pytest.fixture
def decide(told: list[str], nri_node: Any, record_property: Callable[[str, object], None]) -> Decide:
    """Tell the finding; fail when it is refuted, skip when it is undecided."""

    def decide(finding: Finding) -> None:
        simulated = "SIMULATED " if nri_node.simulated else ""
        text = f"{simulated}{finding}"
        told.append(text)
        record_property("nriperf.finding", text)
        if finding.outcome == "refuted":
            pytest.fail(text, pytrace=False)
        if finding.outcome == "undecided":
            pytest.skip(f"{text}; more runs may decide it: --nri-runs 10")

    return decide


def speed(measurement: Any) -> list[float]:
    """Tokens per second of one stream, a value a run."""
    return [1 / value for value in measurement.tpot.per_run]


def throughput(measurement: Any) -> list[float]:
    """Tokens per second of the whole node, a value a run."""
    return list(measurement.throughput.per_run)


@pytest.mark.requires_node(min_cores=4)
def test_all_cpus_for_one_inference_are_not_optimal(measured: Measure, decide: Decide) -> None:
    """(1) stream speed: best of one replica on 50 % or 25 % of the CPUs >= 1.02 x one replica on all."""
    everything = measured(cpus="all")
    fewer = [(share, measured(cpus=share)) for share in ("50%", "25%")]
    decide(
        any_of(
            [
                at_least(
                    f"(1) stream speed on {share} of the CPUs / on all of them",
                    speed(found),
                    speed(everything),
                    1.02,
                    alpha=ALPHA / len(fewer),
                )
                for share, found in fewer
            ]
        )
    )


@pytest.mark.requires_node(min_numa_nodes=2, min_cores=8)
def test_one_inference_per_numa_node_protects_from_interference(
    nri_node: Any, measured: Measure, decide: Decide
) -> None:
    """(2) a replica for each NUMA node, on half the CPUs: stream speed inside the nodes >= 1.05 x over all nodes."""
    nodes = len(nri_node.topology.cpu_nodes)
    part = nodes * nri_node.topology.threads_per_core
    room = len(nri_node.description.allowed - nri_node.description.reserved)
    cpus = max(part, room // (2 * nodes) // part * part)
    inside = measured(cpus=cpus, replicas=nodes, numa="single")
    across = measured(cpus=cpus, replicas=nodes, numa="all")
    decide(
        at_least(
            "(2) stream speed, one replica inside each NUMA node / as many replicas over all nodes",
            speed(inside),
            speed(across),
            1.05,
            alpha=ALPHA,
        )
    )


@pytest.mark.requires_node(min_cores=4)
def test_sub_numa_clustering_protects_from_interference(nri_node: Any) -> None:
    """(2) needs the node in both modes: what this boot can say is recorded, the other boot is named."""
    mode = nri_node.topology.snc
    other = "a boot with SNC-2" if mode == 1 else "a boot with SNC off"
    pytest.skip(
        f"(2) SNC off against on needs {other} too (this boot: {mode} NUMA nodes a socket): run a sweep with "
        "snc=[1, 2] in both boots and join them with nriperf report"
    )


@pytest.mark.requires_node(threads_per_core=2, min_cores=8)
def test_pay_two_take_one(measured: Measure, decide: Decide) -> None:
    """(3) 4 replicas on half the CPUs: node throughput with hidden hyperthreads >= 1.02 x with both in use."""
    hidden = measured(cpus="12.5%", replicas=4, hyperthreads="hidden")
    paired = measured(cpus="12.5%", replicas=4, hyperthreads="paired")
    decide(
        at_least(
            "(3) node throughput, hyperthreads hidden / both in use, same allocated CPUs",
            throughput(hidden),
            throughput(paired),
            1.02,
            alpha=ALPHA,
        )
    )


@pytest.mark.requires_node(threads_per_core=2, min_cores=8)
def test_spreading_over_cores_is_very_bad_above_half_load(measured: Measure, decide: Decide) -> None:
    """(3) 6 replicas on 75 % of the CPUs: node throughput spread over cores <= 0.8 x with hidden hyperthreads."""
    spread = measured(cpus="12.5%", replicas=6, hyperthreads="spread")
    hidden = measured(cpus="12.5%", replicas=6, hyperthreads="hidden")
    decide(
        at_most(
            "(3) node throughput at 75 % load, spread over cores / hyperthreads hidden",
            throughput(spread),
            throughput(hidden),
            0.8,
            alpha=ALPHA,
        )
    )


@pytest.mark.requires_node(min_cores=16)
def test_eight_replicas_on_half_the_cpus_nearly_triple_the_node(measured: Measure, decide: Decide) -> None:
    """(4) node throughput of 8 replicas on half the CPUs, hyperthreads hidden >= 2.5 x one replica on all CPUs."""
    eight = measured(cpus="6.25%", replicas=8, hyperthreads="hidden")
    one = measured(cpus="all")
    decide(
        at_least(
            "(4) node throughput, 8 replicas on half the CPUs / one replica on all",
            throughput(eight),
            throughput(one),
            2.5,
            alpha=ALPHA,
        )
    )
