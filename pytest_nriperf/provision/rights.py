"""The permissions that a session needs, by policy mode, and whether our user has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_nriperf.errors import ProvisionError
from pytest_nriperf.provision.api_errors import ROLES
from pytest_nriperf.provision.cluster import Cluster
from pytest_nriperf.settings import NodeProfile

OWN, POLICY, LEASE, CLUSTER = "own", "policy", "lease", "cluster"


@dataclass(frozen=True)
class Right:
    """Verbs on a resource in one of the profile's namespaces, or in the whole cluster. Without a right that only
    `explains` a session measures all the same, and says less when something goes wrong."""

    where: str
    resource: str
    verbs: tuple[str, ...]
    group: str = ""
    explains: bool = False


ANNOTATE = (
    Right(OWN, "pods", ("get", "list", "create", "delete")),
    Right(OWN, "pods/exec", ("get", "create")),
    Right(OWN, "pods/log", ("get",), explains=True),
    Right(OWN, "events", ("list",), explains=True),
    Right(OWN, "configmaps", ("get", "list", "create", "delete")),
    Right(LEASE, "leases", ("get", "create", "update", "delete"), "coordination.k8s.io"),
    Right(POLICY, "balloonspolicies", ("get",), "config.nri"),
    Right(POLICY, "pods", ("list",)),
    Right(POLICY, "daemonsets", ("list",), "apps", explains=True),
    Right(CLUSTER, "nodes", ("get",)),
    Right(CLUSTER, "nodes", ("list",), explains=True),
    Right(CLUSTER, "noderesourcetopologies", ("get",), "topology.node.k8s.io"),
)
MANAGE = (
    *ANNOTATE,
    Right(POLICY, "balloonspolicies", ("create", "update", "delete"), "config.nri"),
    Right(CLUSTER, "pods", ("list",)),
)


@dataclass(frozen=True)
class Lack:
    """A permission that our user does not have. `namespace` empty: in the whole cluster."""

    verb: str
    resource: str
    namespace: str
    explains: bool

    def __str__(self) -> str:
        where = f"in namespace {self.namespace}" if self.namespace else "in the whole cluster"
        return f"{self.verb} {self.resource} {where}"

    @property
    def question(self) -> str:
        """The command that asks for it.

        >>> Lack("get", "pods/exec", "perf", explains=False).question
        'kubectl auth can-i get pods/exec -n perf'
        """
        at = f"-n {self.namespace}" if self.namespace else "--all-namespaces"
        return f"kubectl auth can-i {self.verb} {self.resource} {at}"


def needed(profile: NodeProfile) -> tuple[Right, ...]:
    """What a profile's mode needs."""
    return MANAGE if profile.policy == "manage" else ANNOTATE


def missing(cluster: Cluster, profile: NodeProfile) -> list[Lack]:
    """The permissions of the mode that our user lacks."""
    if cluster.may("*", "*", group="*"):
        return []
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
        found += [
            Lack(verb, name, namespace, right.explains)
            for verb in right.verbs
            if not cluster.may(verb, right.resource, namespace, right.group)
        ]
    return found


def check_rights(cluster: Cluster, profile: NodeProfile) -> None:
    """Raises ProvisionError with every permission that is missing, before anything is begun that could not be ended."""
    lacking = [lack for lack in missing(cluster, profile) if not lack.explains]
    if lacking:
        raise ProvisionError(
            f"node {profile.name}: our account may not {listed(lacking)}, which mode {profile.policy} needs",
            f"an administrator grants it: {ROLES}; check with: {lacking[0].question}",
        )


def listed(lacking: Sequence[Lack]) -> str:
    """In words.

    >>> listed([Lack("get", "pods", "a", False), Lack("list", "nodes", "", False)])
    'get pods in namespace a, list nodes in the whole cluster'
    """
    return ", ".join(map(str, lacking))
