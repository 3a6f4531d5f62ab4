"""The workflow of docs/ci.md works: its steps run here, in a clone, with a simulated engine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

DOCUMENT = (Path(__file__).parents[1] / "docs" / "ci.md").read_text()
SUITE = """
import pytest

@pytest.mark.llm(model="sim:itl=5ms")
@pytest.mark.gate("itl")
@pytest.mark.balloon(cpus=2)
def test_chat(llm, baseline):
    baseline.check(llm.measure("Hello", max_new_tokens=8, requests=2))
"""
CONFTEST = """
from pytest_nriperf.testing import FakeClock, FakeGenerator, FakeProvisioner

NODE, CLOCK, SEEDS = FakeProvisioner("sim:1s4c2t"), FakeClock(), iter(range(1000))

def pytest_nriperf_provisioner(node, settings):
    return NODE

def pytest_nriperf_generator(choice, node):
    return FakeGenerator(itl_s={itl}, ttft_s=0.02, seed=next(SEEDS), clock=CLOCK)
"""


def workflow() -> dict[str, Any]:
    block = re.search(r"```yaml\n(.*?)```", DOCUMENT, re.DOTALL)
    assert block is not None
    loaded = yaml.safe_load(block[1])
    assert isinstance(loaded, dict)
    return loaded


def step(name: str) -> str:
    steps = workflow()["jobs"]["measure"]["steps"]
    return str(next(each["run"] for each in steps if each.get("name") == name))


def shell(folder: Path, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    known = {key: value for key, value in os.environ.items() if not key.startswith(("GITHUB", "PYTEST"))}
    return subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", script],
        cwd=folder,
        env={**known, "PATH": path, "CI": "true", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone of a project with one perf test of a simulated engine."""
    script = """
    git init -q --bare origin && git clone -q origin clone 2>/dev/null && cd clone
    git config user.email a@b && git config user.name a && mkdir perf_suites
    printf '[tool.nriperf]\\nnode = "local"\\ncollect = "none"\\n' > pyproject.toml
    printf '.nriperf\\n__pycache__\\n' > .gitignore
    git add -A && git commit -qm start
    """
    done = shell(tmp_path, script)
    assert done.returncode == 0, done.stderr
    (tmp_path / "clone/perf_suites/test_chat.py").write_text(SUITE)
    engine(tmp_path / "clone", itl_s=0.005)
    return tmp_path / "clone"


def engine(clone: Path, *, itl_s: float) -> None:
    """The engine of the project gets another speed."""
    (clone / "conftest.py").write_text(CONFTEST.format(itl=itl_s))


def test_every_step_is_shell_or_a_pinned_action() -> None:
    steps = workflow()["jobs"]["measure"]["steps"]
    assert all("run" in each or re.fullmatch(r"actions/[a-z-]+@v\d+", each["uses"]) for each in steps)
    for each in steps:
        assert subprocess.run(["bash", "-n", "-c", each.get("run", "")]).returncode == 0


def test_a_night_makes_the_baseline_that_pull_requests_are_judged_by(clone: Path) -> None:
    early = shell(clone, step("Measure and judge"), NIGHTLY="false")
    assert early.returncode == 1
    assert "--nri-accept missing" in early.stdout

    assert "no baselines yet" in shell(clone, step("Baselines of main")).stdout
    night = shell(clone, step("Measure and judge"), NIGHTLY="true")
    assert night.returncode == 0, night.stdout
    kept = shell(clone, step("Keep the baselines"), NIGHTLY="true")
    assert kept.returncode == 0, kept.stderr

    shutil.rmtree(clone / "baselines")
    assert shell(clone, step("Baselines of main")).returncode == 0
    engine(clone, itl_s=0.006)
    slow = shell(clone, step("Measure and judge"), NIGHTLY="false")
    assert slow.returncode == 1, slow.stdout
    assert json.loads((clone / "verdicts.json").read_text())["counts"]["worse"] == 1
