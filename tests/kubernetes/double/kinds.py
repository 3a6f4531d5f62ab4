"""What the double serves: groups, kinds and their resources."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """A served resource. `custom` ones live in a CRD: other defaults for generation, deletion answers and patches.
    `older`: a version that discovery names too."""

    group: str
    version: str
    kind: str
    plural: str
    singular: str
    namespaced: bool = True
    custom: bool = False
    status: bool = False
    generation: bool = False
    create_only: bool = False
    older: str = ""

    @property
    def api_version(self) -> str:
        """As objects name it."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """As messages name it: `leases.coordination.k8s.io`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def qualified_kind(self) -> str:
        """As validation messages name it: `Lease.coordination.k8s.io`."""
        return f"{self.kind}.{self.group}" if self.group else self.kind


POLICIES = Kind(
    "config.nri",
    "v1alpha1",
    "BalloonsPolicy",
    "balloonspolicies",
    "balloonspolicy",
    custom=True,
    status=True,
    generation=True,
)
ZONES = Kind(
    "topology.node.k8s.io",
    "v1alpha2",
    "NodeResourceTopology",
    "noderesourcetopologies",
    "noderesourcetopology",
    namespaced=False,
    custom=True,
    generation=True,
    older="v1alpha1",
)
PODS = Kind("", "v1", "Pod", "pods", "pod", status=True, generation=True)
NODES = Kind("", "v1", "Node", "nodes", "node", namespaced=False, status=True)
NAMESPACES = Kind("", "v1", "Namespace", "namespaces", "namespace", namespaced=False)
CONFIG_MAPS = Kind("", "v1", "ConfigMap", "configmaps", "configmap")
EVENTS = Kind("", "v1", "Event", "events", "event")
LEASES = Kind("coordination.k8s.io", "v1", "Lease", "leases", "lease")
DAEMON_SETS = Kind("apps", "v1", "DaemonSet", "daemonsets", "daemonset", status=True, generation=True)
DEFINITIONS = Kind(
    "apiextensions.k8s.io",
    "v1",
    "CustomResourceDefinition",
    "customresourcedefinitions",
    "customresourcedefinition",
    namespaced=False,
    generation=True,
)
REVIEWS = Kind(
    "authorization.k8s.io",
    "v1",
    "SelfSubjectAccessReview",
    "selfsubjectaccessreviews",
    "selfsubjectaccessreview",
    namespaced=False,
    create_only=True,
)

KINDS = (
    POLICIES,
    ZONES,
    PODS,
    NODES,
    NAMESPACES,
    CONFIG_MAPS,
    EVENTS,
    LEASES,
    DAEMON_SETS,
    DEFINITIONS,
    REVIEWS,
)
