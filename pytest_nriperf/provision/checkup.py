"""Whether a Kubernetes node can be measured on: everything that a session would stumble over, in one go."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pytest_nriperf.errors import NriperfError
from pytest_nriperf.provision import manifests
from pytest_nriperf.provision.balloon_types import existing_types
from pytest_nriperf.provision.cluster import LEASES, NODES, PODS, Cluster
from pytest_nriperf.provision.kubernetes import KubernetesProvisioner
from pytest_nriperf.provision.rights import missing


@dataclass(frozen=True)
class Fact:
    """One question's answer: `wrong` says whether it prevents measuring, `mend` the command or step."""

    name: str
    found: str
    wrong: bool = False
    mend: str = ""


def checkup(provisioner: KubernetesProvisioner) -> Iterator[Fact]:
    """The answers, in the order in which a session would need them. Starts one pod, when all before it is well."""
    cluster = provisioner.cluster
    steps: tuple[tuple[str, Callable[[], Fact]], ...] = (
        ("node", lambda: _node(provisioner, cluster)),
        ("permissions", lambda: _permissions(provisioner, cluster)),
        ("balloons plugin", lambda: Fact("", f"pod {provisioner.policy.check_installed()} is ready")),
        ("balloons policy", lambda: _policy(provisioner)),
        ("other measurements", lambda: _lease(provisioner, cluster)),
        ("leftovers", lambda: _leftovers(provisioner, cluster)),
        ("other workloads", lambda: _foreign(provisioner)),
    )
    well = True
    for name, step in steps:
        fact = _asked(name, step)
        well = well and not fact.wrong
        yield fact
    if well:
        yield _asked("a pod", lambda: _pod(provisioner))


def _asked(name: str, step: Callable[[], Fact]) -> Fact:
    try:
        fact = step()
    except NriperfError as error:
        return Fact(name, error.fact, wrong=True, mend=error.next_step)
    return Fact(name, fact.found, fact.wrong, fact.mend)


def _node(provisioner: KubernetesProvisioner, cluster: Cluster) -> Fact:
    found = cluster.get(NODES, provisioner.node) or {}
    for entry in (found.get("status") or {}).get("conditions") or []:
        if entry.get("type") == "Ready" and entry.get("status") != "True":
            text = f"{provisioner.node} is not ready: {entry.get('message')}"
            return Fact("", text, wrong=True, mend=f"kubectl describe node {provisioner.node}")
    if (found.get("spec") or {}).get("unschedulable"):
        return Fact("", f"{provisioner.node} is cordoned", wrong=True, mend=f"kubectl uncordon {provisioner.node}")
    return Fact("", f"{provisioner.node} in {cluster.address} is ready")


def _permissions(provisioner: KubernetesProvisioner, cluster: Cluster) -> Fact:
    lacking = missing(cluster, provisioner.profile)
    if lacking:
        text = f"missing: {'; '.join(lacking)}"
        return Fact("", text, wrong=True, mend="kubectl apply -f docs/kubernetes-rbac.yaml (after reading it)")
    return Fact("", f"all that mode {provisioner.profile.policy} needs")


def _policy(provisioner: KubernetesProvisioner) -> Fact:
    effective = provisioner.policy.effective()
    name = effective["metadata"]["name"]
    nodes = (effective.get("status") or {}).get("nodes") or {}
    entry = nodes.get(provisioner.node) or {}
    if entry.get("status") == "Failure":
        step = f"mend it: kubectl edit balloonspolicy {name} -n {provisioner.policy.namespace}"
        return Fact("", f"{name} is rejected: {entry.get('errors')}", wrong=True, mend=step)
    types = ", ".join(each.name for each in existing_types(effective["spec"])) or "none"
    said = "" if entry else " (the plugin has said nothing about it yet)"
    return Fact("", f"{name}{said}, balloon types: {types}")


def _lease(provisioner: KubernetesProvisioner, cluster: Cluster) -> Fact:
    namespace = provisioner.profile.lease_namespace
    found = cluster.get(LEASES, f"nriperf-{provisioner.node}", namespace)
    if found is None:
        return Fact("", "none")
    spec = found.get("spec") or {}
    return Fact("", f"held by {spec.get('holderIdentity')} since {spec.get('acquireTime')}")


def _leftovers(provisioner: KubernetesProvisioner, cluster: Cluster) -> Fact:
    selector = manifests.ours(node=provisioner.node)
    names = [pod["metadata"]["name"] for pod in cluster.find(PODS, provisioner.profile.namespace, labels=selector)]
    text = f"{len(names)} pods of ours ({', '.join(names[:4])}); the next session removes them" if names else "none"
    return Fact("", text)


def _foreign(provisioner: KubernetesProvisioner) -> Fact:
    if provisioner.profile.policy != "manage":
        return Fact("", "not asked: mode annotate moves nobody")
    names = provisioner.policy.foreign(provisioner.policy.effective(), provisioner.session_id)
    if names and not provisioner.profile.shared:
        return Fact("", ", ".join(names), wrong=True, mend="drain them, or accept it with shared = true in the profile")
    return Fact("", ", ".join(names) or "none")


def _pod(provisioner: KubernetesProvisioner) -> Fact:
    read = provisioner.describe().read
    text = read("/proc/sys/kernel/osrelease") or b"?"
    return Fact("", f"runs, and shares the node's clock; kernel {text.decode().strip()}")
