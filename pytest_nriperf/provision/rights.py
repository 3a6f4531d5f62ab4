"""The permissions that a session needs, by policy mode, and whether our user has them."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_nriperf.provision.cluster import Cluster
from pytest_nriperf.settings import NodeProfile

OWN, POLICY, LEASE, CLUSTER = "own", "policy", "lease", "cluster"


@dataclass(frozen=True)
class Right:
    """Verbs on a resource in one of the profile's namespaces, or in the whole cluster."""

    where: str
    resource: str
    verbs: tuple[str, ...]
    group: str = ""


ANNOTATE = (
    Right(OWN, "pods", ("get", "list", "create", "delete")),
    Right(OWN, "pods/exec", ("get", "create")),
    Right(OWN, "pods/log", ("get",)),
    Right(OWN, "events", ("list",)),
    Right(OWN, "configmaps", ("get", "list", "create", "delete")),
    Right(LEASE, "leases", ("get", "create", "update", "delete"), "coordination.k8s.io"),
    Right(POLICY, "balloonspolicies", ("get",), "config.nri"),
    Right(POLICY, "pods", ("list",)),
    Right(POLICY, "daemonsets", ("list",), "apps"),
    Right(CLUSTER, "nodes", ("get", "list")),
    Right(CLUSTER, "noderesourcetopologies", ("get",), "topology.node.k8s.io"),
)
MANAGE = (
    *ANNOTATE,
    Right(POLICY, "balloonspolicies", ("create", "update", "delete"), "config.nri"),
    Right(CLUSTER, "pods", ("list",)),
)


def needed(profile: NodeProfile) -> tuple[Right, ...]:
    """What a profile's mode needs."""
    return MANAGE if profile.policy == "manage" else ANNOTATE


def missing(cluster: Cluster, profile: NodeProfile) -> list[str]:
    """The permissions that our user lacks, as `kubectl auth can-i` takes them."""
    namespaces = {
        OWN: profile.namespace,
        POLICY: profile.policy_namespace,
        LEASE: profile.lease_namespace,
        CLUSTER: "",
    }
    found = []
    for right in needed(profile):
        namespace = namespaces[right.where]
        name = f"{right.resource}.{right.group}" if right.group else right.resource
        at = f" -n {namespace}" if namespace else " --all-namespaces"
        found += [
            f"{verb} {name}{at}"
            for verb in right.verbs
            if not cluster.may(verb, right.resource, namespace, right.group)
        ]
    return found
