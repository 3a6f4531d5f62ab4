"""Whether a Kubernetes node can be measured on: everything that a session would stumble over, in one go."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from pytest_nriperf.errors import NriperfError
from pytest_nriperf.provision import manifests
from pytest_nriperf.provision.api_errors import ROLES, ApiFailure
from pytest_nriperf.provision.balloon_types import existing_types
from pytest_nriperf.provision.cluster import DAEMON_SETS, LEASES, NODES, PODS, POLICIES, ZONES
from pytest_nriperf.provision.kubernetes import KubernetesProvisioner
from pytest_nriperf.provision.lease import held_by, is_fresh, lease_name
from pytest_nriperf.provision.leftovers import left_behind
from pytest_nriperf.provision.node_policy import PLUGIN
from pytest_nriperf.provision.rights import listed, missing
from pytest_nriperf.units import format_cpus

Json = dict[str, Any]

# The first versions with NRI.
_OLDEST = {"containerd": (1, 7), "cri-o": (1, 26)}


@dataclass(frozen=True)
class Fact:
    """One question's answer. `level`: it `spoils` (no session can begin), `notice` or `good`; `mend` is the command or
    step for the first two."""

    found: str
    level: str = "good"
    mend: str = ""
    name: str = ""


def checkup(provisioner: KubernetesProvisioner) -> Iterator[Fact]:
    """The answers, in the order in which a session would need them. Starts one pod, when all before it is well."""
    steps: tuple[tuple[str, Callable[[KubernetesProvisioner], Fact]], ...] = (
        ("node", _node),
        ("container runtime", _runtime),
        ("permissions", _permissions),
        ("definitions", _definitions),
        ("balloons DaemonSet", _daemon_set),
        ("balloons plugin", lambda node: Fact(f"pod {node.policy.check_installed()} is ready")),
        ("balloons policy", _policy),
        ("other measurements", _lease),
        ("leftovers", _leftovers),
        ("other workloads", _foreign),
        ("ended pods", _ended),
        ("topology", _topology),
    )
    # Many questions over one connection; the provisioner's end closes it.
    provisioner.cluster.keep = True
    well = True
    for name, step in steps:
        fact = _asked(name, step, provisioner)
        well = well and fact.level != "spoils"
        yield fact
    if well:
        yield _asked("a pod", _pod, provisioner)
    if well or provisioner.topology_file is not None:
        yield _asked("CPUs", _cpus, provisioner)


def _asked(name: str, step: Callable[[KubernetesProvisioner], Fact], node: KubernetesProvisioner) -> Fact:
    try:
        return replace(step(node), name=name)
    except NriperfError as error:
        return Fact(error.fact, "spoils", error.next_step, name)


def _node(node: KubernetesProvisioner) -> Fact:
    found = node.cluster.get(NODES, node.node) or {}
    for entry in (found.get("status") or {}).get("conditions") or []:
        if entry.get("type") == "Ready" and entry.get("status") != "True":
            text = f"{node.node} is not ready: {entry.get('message')}"
            return Fact(text, "spoils", f"kubectl describe node {node.node}")
    if (found.get("spec") or {}).get("unschedulable"):
        return Fact(f"{node.node} is cordoned", "spoils", f"kubectl uncordon {node.node}")
    cluster = node.cluster
    return Fact(f"{node.node} is ready, in context {cluster.context} ({cluster.address})")


def _runtime(node: KubernetesProvisioner) -> Fact:
    facts = node.versions
    text = ", ".join(f"{name} {version}" for name, version in facts.items() if version)
    match = re.match(r"([a-z-]+)://v?(\d+)\.(\d+)", facts["container runtime"])
    if match and (int(match[2]), int(match[3])) < _OLDEST.get(match[1], (0, 0)):
        oldest = ".".join(map(str, _OLDEST[match[1]]))
        return Fact(f"{text}: it has no NRI", "spoils", f"upgrade {match[1]} to {oldest} or newer")
    return Fact(text or "the node tells no versions")


def _permissions(node: KubernetesProvisioner) -> Fact:
    lacking = missing(node.cluster, node.profile)
    if not lacking:
        return Fact(f"all that mode {node.profile.policy} needs, in namespace {node.profile.namespace}")
    needed = [lack for lack in lacking if not lack.explains]
    mend = f"an administrator grants it: {ROLES}; check with: {(needed or lacking)[0].question}"
    if needed:
        return Fact(f"missing: {listed(lacking)}", "spoils", mend)
    return Fact(f"enough; when something goes wrong less can be told, without: {listed(lacking)}", "notice", mend)


def _definitions(node: KubernetesProvisioner) -> Fact:
    node.cluster.get(POLICIES, "default", node.policy.namespace)
    try:
        node.cluster.get(ZONES, node.node)
    except ApiFailure as error:
        if error.reason != "NotInstalled":
            raise
        return Fact(f"{error.fact}: balloons are verified by the kernel's view alone", "notice", error.next_step)
    return Fact(f"{POLICIES.title} and {ZONES.title} are installed")


def _daemon_set(node: KubernetesProvisioner) -> Fact:
    namespace = node.policy.namespace
    try:
        found = node.cluster.find(DAEMON_SETS, namespace, labels=f"app.kubernetes.io/name={PLUGIN}")
    except ApiFailure as error:
        return Fact(error.fact, "notice", error.next_step)
    if not found:
        return Fact(f"none in namespace {namespace}", "notice", "name the plugin's namespace: policy_namespace")
    status = found[0].get("status") or {}
    counts = [status.get(key) for key in ("numberReady", "desiredNumberScheduled")]
    ready = "" if None in counts else f", {counts[0]} of {counts[1]} pods are ready"
    return Fact(f"{found[0]['metadata']['name']} in namespace {namespace}{ready}")


def _policy(node: KubernetesProvisioner) -> Fact:
    effective = node.policy.effective()
    name = effective["metadata"]["name"]
    nodes = (effective.get("status") or {}).get("nodes") or {}
    entry = nodes.get(node.node) or {}
    if entry.get("status") == "Failure":
        step = f"mend it: kubectl edit balloonspolicy {name} -n {node.policy.namespace}"
        return Fact(f"{name} is rejected: {entry.get('errors')}", "spoils", step)
    types = ", ".join(each.name for each in existing_types(effective["spec"])) or "none"
    said = "" if entry else " (the plugin has said nothing about it yet)"
    return Fact(f"{name}{said}, mode {node.profile.policy}, balloon types: {types}")


def _stored_lease(node: KubernetesProvisioner) -> Json | None:
    return node.cluster.get(LEASES, lease_name(node.node), node.profile.lease_namespace)


def _lease(node: KubernetesProvisioner) -> Fact:
    found = _stored_lease(node)
    if found is None:
        return Fact("none")
    spec = found.get("spec") or {}
    command = f"kubectl delete lease {lease_name(node.node)} -n {node.profile.lease_namespace}"
    if not spec.get("holderIdentity"):
        return Fact("none: the lease that is there has no holder, the next session takes it")
    if is_fresh(found):
        return Fact(f"{held_by(found)}", "spoils", f"wait until it ends; if nothing of it lives: {command}")
    return Fact(
        f"none lives: {held_by(found)} last renewed its lease at {spec.get('renewTime')}; the next session takes it",
        "notice",
        f"start a session, or: {command}",
    )


def _leftovers(node: KubernetesProvisioner) -> Fact:
    lease = _stored_lease(node)
    if lease is not None and is_fresh(lease):
        return Fact("not asked: what is there belongs to the session that holds the node")
    found = left_behind(node.cluster, node.node, node.profile.lease_namespace, node.profile.namespace)
    own = node.cluster.get(POLICIES, f"node.{node.node}", node.policy.namespace)
    if own is not None and manifests.ORIGINAL in (own["metadata"].get("annotations") or {}):
        found.append(f"{POLICIES.title} {node.policy.namespace}/node.{node.node} (what was there before is in it)")
    if not found:
        return Fact("none")
    shown = ", ".join(found[:8]) + (f" and {len(found) - 8} more" if len(found) > 8 else "")
    return Fact(f"of sessions that were killed: {shown}", "notice", "start a session: it takes all of it away")


def _foreign(node: KubernetesProvisioner) -> Fact:
    if node.profile.policy != "manage":
        return Fact("not asked: mode annotate moves nobody")
    names = node.policy.foreign(node.policy.effective(), node.session_id)
    if names and not node.profile.shared:
        return Fact(", ".join(names), "spoils", "drain them, or accept it with shared = true in the profile")
    return Fact(", ".join(names) or "none")


def _ended(node: KubernetesProvisioner) -> Fact:
    if node.profile.policy != "manage":
        return Fact("not asked: mode annotate does not change the policy")
    pods = node.cluster.find(PODS, fields=f"spec.nodeName={node.node}")
    ended = [pod for pod in pods if (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")]
    if not ended:
        return Fact("none")
    names = ", ".join(f"{pod['metadata']['namespace']}/{pod['metadata']['name']}" for pod in ended[:8])
    return Fact(
        f"{names}: a change of the policy brings dead containers back to their CPUs, and a session waits for their end",
        "notice",
        f"kubectl delete pod {ended[0]['metadata']['name']} -n {ended[0]['metadata']['namespace']}",
    )


def _topology(node: KubernetesProvisioner) -> Fact:
    file = node.topology_file
    return Fact(f"read in this boot, kept in {file}" if file else "not read in this boot: a pod reads it once")


def _pod(node: KubernetesProvisioner) -> Fact:
    read = node.describe().read
    text = read("/proc/sys/kernel/osrelease") or b"?"
    return Fact(f"runs, and shares the node's clock; kernel {text.decode().strip()}")


def _cpus(node: KubernetesProvisioner) -> Fact:
    description = node.describe()
    free, total = description.allowed - description.reserved, len(node.topology().cpus)
    reserved = format_cpus(description.reserved) or "none"
    return Fact(f"{len(free)} of {total} can be given to balloons; reserved: {reserved}")
