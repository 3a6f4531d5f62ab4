"""The workflow of docs/ci.md works: its steps run here, in a clone, with a simulated engine."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pytest_nriperf.report.document import SCHEMA

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
# Half of a pytest start are plugins that have no part in this.
QUICK = "-p no:hypothesispytest -p no:benchmark -p no:xdist -p no:anyio"
PERSON = {
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@b",
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@b",
}


def workflow() -> dict[str, Any]:
    block = re.search(r"```yaml\n(.*?)```", DOCUMENT, re.DOTALL)
    assert block is not None
    loaded = yaml.safe_load(block[1])
    assert isinstance(loaded, dict)
    return loaded


def step(name: str) -> str:
    steps = workflow()["jobs"]["measure"]["steps"]
    return str(next(each["run"] for each in steps if each.get("name") == name))


def block(begin: str) -> str:
    """The shell block of the document that begins so."""
    return next(str(text) for text in re.findall(r"```sh\n(.*?)```", DOCUMENT, re.DOTALL) if text.startswith(begin))


def shell(folder: Path, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    known = {key: value for key, value in os.environ.items() if not key.startswith(("GITHUB", "GIT_", "PYTEST"))}
    return subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", script],
        cwd=folder,
        env={**known, "PATH": path, "CI": "true", "HOME": str(folder.parent), "PYTEST_ADDOPTS": QUICK, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )


def done(folder: Path, script: str, **environment: str) -> str:
    """What a script that succeeds prints."""
    result = shell(folder, script, **environment)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone of a project with one perf test of a simulated engine, on a machine where git knows nobody."""
    script = """
    git init -q --bare origin && git clone -q origin clone 2>/dev/null && cd clone
    printf '[tool.nriperf]\\nnode = "local"\\ncollect = "none"\\n' > pyproject.toml
    printf '.nriperf\\n__pycache__\\n/conftest.py\\n/perf_suites\\n/*.json\\n' > .gitignore
    git add -A && git commit -qm start && git push -q origin HEAD
    """
    done(tmp_path, script, **PERSON)
    suite(tmp_path / "clone", itl_s=0.005)
    return tmp_path / "clone"


def suite(project: Path, *, itl_s: float) -> None:
    """The engine of the project gets that speed."""
    (project / "perf_suites").mkdir(parents=True, exist_ok=True)
    (project / "perf_suites/test_chat.py").write_text(SUITE)
    (project / "conftest.py").write_text(CONFTEST.format(itl=itl_s))


def measured(clone: Path, *, nightly: bool) -> subprocess.CompletedProcess[str]:
    """The steps of a job up to the verdicts, in a fresh checkout."""
    done(clone, "git reset -q --hard && git clean -qfdx -e conftest.py -e perf_suites")
    done(clone, step("Baselines"))
    return shell(clone, step("Measure and judge"), NIGHTLY=str(nightly).lower())


def counts(clone: Path) -> dict[str, int]:
    found = json.loads((clone / "verdicts.json").read_text())["counts"]
    return {outcome: count for outcome, count in found.items() if count}


def kept(clone: Path) -> int:
    """How many sessions the branch of baselines holds."""
    done(clone, "git fetch -q origin")
    files = done(clone, "git ls-tree -r --name-only origin/baselines").split()
    assert all(name.startswith("baselines/") for name in files)
    return sum(done(clone, f"git show 'origin/baselines:{name}'").count('"session"') for name in files)


def test_every_step_is_shell_or_a_pinned_action() -> None:
    steps = workflow()["jobs"]["measure"]["steps"]
    assert all("run" in each or re.fullmatch(r"actions/[a-z-]+@v\d+", each["uses"]) for each in steps)
    for each in steps:
        assert subprocess.run(["bash", "-n", "-c", each.get("run", "")]).returncode == 0


def test_a_pull_request_before_the_first_night_is_told_what_makes_a_baseline(clone: Path) -> None:
    early = measured(clone, nightly=False)
    assert early.returncode == 1
    assert "next: accept this session: nriperf accept .nriperf/" in early.stdout
    assert "doctor" in step("What would spoil the measurement")
    done(clone, step("What would spoil the measurement"))


def test_nights_keep_baselines_and_an_intended_change_is_accepted_on_its_branch(clone: Path) -> None:
    night = measured(clone, nightly=True)
    assert night.returncode == 0, night.stdout
    assert counts(clone) == {"missing": 1}
    assert list((clone.parent / "nriperf").glob("*/*/recording.json"))
    done(clone, step("Keep the baselines"))
    assert kept(clone) == 1
    before = done(clone, "git rev-parse origin/baselines")
    done(clone, step("Keep the baselines"))
    assert done(clone, "git fetch -q origin; git rev-parse origin/baselines") == before

    done(clone, "git checkout -q -b slower")
    suite(clone, itl_s=0.006)
    slow = measured(clone, nightly=False)
    assert slow.returncode == 1
    assert counts(clone) == {"worse": 1}
    looked = shell(clone, block("nriperf show"))
    assert looked.returncode == 1, looked.stderr
    assert "itl.low" in looked.stdout

    shown = done(clone, block("git fetch"), **PERSON)
    assert shown.count("\n  - ") == shown.count("\n  + ") == 1
    assert done(clone, "git show --stat --format= HEAD").count("|") == 1
    again = measured(clone, nightly=False)
    assert again.returncode == 0, again.stdout
    assert counts(clone).keys() <= {"same", "unknown"}

    done(clone, "git checkout -q - && git merge -q slower && git push -q origin HEAD")
    merged = measured(clone, nightly=True)
    assert merged.returncode == 0, merged.stdout
    done(clone, step("Keep the baselines"))
    assert kept(clone) == 2
    assert measured(clone, nightly=True).returncode == 0
    done(clone, step("Keep the baselines"))
    assert kept(clone) == 3

    # A branch that was begun before all this and changed nothing is judged by what holds now.
    done(clone, "git reset -q --hard && git checkout -q -b stale $(git rev-list --max-parents=0 HEAD)")
    done(clone, step("Baselines"))
    assert [file.read_text().count('"session"') for file in clone.glob("baselines/*/*/*.json")] == [3]


def test_a_baseline_that_main_deletes_is_gone_for_the_nights_too(clone: Path) -> None:
    (clone / "baselines/old").mkdir(parents=True)
    (clone / "baselines/old/x.json").write_text("{}")
    done(clone, "git add baselines && git commit -qm old && git push -q origin HEAD", **PERSON)
    done(clone, step("Baselines"))
    done(clone, step("Keep the baselines"))
    done(clone, "git rm -qr baselines && git commit -qm gone && git push -q origin HEAD", **PERSON)
    done(clone, step("Baselines"))
    assert not (clone / "baselines/old/x.json").exists()


def test_every_field_that_programs_read_is_documented() -> None:
    schema = json.loads(SCHEMA.read_text())
    fields = set(schema["properties"]) | set(schema["$defs"]["verdict"]["properties"])
    fields |= set(schema["properties"]["not_judged"]["items"]["properties"])
    assert [name for name in sorted(fields) if f"`{name}`" not in DOCUMENT] == []


def test_what_is_exported_is_compared_by_another_tool(clone: Path) -> None:
    measured(clone, nightly=False)
    table = done(clone, block("nriperf export"))
    assert "test_chat[itl]" in table
    assert (clone / "nriperf.prom").read_text().endswith("# EOF\n")


def test_what_a_node_varies_by_is_measured_and_used(clone: Path) -> None:
    done(clone, block("nriperf noise").replace("--sessions 10 --runs 5", "--sessions 3 --runs 2"))
    assert list(clone.glob("baselines/*/noise.json"))


def test_rounds_of_two_versions_are_judged_together(tmp_path: Path) -> None:
    for side, itl_s in (("old", 0.005), ("new", 0.006)):
        suite(tmp_path / side, itl_s=itl_s)
        (tmp_path / side / "pyproject.toml").write_text('[tool.nriperf]\nnode = "local"\ncollect = "none"\n')
    result = shell(tmp_path, block("for round"))
    assert result.returncode == 1, result.stdout + result.stderr
    assert "6 v 6" in result.stdout
    assert "1 worse" in result.stdout
