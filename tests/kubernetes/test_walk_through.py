"""The commands of docs/kubernetes.md, run as they stand there, from the first look at the node to a verdict."""

from __future__ import annotations

import re
import shlex
import shutil
import tomllib
from dataclasses import fields
from pathlib import Path

from pytest_nriperf.settings import NodeProfile
from pytest_nriperf.topology import simulated_topology
from tests.kubernetes.double.cluster import Cluster
from tests.kubernetes.test_rights import USER, roles
from tests.kubernetes.typed import typed

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/kubernetes.md").read_text().partition("## The profile")[0]
PROFILE = re.search(r"```toml\n\[tool\.nriperf\.(.*?)```", PAGE, re.DOTALL)


def commands() -> list[str]:
    """What the page tells to type, without comments and pipes into kubectl."""
    found = re.findall(r"^((?:nriperf|pytest) .*)$|`(nriperf plan [^`]*)`", PAGE, re.MULTILINE)
    return [(line or inline).partition("#")[0].strip() for line, inline in found]


def test_the_documented_commands_lead_to_a_verdict(tmp_path: Path) -> None:
    assert PROFILE is not None
    suites = tmp_path / "perf_suites"
    suites.mkdir()
    shutil.copy(ROOT / "perf_suites/test_latency.py", suites)
    texts = []
    with Cluster() as cluster:
        cluster.add_node("xeon1", simulated_topology("sim:2s16c2t"))
        cluster.access.add_user(USER, "t")
        cluster.access.load(roles("manage"))
        account = cluster.kubeconfig("t", namespace="perf")
        for command in commands():
            program, *words = shlex.split(command)
            if "--nri-accept" in command:
                # From here on the page has a profile. Its namespace is one of the double's.
                settings = f"[{PROFILE.group(1)}".replace("perf-tests", "perf")
                (tmp_path / "nriperf.toml").write_text(settings)
            if program == "nriperf":
                done = typed(cluster, tmp_path, ["pytest_nriperf", *words], account)
            else:
                model = [] if "--nri-model" in command else ["--nri-model=sim:itl=5ms,ttft=20ms"]
                quick = ["-q", "-p", "no:cacheprovider", "--rootdir=.", "--nri-runs=2", "--nri-collect=none"]
                done = typed(cluster, tmp_path, ["pytest", *words, *model, *quick], account)
            assert done.returncode in ((0, 1) if words[0] == "doctor" else (0,)), command + done.stdout + done.stderr
            texts.append(done.stdout)
        assert cluster.leftovers() == []
    assert len(texts) == 5, commands()
    assert "16 allocated / 8 visible" in texts[1]
    assert re.search(r"\b(same|unknown|better|worse)\b", texts[-1]), texts[-1]


def test_every_setting_of_a_profile_is_in_the_table() -> None:
    table = (ROOT / "docs/kubernetes.md").read_text().partition("## The profile")[2].partition("## The two modes")[0]
    told = set(re.findall(r"`([a-z_]+)`", "".join(re.findall(r"^\|([^|]*)\|", table, re.MULTILINE))))
    assert told == {entry.name for entry in fields(NodeProfile)} - {"name"}


def test_every_command_for_the_cluster_is_a_known_one() -> None:
    told = re.findall(r"(?:^|`|&& )((?:kubectl|helm) [a-z]+)", PAGE, re.MULTILINE)
    assert set(told) == {
        "helm repo",
        "helm install",
        *(f"kubectl {verb}" for verb in ("wait", "create", "apply", "config")),
    }
    assert (ROOT / "docs/kubernetes-rbac.yaml").exists()


def test_the_reference_image_has_the_engines_packages_and_nothing_of_ours() -> None:
    text = (ROOT / "docs/Dockerfile").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    packages = [re.split(r"[<>=]", entry)[0] for entry in project["optional-dependencies"]["transformers"]]
    commands = " ".join(line for line in text.splitlines() if not line.startswith("#"))
    assert [name for name in packages if not re.search(rf"\b{name}\b", commands)] == []
    assert "nriperf" not in commands
    assert re.search(r"^FROM python:3\.(9|1[0-9])", text, re.MULTILINE)
