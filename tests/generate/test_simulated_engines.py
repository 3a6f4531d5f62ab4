"""Engines on a simulated node: virtual time, reproducible noise, the seam kept."""

from __future__ import annotations

import threading

import pytest

from pytest_nriperf.balloons import BalloonSpec
from pytest_nriperf.errors import WorkerError
from pytest_nriperf.generate.models import parse_model
from pytest_nriperf.generate.simulated import SimulatedGenerator
from pytest_nriperf.provision.simulated import SimulatedProvisioner
from pytest_nriperf.seams import Progress, Prompt, RunData, Work

SPEC = BalloonSpec(cpus=8, hyperthreads="hidden", replicas=2)
WORK = Work((Prompt("p", tokens=16),), max_new_tokens=8, requests=2)


def loaded(node: SimulatedProvisioner, model: str = "sim:parameters=1G") -> SimulatedGenerator:
    generator = SimulatedGenerator(parse_model(model), node.topology(), node.clock)
    with node.provision(SPEC) as grant:
        generator.load(grant)
    return generator


def measured(generator: SimulatedGenerator) -> RunData:
    return generator.measure(WORK, lambda progress: None)


def test_runs_follow_each_other_on_the_nodes_clock() -> None:
    node = SimulatedProvisioner("sim:2s8c2t-snc2")
    first, second = measured(loaded(node)), measured(loaded(node))
    assert max(row.end_ns or 0 for row in first.requests) < min(row.submit_ns for row in second.requests)
    start, end = first.anchors[0]
    assert start.monotonic_ns == min(row.submit_ns for row in first.requests)
    assert end.monotonic_ns == max(row.end_ns or 0 for row in first.requests)


def test_a_session_is_reproducible_whatever_else_it_measures() -> None:
    def stamps(before: str) -> list[int]:
        node = SimulatedProvisioner("sim:2s8c2t-snc2")
        if before:
            with node.provision(BalloonSpec(cpus=2)) as grant:
                other = SimulatedGenerator(parse_model(before), node.topology(), node.clock)
                other.load(grant)
                measured(other)
        data = measured(loaded(node))
        return [stamp - data.tokens.t_ns[0] for stamp in data.tokens.t_ns]

    assert stamps("") == stamps("sim:")
    assert stamps("") == stamps("")


def test_another_run_and_another_seed_have_noise_of_their_own() -> None:
    node = SimulatedProvisioner("sim:2s8c2t-snc2")
    lengths = set()
    for model in ("sim:parameters=1G", "sim:parameters=1G", "sim:parameters=1G,seed=5"):
        data = measured(loaded(node, model))
        lengths.add(data.tokens.t_ns[-1] - data.tokens.t_ns[0])
    assert len(lengths) == 3


def test_measuring_again_in_loaded_engines_differs_too() -> None:
    generator = loaded(SimulatedProvisioner("sim:2s8c2t-snc2"))
    first, second = (measured(generator) for _ in range(2))
    assert first.tokens.t_ns[-1] - first.tokens.t_ns[0] != second.tokens.t_ns[-1] - second.tokens.t_ns[0]


def test_progress_is_told_and_threads_are_the_visible_cpus() -> None:
    node = SimulatedProvisioner("sim:2s8c2t-snc2")
    generator = SimulatedGenerator(parse_model("smollm2"), node.topology(), node.clock)
    with node.provision(SPEC) as grant:
        infos = generator.load(grant)
    seen: list[Progress] = []
    generator.measure(WORK, seen.append)
    assert seen == [Progress(0, 3, 24), Progress(1, 3, 24)]
    assert [info.threads for info in infos] == [4, 4]
    assert infos[0].model["weight_bytes"] == pytest.approx(4 * 134.5e6)
    assert infos[0].model["simulated"] is True


def test_replicas_that_are_driven_by_hand_overlap_in_time() -> None:
    generator = loaded(SimulatedProvisioner("sim:2s8c2t-snc2"))
    found: dict[int, list[tuple[int, int]]] = {0: [], 1: []}

    def drive(replica: int) -> None:
        for _ in range(3):
            completion = generator.generate(Prompt("p", tokens=8), 4, replica)
            found[replica].append((completion.submit_ns, completion.end_ns))

    threads = [threading.Thread(target=drive, args=(replica,)) for replica in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for calls in found.values():
        assert [start for start, _ in calls[1:]] == [end for _, end in calls[:-1]]
    assert found[0][0][0] == found[1][0][0]


def test_without_load_and_after_close_nothing_can_be_measured() -> None:
    node = SimulatedProvisioner("sim:1s4c2t")
    generator = SimulatedGenerator(parse_model("sim:"), node.topology())
    with pytest.raises(WorkerError, match="not loaded"):
        measured(generator)
    generator = loaded(SimulatedProvisioner("sim:2s8c2t-snc2"))
    generator.close()
    generator.close()
    with pytest.raises(WorkerError, match="not loaded"):
        generator.generate(Prompt("p", tokens=1), 1)
