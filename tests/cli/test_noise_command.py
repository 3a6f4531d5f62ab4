"""`nriperf noise` that measures: whole pytest sessions, one after the other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_nriperf.cli import main

CONFTEST = """
import os
import random

from pytest_nriperf.testing import FakeClock, FakeGenerator, FakeProvisioner

NODE, CLOCK, LUCK = FakeProvisioner("sim:1s4c2t"), FakeClock(), random.Random(os.getpid())
SPEED = 1 + LUCK.gauss(0, 0.05)

def pytest_nriperf_provisioner(node, settings):
    return NODE

def pytest_nriperf_generator(choice, node):
    return FakeGenerator(itl_s=0.005 * SPEED, ttft_s=0.02, seed=LUCK.randrange(1000), clock=CLOCK)
"""
SUITE = """
import pytest

@pytest.mark.llm(model="sim:itl=5ms")
@pytest.mark.gate("itl")
@pytest.mark.balloon(cpus=2)
def test_chat(llm, baseline):
    baseline.check(llm.measure("Hello", max_new_tokens=8))
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_perf.py").write_text(SUITE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_noise_measures_sessions_of_their_own_and_keeps_the_result(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    status = main(["noise", "--sessions", "3", "--runs", "2", "--save", "--json", "--", "test_perf.py"])
    captured = capfd.readouterr()
    assert status == 0, captured.err
    (found,) = (one for one in json.loads(captured.out)["metrics"] if one["metric"] == "itl")
    assert (found["sessions"], found["runs"]) == (3, 6)
    (kept,) = (project / "baselines").glob("*/noise.json")
    assert json.loads(kept.read_text())["noise"]["itl"]
    assert not (project / ".nriperf").exists()


def test_a_session_that_fails_ends_the_check_with_its_command(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (project / "test_perf.py").write_text("def test_it():\n    assert False\n")
    assert main(["noise", "--sessions", "3", "--", "test_perf.py"]) == 3
    assert "session 1 ended with status 1" in capfd.readouterr().err


def test_too_few_sessions_are_refused(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["noise", "--sessions", "2", "--", "test_perf.py"]) == 2
    assert "3 or more" in capfd.readouterr().err
