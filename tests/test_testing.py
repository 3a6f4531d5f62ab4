"""The public fakes keep the promises of the seams that they stand in for."""

from __future__ import annotations

import os

import pytest

from pytest_nriperf.balloons import BalloonSpec
from pytest_nriperf.errors import CollectorError, NotHonouredError, WorkerError
from pytest_nriperf.provision.local import LocalProvisioner
from pytest_nriperf.seams import Collector, Generator, Prompt, Provisioner, Target, Work
from pytest_nriperf.testing import FakeClock, FakeCollector, FakeGenerator, FakeProvisioner, FakeStream, ServedGenerator

WORK = Work(prompts=(Prompt("p", text="Hello"),), max_new_tokens=5, requests=3, warmup=1)


def test_they_are_what_the_seams_ask_for() -> None:
    provisioner: Provisioner = FakeProvisioner()
    generators: list[Generator] = [FakeGenerator(), ServedGenerator()]
    collector: Collector = FakeCollector()
    assert all((provisioner, generators, collector))


def test_a_server_in_the_balloon_with_its_client_outside_fits_the_seam() -> None:
    node = LocalProvisioner()
    one = frozenset({min(node.describe().allowed)})
    generator = ServedGenerator()
    with LocalProvisioner(allowed=one).provision(BalloonSpec(cpus=1, hyperthreads="spread")) as grant:
        try:
            (info,) = generator.load(grant)
            assert info.stream is not None
            assert grant.verify(0, info.stream)["cpus"] == str(*one)
            assert info.pid != os.getpid()
            data = generator.measure(WORK, lambda progress: None)
        finally:
            generator.close()
    assert [row.phase for row in data.requests] == ["warmup", "measure", "measure", "measure"]
    assert all(row.output_tokens == 5 for row in data.requests)
    assert all(later > earlier for earlier, later in zip(data.tokens.t_ns, data.tokens.t_ns[1:], strict=False))


def test_a_fake_engine_is_deterministic_and_moves_only_its_own_clock() -> None:
    def stamps(seed: int) -> list[int]:
        generator = FakeGenerator(seed=seed, clock=FakeClock(10))
        with FakeProvisioner().provision(BalloonSpec(cpus=2, replicas=2)) as grant:
            generator.load(grant)
            return list(generator.measure(WORK, lambda progress: None).tokens.t_ns)

    assert stamps(1) == stamps(1) != stamps(2)


def test_failures_on_purpose_happen() -> None:
    with FakeProvisioner(escape="memory on node 3").provision(BalloonSpec(cpus=2)) as grant:
        generator = FakeGenerator(die="the engine broke")
        generator.load(grant)
        with pytest.raises(WorkerError, match="broke"):
            generator.measure(WORK, lambda progress: None)
        with pytest.raises(NotHonouredError, match="memory on node 3"):
            grant.verify(0, FakeStream())


def test_a_fake_collector_counts_and_breaks_when_told() -> None:
    collector = FakeCollector(step=2, fail_at=2)
    values = [row.value for row in [*collector.start(Target(())), *collector.sample()]]
    assert values == [2, 4]
    with pytest.raises(CollectorError):
        collector.sample()
