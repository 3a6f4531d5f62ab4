"""The BalloonsPolicy that a node follows: reading it, changing it for a session, putting back what was there."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_nriperf.errors import EnvironmentFault, ProvisionError
from pytest_nriperf.provision import manifests
from pytest_nriperf.provision.api_errors import ApiFailure
from pytest_nriperf.provision.balloon_types import TypePlan, with_types
from pytest_nriperf.provision.cluster import DAEMON_SETS, NODES, PODS, POLICIES, ZONES, Cluster, wait_until
from pytest_nriperf.topology import Topology
from pytest_nriperf.units import format_cpus, parse_cpus

Json = dict[str, Any]

PLUGIN = "nri-resource-policy-balloons"
GROUP_LABELS = ("config.nri/group", "group.config.nri", "resource-policy.nri.io/group")
VERDICT_S = 30.0
GHOST_S = 75.0


@dataclass(frozen=True)
class Zone:
    """A zone of the NodeResourceTopology: a balloon, or a container in one (`parent`)."""

    name: str
    parent: str
    cpus: frozenset[int]


class NodePolicy:
    """One node's policy. `namespace` is that of the plugin."""

    def __init__(self, cluster: Cluster, node: str, namespace: str) -> None:
        self._cluster = cluster
        self.node = node
        self.namespace = namespace

    # ------------------------------------------------------------------------------------------------------ reading

    def effective(self) -> Json:
        """The object that the node follows: its own, its group's, else the default. Scopes do not merge."""
        own = self._cluster.get(POLICIES, f"node.{self.node}", self.namespace)
        if own is not None:
            return own
        node = self._cluster.get(NODES, self.node) or {}
        labels = (node.get("metadata") or {}).get("labels") or {}
        group = next((labels[key] for key in GROUP_LABELS if key in labels), "")
        name = f"group.{group}" if group else "default"
        found = self._cluster.get(POLICIES, name, self.namespace)
        if found is None:
            because = f" (the node carries the group label {group!r})" if group else ""
            raise EnvironmentFault(
                f"node {self.node} has no BalloonsPolicy: there is neither node.{self.node} nor {name} in namespace "
                f"{self.namespace}{because}",
                "write one, or name the plugin's namespace in the profile (policy_namespace)",
            )
        return found

    def zones(self) -> list[Zone] | None:
        """What the plugin has published, None where it publishes nothing or we may not read it."""
        try:
            found = self._cluster.get(ZONES, self.node)
        except ApiFailure as error:
            if error.status in (403, 404):
                return None
            raise
        if found is None:
            return None
        return [_zone(entry) for entry in found.get("zones") or []]

    def allowed(self, topology: Topology, spec: Json) -> frozenset[int]:
        """The CPUs that balloons may have: availableResources, else all."""
        text = str((spec.get("availableResources") or {}).get("cpu", ""))
        word, _, cpus = text.partition(":")
        if word == "cpuset":
            return topology.online & parse_cpus(cpus)
        return topology.online - parse_cpus(cpus) if word == "exclude-cpuset" else topology.online

    def reserved(self, topology: Topology, spec: Json) -> frozenset[int]:
        """The reserved CPUs: those that the reserved balloon has, else the set that the policy names, else as many
        of the first CPUs as it asks for."""
        text = str((spec.get("reservedResources") or {}).get("cpu", ""))
        word, _, cpus = text.partition(":")
        named = frozenset[int]()
        if word == "cpuset":
            named = parse_cpus(cpus)
        elif word == "exclude-cpuset":
            named = self.allowed(topology, spec) - parse_cpus(cpus)
        held = [zone.cpus for zone in self.zones() or [] if zone.name == "reserved[0]"]
        if held and held[0]:
            return (held[0] | named) & topology.online
        if named or not re.fullmatch(r"[0-9.]+m?", text):
            return named & topology.online
        count = -(-int(float(text.rstrip("m")) * (1 if text.endswith("m") else 1000)) // 1000)
        return frozenset(sorted(self.allowed(topology, spec))[:count])

    # ----------------------------------------------------------------------------------------------------- checking

    def check_installed(self) -> str:
        """The name of the plugin's pod on the node, once it is ready. Raises EnvironmentFault naming what is not."""
        self._cluster.get(POLICIES, f"node.{self.node}", self.namespace)
        selector = f"app.kubernetes.io/name={PLUGIN}"
        fields = f"spec.nodeName={self.node}"
        pods = self._cluster.find(PODS, self.namespace, labels=selector, fields=fields)
        if not pods:
            raise self._no_plugin_pod()
        for pod in pods:
            conditions = (pod.get("status") or {}).get("conditions") or []
            if any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions):
                return str(pod["metadata"]["name"])
        name, phase = pods[0]["metadata"]["name"], (pods[0].get("status") or {}).get("phase")
        raise EnvironmentFault(
            f"node {self.node}: the balloons plugin's pod {name} is not ready (phase {phase})",
            f"see why: kubectl describe pod {name} -n {self.namespace}; kubectl logs {name} -n {self.namespace}",
        )

    def _no_plugin_pod(self) -> EnvironmentFault:
        install = f"helm install {PLUGIN} nri-plugins/{PLUGIN} -n {self.namespace}"
        with contextlib.suppress(ApiFailure):
            if self._cluster.find(DAEMON_SETS, self.namespace, labels=f"app.kubernetes.io/name={PLUGIN}"):
                return EnvironmentFault(
                    f"node {self.node}: the balloons plugin is installed, but its DaemonSet has no pod on this node",
                    f"let it run there (nodeSelector, tolerations): kubectl describe ds {PLUGIN} -n {self.namespace}",
                )
        return EnvironmentFault(
            f"node {self.node}: no balloons plugin runs there (looked in namespace {self.namespace})",
            f"install it ({install}), or name its namespace in the profile (policy_namespace)",
        )

    def foreign(self, effective: Json, session: str) -> list[str]:
        """Pods on the node that a change of the policy would move: all but ours and those of reserved namespaces."""
        reserved = {self.namespace, "kube-system", *(effective["spec"].get("reservedPoolNamespaces") or ())}
        found = []
        for pod in self._cluster.find(PODS, fields=f"spec.nodeName={self.node}"):
            metadata = pod["metadata"]
            live = (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")
            own = (metadata.get("labels") or {}).get(manifests.SESSION) == session
            if live and not own and metadata["namespace"] not in reserved:
                found.append(f"{metadata['namespace']}/{metadata['name']}")
        return sorted(found)

    # ----------------------------------------------------------------------------------------------------- changing

    @contextlib.contextmanager
    def changed(self, plans: Sequence[TypePlan], topology: Topology, session: str, *, shared: bool) -> Iterator[None]:
        """The node's policy with our types, in force; what was there is put back at the end."""
        effective = self.effective()
        foreign = [] if shared else self.foreign(effective, session)
        if foreign:
            shown = ", ".join(foreign[:8]) + (f" and {len(foreign) - 8} more" if len(foreign) > 8 else "")
            raise ProvisionError(
                f"node {self.node} runs other workloads, whose CPUs a change of its policy would move: {shown}",
                "drain them, measure on another node, or accept it with shared = true in the profile",
            )
        body = self._body(effective, plans, topology, session)
        try:
            known = "resourceVersion" in body["metadata"]
            written = self._cluster.replace(POLICIES, body) if known else self._cluster.create(POLICIES, body)
            self._wait_for_verdict(written)
            self._outlive_ghosts(session)
            yield
        finally:
            self.restore()

    def document(self, plans: Sequence[TypePlan], topology: Topology, session: str) -> Json:
        """The node's policy as a session would write it."""
        body = self._body(self.effective(), plans, topology, session)
        body["metadata"].pop("resourceVersion", None)
        return body

    def _body(self, effective: Json, plans: Sequence[TypePlan], topology: Topology, session: str) -> Json:
        reserved = self.reserved(topology, effective["spec"])
        spec = with_types(effective["spec"], plans, format_cpus(reserved) if reserved else "")
        own = effective if effective["metadata"]["name"] == f"node.{self.node}" else None
        metadata = (own or {}).get("metadata") or {}
        return manifests.policy(self.node, self.namespace, spec, metadata, session, _original(own))

    def extend(self, plans: Sequence[TypePlan], instead_of: str = "") -> None:
        """Add types for balloons that nobody announced. Types whose names begin with `instead_of` go: no pod of theirs
        may run."""
        body = self._cluster.get(POLICIES, f"node.{self.node}", self.namespace)
        if body is None or manifests.ORIGINAL not in (body["metadata"].get("annotations") or {}):
            raise ProvisionError(f"node {self.node}: its policy was replaced while we used it", "start again")
        types = body["spec"].get("balloonTypes") or []
        kept = [entry for entry in types if not (instead_of and entry["name"].startswith(instead_of))]
        spec = with_types({**body["spec"], "balloonTypes": kept}, plans, "")
        self._wait_for_verdict(self._cluster.replace(POLICIES, {**body, "spec": spec}))

    def restore(self) -> bool:
        """Put back what was there before a session changed it, also one that was killed; False when nothing is ours."""
        for _ in range(10):
            found = self._cluster.get(POLICIES, f"node.{self.node}", self.namespace)
            annotations = ((found or {}).get("metadata") or {}).get("annotations") or {}
            if found is None or manifests.ORIGINAL not in annotations:
                return False
            original = json.loads(annotations[manifests.ORIGINAL])
            try:
                if original is None:
                    self._cluster.delete(POLICIES, f"node.{self.node}", self.namespace, uid=found["metadata"]["uid"])
                    self._wait_for_any_verdict()
                    return True
                metadata = {key: found["metadata"][key] for key in ("name", "namespace", "resourceVersion")}
                metadata |= {key: original[key] for key in ("labels", "annotations") if original[key] is not None}
                written = self._cluster.replace(POLICIES, {**found, "metadata": metadata, "spec": original["spec"]})
                self._wait_for_verdict(written, strict=False)
            except ApiFailure as error:
                if error.reason != "Conflict":
                    raise
                time.sleep(0.1)
            else:
                return True
        raise ProvisionError(
            f"node {self.node}: its policy changes all the time and could not be restored",
            f"kubectl edit balloonspolicy node.{self.node} -n {self.namespace}: the original is in the annotation "
            f"{manifests.ORIGINAL}",
        )

    def _wait_for_verdict(self, written: Json, *, strict: bool = True) -> None:
        """Until the plugin speaks of this generation or a later one: an older Success proves nothing."""
        generation, name = int(written["metadata"]["generation"]), str(written["metadata"]["name"])

        def verdict() -> Json | None:
            found = self._cluster.get(POLICIES, name, self.namespace) or {}
            entry: Json = ((found.get("status") or {}).get("nodes") or {}).get(self.node) or {}
            return entry if int(entry.get("generation") or 0) >= generation else None

        entry = wait_until(verdict, VERDICT_S, first_s=0.02)
        if not strict:
            return
        if entry is None:
            raise ProvisionError(
                f"node {self.node}: the balloons plugin says nothing about our change of {name} for {VERDICT_S:g} s",
                f"see whether it lives and is connected: kubectl logs -n {self.namespace} ds/{PLUGIN}",
            )
        if entry.get("status") != "Success":
            raise ProvisionError(
                f"node {self.node}: the balloons plugin rejects our change of {name}: {entry.get('errors')}",
                "this is most likely a conflict with the types that are there: see them with "
                f"kubectl get balloonspolicy -n {self.namespace} -o yaml",
            )

    def _wait_for_any_verdict(self) -> None:
        """After our object is deleted the node falls back to another one."""

        def fallen_back() -> bool:
            try:
                nodes = (self.effective().get("status") or {}).get("nodes") or {}
            except EnvironmentFault:
                return True
            return self.node in nodes

        wait_until(fallen_back, VERDICT_S, first_s=0.02)

    def _outlive_ghosts(self, session: str) -> None:
        """A change assigns dead containers again that nobody has removed yet; their CPUs come free only with another
        change after they are gone."""
        if not self._ghosts():
            return
        ghosts = wait_until(lambda: None if self._ghosts() else "gone", GHOST_S)
        if ghosts is None:
            raise ProvisionError(
                f"node {self.node}: dead containers hold CPUs after the change of the policy: "
                f"{', '.join(self._ghosts())}",
                "delete their pods (completed Jobs), wait a minute and start again",
            )
        body = self._cluster.get(POLICIES, f"node.{self.node}", self.namespace)
        assert body is not None
        touch = {"name": f"nriperf-{session}-touch", "maxBalloons": 1}
        spec = {**body["spec"], "balloonTypes": [*body["spec"]["balloonTypes"], touch]}
        self._wait_for_verdict(self._cluster.replace(POLICIES, {**body, "spec": spec}))

    def _ghosts(self) -> list[str]:
        """Container zones whose pod is not there or does not run."""
        containers = [zone.name for zone in self.zones() or [] if zone.parent]
        if not containers:
            return []
        live = {
            f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
            for pod in self._cluster.find(PODS, fields=f"spec.nodeName={self.node}")
            if (pod.get("status") or {}).get("phase") in ("Pending", "Running")
        }
        return sorted(name for name in containers if name.rpartition("/")[0] not in live)


def _original(own: Json | None) -> str:
    """What to put back, as JSON: null when there was no object."""
    if own is None:
        return "null"
    metadata = own["metadata"]
    kept = {key: metadata.get(key) for key in ("labels", "annotations")}
    return json.dumps({"spec": own["spec"], **kept}, sort_keys=True)


def _zone(entry: Json) -> Zone:
    """A zone; its cpuset may be the empty string, and of composites it is the union."""
    attributes = {item["name"]: item["value"] for item in entry.get("attributes") or []}
    text = str(attributes.get("cpuset", ""))
    cpus = parse_cpus(text) if re.fullmatch(r"[0-9,\-]+", text) else frozenset[int]()
    return Zone(str(entry.get("name")), str(entry.get("parent", "")), cpus)
