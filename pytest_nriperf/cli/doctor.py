"""`nriperf doctor`: what on a node will spoil a measurement, and how to mend it."""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import textwrap
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pytest_nriperf.cli.topology import find_node
from pytest_nriperf.collect.health import counter_facts
from pytest_nriperf.collect.remote import health_there
from pytest_nriperf.doctor import CHECKS, LEVELS, Examined, Finding, examine
from pytest_nriperf.errors import EnvironmentFault, ProvisionError, UsageError
from pytest_nriperf.experiment.counting import counting_there, observer_on
from pytest_nriperf.generate.archive import worker_archive
from pytest_nriperf.provision.cgroups import find_hierarchy
from pytest_nriperf.provision.checkup import checkup
from pytest_nriperf.provision.kubernetes import KubernetesProvisioner, kubernetes_provisioner
from pytest_nriperf.provision.local import LocalProvisioner, read_local
from pytest_nriperf.provision.memory_policy import why_memory_cannot_be_bound
from pytest_nriperf.provision.node_lock import check_lock
from pytest_nriperf.settings import settings_here
from pytest_nriperf.topology.snapshot import open_snapshot
from pytest_nriperf.units import format_text

# Read twice, so that only what happens meanwhile counts.
_TWICE = ("/proc/stat",)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--node", default="local", metavar="NODE", help="a profile or Kubernetes node (default local)")
    parser.add_argument("--sysfs", type=Path, metavar="FILE", help="examine a snapshot of another node's files")
    parser.add_argument(
        "--seconds", type=float, default=1.0, metavar="S", help="how long to watch for load and steal (default 1)"
    )
    parser.add_argument("--all", action="store_true", help="show also what is good")
    parser.add_argument("--list", action="store_true", help="list the checks")
    parser.add_argument("--json", action="store_true", help="print every finding as JSON")


def run(options: argparse.Namespace) -> int:
    """Print the findings. Exit status 1 when something spoils measurements."""
    if options.list:
        print("\n".join(f"{check.name:<22} {check.question}" for check in CHECKS))
        return 0
    if options.seconds < 0:
        raise UsageError(f"--seconds={options.seconds:g} is negative", "write for example --seconds=2")
    if options.node.startswith("sim:"):
        raise UsageError(f"node {options.node} is simulated: nothing spoils its figures", "name a real node")
    findings: list[Finding] = []
    if options.node != "local":
        far, findings = _far(options.node)
        if far is None:
            return _told(options, options.node, findings)
        node = far
    else:
        node = _snapshot(options.sysfs) if options.sysfs else _here(options.seconds)
    findings += examine(node)
    if options.json:
        print(json.dumps({"node": node.topology.summary(), "findings": [asdict(each) for each in findings]}, indent=1))
    else:
        print(_drawn(node, findings, everything=options.all))
    return int(any(finding.level == "spoils" for finding in findings))


def _told(options: argparse.Namespace, title: str, findings: Sequence[Finding]) -> int:
    """What was found of a node whose files could not be read."""
    if options.json:
        print(json.dumps({"node": title, "findings": [asdict(each) for each in findings]}, indent=1))
    else:
        print("\n".join([title, "", *(line for each in findings for line in _entry(each, 100))]))
    return int(any(finding.level == "spoils" for finding in findings))


def _far(name: str) -> tuple[Examined | None, list[Finding]]:
    """A Kubernetes node: what a session would stumble over, and its files when a pod could read them."""
    findings = []
    with contextlib.closing(kubernetes_provisioner(name, settings_here(), worker_archive)) as node:
        for fact in checkup(node):
            if fact.level == "spoils":
                effect = "no measurement can start"
                mend = fact.mend or "see docs/kubernetes.md"
                findings.append(Finding(fact.name, fact.level, fact.found, effect, "certain", mend))
            else:
                findings.append(Finding(fact.name, fact.level, fact.found, mend=fact.mend))
        if any(finding.level == "spoils" for finding in findings):
            return None, findings
        description = node.describe()
        facts: dict[str, Any] = {}
        try:
            facts, found = _counted(node)
            findings.append(found)
        except EnvironmentFault as error:
            findings.append(Finding("counters", "unknown", error.fact))
        far = Examined(read=description.read, topology=node.topology(), allowed=description.allowed, facts=facts)
        return far, findings


def _counted(node: KubernetesProvisioner) -> tuple[dict[str, Any], Finding]:
    """What only trying tells of the node's counters, and what a session there would count."""
    address = settings_here().pcm or node.profile.pcm
    observer = observer_on(node)
    facts = health_there(observer, address or observer.address)
    facts["pcm"]["named"] = bool(address)
    line = counting_there(node, node.name, "auto", address).line
    return facts, Finding("counters", "good", line.partition(": ")[2])


def _here(seconds: float) -> Examined:
    node = LocalProvisioner()
    earlier = {path: content for path in _TWICE if seconds and (content := read_local(path)) is not None}
    time.sleep(seconds)
    return Examined(
        read=read_local,
        topology=node.topology(),
        allowed=node.describe().allowed,
        earlier=earlier,
        seconds=seconds,
        facts=_local_facts(node),
    )


def _local_facts(node: LocalProvisioner) -> dict[str, Any]:
    try:
        check_lock()
    except ProvisionError as error:
        lock = error.fact
    else:
        lock = ""
    hierarchy = find_hierarchy()
    return {
        "cpuset": hierarchy.mechanism if hierarchy else "affinity",
        "numactl": shutil.which("numactl"),
        "bind_memory": why_memory_cannot_be_bound(node.topology().nodes[0].id),
        "lock": lock,
        **counter_facts(settings_here().pcm),
    }


def _snapshot(file: Path) -> Examined:
    node = find_node("", file)
    return Examined(read=open_snapshot(file), topology=node.topology, allowed=node.allowed)


def _drawn(node: Examined, findings: Sequence[Finding], *, everything: bool) -> str:
    counts = Counter(finding.level for finding in findings)
    lines = [node.topology.summary(), ""]
    width = max(60, min(shutil.get_terminal_size((100, 24)).columns, 120))
    for finding in findings:
        if everything or finding.level in ("spoils", "disturbs", "notice"):
            lines += ["", *_entry(finding, width)] if finding.effect else _entry(finding, width)
    told = {"spoils": "spoil", "disturbs": "disturb", "notice": "to know", "unknown": "unknown", "good": "good"}
    summary = ", ".join(f"{counts[level]} {told[level]}" for level in LEVELS if counts[level])
    return "\n".join([*lines, "", f"{len(findings)} findings: {summary}"])


def _entry(finding: Finding, width: int) -> list[str]:
    head = (
        f"{finding.level.upper() if finding.level == 'spoils' else finding.level:<9} {finding.check}: {finding.found}"
    )
    lines = textwrap.wrap(format_text(head), width, subsequent_indent=" " * 10)
    if finding.effect:
        effect = f"{finding.effect}{f' ({finding.sure})' if finding.sure else ''}"
        lines += textwrap.wrap(effect, width, initial_indent=" " * 10, subsequent_indent=" " * 10)
    if finding.mend:
        # Not wrapped: a command must be copied whole.
        lines.append(f"{'mend:':>15} {format_text(finding.mend)}")
    return lines
