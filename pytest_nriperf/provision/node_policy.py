"""The BalloonsPolicy that a node follows: reading it, changing it for a session, putting back what was there."""

from __future__ import annotations

import contextlib
import fnmatch
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pytest_nriperf.errors import EnvironmentFault, NriperfError, ProvisionError
from pytest_nriperf.provision import manifests
from pytest_nriperf.provision.api_errors import ApiFailure
from pytest_nriperf.provision.balloon_types import TypePlan, is_mark, mark, with_types
from pytest_nriperf.provision.cluster import DAEMON_SETS, NODES, PODS, POLICIES, Cluster, wait_until
from pytest_nriperf.provision.policy_zones import RESERVED, Zone, cpus_by_type, ghosts, is_publishing, read_zones
from pytest_nriperf.topology import Topology
from pytest_nriperf.units import format_cpus, parse_cpus

Json = dict[str, Any]

PLUGIN = "nri-resource-policy-balloons"
GROUP_LABELS = ("config.nri/group", "group.config.nri", "resource-policy.nri.io/group")
VERDICT_S = 30.0
# The plugin publishes its zones beside its verdict, not before it.
PUBLISHED_S = 10.0
GHOST_S = 75.0


class HauntedError(ProvisionError):
    """Dead containers hold CPUs, and stay."""


class NodePolicy:
    """One node's policy. `namespace` is that of the plugin; `shared`: others may run on the node, so balloons of their
    ended pods are accepted as those of running ones are."""

    def __init__(self, cluster: Cluster, node: str, namespace: str, *, shared: bool = False) -> None:
        self._cluster = cluster
        self.node = node
        self.namespace = namespace
        self._shared = shared
        self._writes = 0

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

    def rejection(self, effective: Json) -> str:
        """What the plugin says against the node's policy, empty when it says nothing."""
        entry = self._verdict_in(effective)
        return str(entry.get("errors") or "no reason given") if entry.get("status") == "Failure" else ""

    def zones(self) -> list[Zone] | None:
        """What the plugin has published, None where it publishes nothing or we may not read it."""
        return read_zones(self._cluster, self.node)

    def allowed(self, topology: Topology, spec: Json) -> frozenset[int]:
        """The CPUs that balloons may have: availableResources, else all."""
        text = str((spec.get("availableResources") or {}).get("cpu", ""))
        word, _, cpus = text.partition(":")
        if word == "cpuset":
            return topology.online & parse_cpus(cpus)
        return topology.online - parse_cpus(cpus) if word == "exclude-cpuset" else topology.online

    def reserved(self, topology: Topology, spec: Json, *, guess: bool = True) -> frozenset[int]:
        """The reserved CPUs: those that the reserved balloon has and the set that the policy names; where neither is
        known a guess: as many of the first CPUs as the policy asks for."""
        text = str((spec.get("reservedResources") or {}).get("cpu", ""))
        word, _, cpus = text.partition(":")
        named = frozenset[int]()
        if word == "cpuset":
            named = parse_cpus(cpus)
        elif word == "exclude-cpuset":
            named = self.allowed(topology, spec) - parse_cpus(cpus)
        zones = (self.zones() if is_publishing(spec) else None) or ()
        named = named.union(*(zone.cpus for zone in zones if zone.name == RESERVED)) & topology.online
        if named or not guess or not re.fullmatch(r"[0-9.]+m?", text):
            return named
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
        unseen = ""
        try:
            if self._cluster.find(DAEMON_SETS, self.namespace, labels=f"app.kubernetes.io/name={PLUGIN}"):
                return EnvironmentFault(
                    f"node {self.node}: the balloons plugin is installed, but its DaemonSet has no pod on this node",
                    f"let it run there (nodeSelector, tolerations): kubectl describe ds {PLUGIN} -n {self.namespace}",
                )
        except ApiFailure as error:
            unseen = f"; whether it is installed cannot be seen: {error.fact}"
        return EnvironmentFault(
            f"node {self.node}: no balloons plugin runs there (looked in namespace {self.namespace}{unseen})",
            f"install it ({install}), or name its namespace in the profile (policy_namespace)",
        )

    def foreign(self, effective: Json, session: str) -> list[str]:
        """Pods on the node that a change of the policy would move: all but ours, the plugin's and those of namespaces
        that go to the reserved balloon. DaemonSets count: their CPUs move too."""
        types = effective["spec"].get("balloonTypes") or []
        reserved = ["kube-system", *(effective["spec"].get("reservedPoolNamespaces") or ())]
        reserved += [glob for entry in types if entry["name"] == "reserved" for glob in entry.get("namespaces") or ()]
        found = []
        for pod in self._cluster.find(PODS, fields=f"spec.nodeName={self.node}"):
            metadata = pod["metadata"]
            labels, namespace = metadata.get("labels") or {}, metadata["namespace"]
            live = (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")
            plugin = namespace == self.namespace and labels.get("app.kubernetes.io/name") == PLUGIN
            aside = plugin or any(fnmatch.fnmatchcase(namespace, glob) for glob in reserved)
            if live and not aside and labels.get(manifests.SESSION) != session:
                found.append(f"{namespace}/{metadata['name']}")
        return sorted(found)

    # ----------------------------------------------------------------------------------------------------- changing

    @contextlib.contextmanager
    def changed(self, plans: Sequence[TypePlan], topology: Topology, session: str) -> Iterator[None]:
        """The node's policy with our types, in force; what was there is put back at the end, and in force again."""
        effective = self.effective()
        foreign = [] if self._shared else self.foreign(effective, session)
        if foreign:
            shown = ", ".join(foreign[:8]) + (f" and {len(foreign) - 8} more" if len(foreign) > 8 else "")
            raise ProvisionError(
                f"node {self.node} runs other workloads, whose CPUs a change of its policy would move: {shown}",
                "drain them, measure on another node, or accept it with shared = true in the profile",
            )
        before = cpus_by_type(self.zones()) if is_publishing(effective["spec"]) else None
        with contextlib.ExitStack() as undo:
            undo.push(lambda _kind, error, _trace: self._put_back(session, before, error))
            reserved = format_cpus(self.reserved(topology, effective["spec"]))
            self._write(self._body(effective, [*plans, self._mark(session)], session, reserved))
            self._outlive_ghosts(session)
            yield

    def document(self, plans: Sequence[TypePlan], topology: Topology, session: str) -> Json:
        """The node's policy as a session would write it."""
        effective = self.effective()
        body = self._body(effective, plans, session, format_cpus(self.reserved(topology, effective["spec"])))
        body["metadata"].pop("resourceVersion", None)
        return body

    def extend(self, plans: Sequence[TypePlan], session: str, *, instead: bool = False) -> None:
        """Add types for balloons that nobody announced; `instead` of all others of the session, none of whose pods may
        run then."""
        self._change(plans, session, instead=instead)
        self._outlive_ghosts(session)

    def restore(self, session: str = "") -> bool:
        """Put back what was there before a session changed it, also one that was killed; with `session` only what that
        one wrote: who took the node over has put it back, and may have written its own. False when there is nothing.

        Raises ProvisionError when the node does not follow it again.
        """
        for _ in range(10):
            found = self._cluster.get(POLICIES, f"node.{self.node}", self.namespace)
            if found is None or not _written_by(found, session):
                return False
            metadata = found["metadata"]
            original = json.loads(metadata["annotations"][manifests.ORIGINAL])
            try:
                if original is None:
                    as_read = {"uid": metadata["uid"], "version": metadata["resourceVersion"]}
                    self._cluster.delete(POLICIES, metadata["name"], self.namespace, **as_read)
                    entry = self._fallen_back()
                else:
                    entry = self._verdict(self._cluster.replace(POLICIES, _as_it_was(found, original)))
            except ApiFailure as error:
                if error.reason != "Conflict":
                    raise
                time.sleep(0.1)
            else:
                self._check(entry, "the policy that was there before", "until it does the node may follow ours: ")
                return True
        raise ProvisionError(
            f"node {self.node}: its policy changes all the time and could not be restored",
            f"kubectl edit balloonspolicy node.{self.node} -n {self.namespace}: the original is in the annotation "
            f"{manifests.ORIGINAL}",
        )

    def leave_no_ghosts(self, session: str, before: Counter[str] | None = None) -> None:
        """After `restore`, since that was a change too: dead containers that it brought back are outlived. `before`:
        the CPUs that balloons of each type had held. Raises ProvisionError with what stays."""
        effective = self.effective()
        if not self._strange(effective, session, before):
            return
        try:
            self._write(self._body(effective, [self._mark(session)], session, ""))
            self._outlive_ghosts(session)
        finally:
            self.restore(session)
        if left := self._strange(effective, session, before):
            raise self._haunted(left)

    # ------------------------------------------------------------------------------------------------------- inside

    def _body(self, effective: Json, plans: Sequence[TypePlan], session: str, reserved: str) -> Json:
        spec = with_types(effective["spec"], plans, reserved)
        own = effective if effective["metadata"]["name"] == f"node.{self.node}" else None
        metadata = (own or {}).get("metadata") or {}
        return manifests.policy(self.node, self.namespace, spec, metadata, session, _original(own))

    def _change(self, plans: Sequence[TypePlan], session: str, *, instead: bool = False) -> None:
        """Our object with more types, and a new mark in place of the old one."""
        body = self._cluster.get(POLICIES, f"node.{self.node}", self.namespace)
        if body is None or not _written_by(body, session):
            raise ProvisionError(f"node {self.node}: its policy was replaced while we used it", "start again")
        types, stem = body["spec"].get("balloonTypes") or [], f"nriperf-{session}-"
        kept = [each for each in types if not (is_mark(each["name"]) or (instead and each["name"].startswith(stem)))]
        spec = with_types({**body["spec"], "balloonTypes": kept}, [*plans, self._mark(session)], "")
        self._write({**body, "spec": spec})

    def _mark(self, session: str) -> TypePlan:
        self._writes += 1
        return mark(session, self._writes)

    def _write(self, body: Json) -> None:
        """Until the node follows it and has published that."""
        known = "resourceVersion" in body["metadata"]
        written = self._cluster.replace(POLICIES, body) if known else self._cluster.create(POLICIES, body)
        name, entry = written["metadata"]["name"], self._verdict(written)
        if entry is not None and int(entry["generation"]) > int(written["metadata"]["generation"]):
            raise ProvisionError(
                f"node {self.node}: somebody else changed {name} right after us",
                "see who writes it (kubectl get balloonspolicy -o yaml --show-managed-fields), and start again",
            )
        self._check(entry, f"our change of {name}", "most likely it goes ill with the types that are there: ")
        marks = {f"{entry['name']}[0]" for entry in body["spec"]["balloonTypes"] if is_mark(entry["name"])}
        self._wait_for_zones(lambda names: marks <= names)

    def _wait_for_zones(self, holds: Callable[[set[str]], bool]) -> None:
        def told() -> bool:
            zones = self.zones()
            return zones is None or holds({zone.name for zone in zones})

        wait_until(told, PUBLISHED_S, first_s=0.02)

    def _put_back(self, session: str, before: Counter[str] | None, error: BaseException | None) -> None:
        """The end of a change. What led here is told, and told first."""
        try:
            if self.restore(session) and not isinstance(error, HauntedError):
                self.leave_no_ghosts(session, before)
        except NriperfError as second:
            if error is None:
                raise
            if isinstance(error, NriperfError):
                raise ProvisionError(f"{error.fact}; and then: {second}", error.next_step) from error
            error.add_note(str(second))

    def _verdict_in(self, found: Json | None) -> Json:
        entry: Json = (((found or {}).get("status") or {}).get("nodes") or {}).get(self.node) or {}
        return entry

    def _verdict(self, written: Json) -> Json | None:
        """What the plugin says of this generation or a later one: an older Success proves nothing. None when it says
        nothing."""
        generation, name = int(written["metadata"]["generation"]), str(written["metadata"]["name"])

        def verdict() -> Json | None:
            entry = self._verdict_in(self._cluster.get(POLICIES, name, self.namespace))
            return entry if int(entry.get("generation") or 0) >= generation else None

        entry: Json | None = wait_until(verdict, VERDICT_S, first_s=0.02)
        return entry

    def _fallen_back(self) -> Json | None:
        """After our object was deleted: what the plugin says of the one that the node follows now."""
        entry: Json = wait_until(lambda: self._verdict_in(self.effective()), VERDICT_S, first_s=0.02)
        return entry or None

    def _check(self, entry: Json | None, what: str, hint: str) -> None:
        if entry is None:
            raise ProvisionError(
                f"node {self.node}: the balloons plugin says nothing about {what} for {VERDICT_S:g} s",
                f"see whether it lives and is connected: kubectl logs -n {self.namespace} ds/{PLUGIN}",
            )
        if entry.get("status") != "Success":
            raise ProvisionError(
                f"node {self.node}: the balloons plugin rejects {what}: {entry.get('errors')}",
                f"{hint}kubectl get balloonspolicy -n {self.namespace} -o yaml",
            )

    def _outlive_ghosts(self, session: str) -> None:
        """A change assigns dead containers again that nobody has removed yet; their CPUs come free only with another
        change after they are gone."""
        deadline = time.monotonic() + GHOST_S
        while self._ghosts():
            if not wait_until(lambda: not self._ghosts(), max(0.0, deadline - time.monotonic())):
                raise self._haunted(self._ghosts())
            self._change([], session)

    def _ghosts(self) -> list[str]:
        return [ghost.name for ghost in ghosts(self._cluster, self.node) if not (self._shared and ghost.exists)]

    def _strange(self, effective: Json, session: str, before: Counter[str] | None) -> list[str]:
        """Ghosts, and (where the policy shows no containers) types that hold more CPUs than before, though nobody else
        runs there."""
        if not is_publishing(effective["spec"]):
            return []
        self._wait_for_zones(lambda names: not any(name.startswith("nriperf-") for name in names))
        grown = None if before is None else cpus_by_type(self.zones()) - before
        found = self._ghosts()
        if found or not grown or self.foreign(effective, session):
            return found
        return [f"{count} of balloon type {name}" for name, count in sorted(grown.items())]

    def _haunted(self, names: Sequence[str]) -> HauntedError:
        return HauntedError(
            f"node {self.node}: dead containers hold CPUs after its policy was changed: {', '.join(names)}",
            "delete their pods (completed Jobs), wait a minute and start again",
        )


def _written_by(policy: Json, session: str) -> bool:
    """Whether a policy is that of a session, of any when none is named."""
    annotations = policy["metadata"].get("annotations") or {}
    return manifests.ORIGINAL in annotations and session in ("", annotations.get(manifests.SESSION))


def _original(own: Json | None) -> str:
    """What to put back, as JSON: null when there was no object."""
    if own is None:
        return "null"
    metadata = own["metadata"]
    kept = {key: metadata.get(key) for key in ("labels", "annotations")}
    return json.dumps({"spec": own["spec"], **kept}, sort_keys=True)


def _as_it_was(found: Json, original: Json) -> Json:
    """Our object with what was there before: whose it is otherwise (owners, finalizers) we have not changed."""
    kept = ("name", "namespace", *manifests.KEPT)
    metadata = {key: found["metadata"][key] for key in kept if key in found["metadata"]}
    metadata |= {key: original[key] for key in ("labels", "annotations") if original[key] is not None}
    return {**found, "metadata": metadata, "spec": original["spec"]}
