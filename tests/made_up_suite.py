"""A suite on a made-up node with a made-up engine, for whole pytest runs."""

from __future__ import annotations

from pathlib import Path

import pytest

import pytest_nriperf.session.handles  # noqa: F401 - before pytester takes stock: numpy loads once a process

CONFTEST = """
import pytest

import pytest_nriperf.session.handles  # noqa: F401 - before pytester takes stock: numpy loads once a process
from pytest_nriperf.testing import FakeClock, FakeGenerator, FakeProvisioner

SPEED = {speed}
NODE = FakeProvisioner({shape!r})
CLOCK = FakeClock()
SEEDS = iter(range(1000))

def pytest_nriperf_provisioner(node, settings):
    return NODE

def pytest_nriperf_generator(choice, node):
    return FakeGenerator(itl_s=0.005 * SPEED, ttft_s=0.02 * SPEED, seed=next(SEEDS), clock=CLOCK)

def pytest_unconfigure(config):
    print("NODE LOG", NODE.log)
"""

SUITE = """
import pytest

import pytest_nriperf.session.handles  # noqa: F401 - before pytester takes stock: numpy loads once a process

@pytest.mark.llm(model="sim:itl=5ms")
@pytest.mark.gate("ttft", "itl")
@pytest.mark.balloon(cpus=4, hyperthreads="hidden")
def test_chat(llm, baseline):
    m = llm.measure("Hello", max_new_tokens=16, requests=2)
    assert m.ttft.p50 > 0
    baseline.check(m)
"""


def made_up_suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """SUITE on a node of no CI."""
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("COLUMNS", "160")
    configure(pytester)
    pytester.makepyfile(test_perf=SUITE)
    return pytester


def configure(pytester: pytest.Pytester, *, speed: float = 1.0, shape: str = "sim:2s4c2t-snc2") -> None:
    pytester.makeconftest(CONFTEST.format(speed=speed, shape=shape))


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    arguments = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest", *arguments)
    return pytester.runpytest_inprocess(*arguments, no_reraise_ctrlc=True)


def recordings(pytester: pytest.Pytester) -> list[Path]:
    return sorted(pytester.path.glob(".nriperf/*/*/recording.json"))
