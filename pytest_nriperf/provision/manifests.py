"""From balloons to the objects that a cluster gets: pods, the ConfigMap of what runs in them, the policy.

Pure, and the only place that knows these documents' form. What must not outlive a session is labelled with it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_nriperf.balloons import Placement
from pytest_nriperf.provision.balloon_types import TypeChoice
from pytest_nriperf.settings import NodeProfile
from pytest_nriperf.topology import Topology

Json = dict[str, Any]

MANAGED_BY = {"app.kubernetes.io/managed-by": "pytest-nriperf"}
SESSION, NODE, ROLE = "nriperf/session", "nriperf/node", "nriperf/role"
ORIGINAL = "nriperf/original"
BALLOON = "balloon.balloons.resource-policy.nri.io"
HIDE = "hide-hyperthreads.resource-policy.nri.io"
CONTAINER = "worker"
FILES, RUN = "/nriperf", "/nriperf-run"
AGENT, RELAY = "pod.py", "pod_relay.py"
GRACE_S = 5
# The last net for a pod whose owner and whose session are both gone.
DEADLINE_S = 24 * 3600
# Of an object that somebody else made: its version, and whose it is.
KEPT = ("resourceVersion", "ownerReferences", "finalizers")
STOCK_IMAGE = "docker.io/library/python:3.12-slim"


@dataclass(frozen=True)
class Owner:
    """An object that takes its dependants with it when it goes."""

    name: str
    uid: str


@dataclass(frozen=True)
class PodPlan:
    """One pod. `memory` is a quantity for the limit, empty for none; `cpus` 0 for pods outside the balloons;
    `host_pid`: it sees all processes of its node."""

    name: str
    role: str
    cpus: int = 0
    choice: TypeChoice | None = None
    memory: str = ""
    host_pid: bool = False


def node_label(node: str) -> str:
    """A node's name as a label's value: at most 63 characters.

    >>> node_label("xeon1"), len(node_label("x" * 80))
    ('xeon1', 63)
    """
    if len(node) <= 63:
        return node
    return f"{node[:54].rstrip('.-')}-{hashlib.sha256(node.encode()).hexdigest()[:8]}"


def object_name(session: str, *parts: object) -> str:
    """A name of ours, valid as a DNS label.

    >>> object_name("1a2b3c", "chat", 0)
    'nriperf-1a2b3c-chat-0'
    """
    text = "-".join(["nriperf", session, *(str(part) for part in parts)]).lower()
    return re.sub(r"[^a-z0-9-]+", "-", text)[:63].strip("-")


def labels(session: str, node: str, role: str) -> dict[str, str]:
    """What marks an object as ours."""
    return {**MANAGED_BY, SESSION: session, NODE: node_label(node), ROLE: role}


def ours(node: str = "", session: str = "") -> str:
    """A selector of our objects: of everybody, of a node, of a session."""
    words = [f"{key}={value}" for key, value in MANAGED_BY.items()]
    words += [f"{NODE}={node_label(node)}"] if node else []
    words += [f"{SESSION}={session}"] if session else []
    return ",".join(words)


def archive_name(archive: bytes) -> str:
    """What an archive is called in a pod: by its content.

    >>> archive_name(b"zip")
    'worker-4a70fe9aa643.zip'
    """
    return f"worker-{hashlib.sha256(archive).hexdigest()[:12]}.zip"


def archive_path(archive: bytes, folder: str = FILES) -> str:
    """Where an archive lies in a pod."""
    return f"{folder}/{archive_name(archive)}"


def config_map(session: str, node: str, namespace: str, archive: bytes) -> Json:
    """The files that travel into the pods."""
    here = Path(__file__)
    binary = {archive_name(archive): base64.b64encode(archive).decode()} if archive else {}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": object_name(session, "files"),
            "namespace": namespace,
            "labels": labels(session, node, "files"),
        },
        "data": {name: here.with_name(name).read_text(encoding="utf-8") for name in (AGENT, RELAY)},
        "binaryData": binary,
    }


def pod(plan: PodPlan, profile: NodeProfile, node: str, session: str, files: str, owner: Owner | None) -> Json:
    """A pod that waits until it is deleted. Workers are started in it by exec."""
    annotations = {}
    if plan.choice is not None:
        annotations[f"{BALLOON}/container.{CONTAINER}"] = plan.choice.name
        if plan.choice.hide:
            annotations[f"{HIDE}/container.{CONTAINER}"] = "true"
    metadata: Json = {
        "name": plan.name,
        "namespace": profile.namespace,
        "labels": labels(session, node, plan.role),
        "annotations": annotations,
    }
    if owner is not None:
        metadata["ownerReferences"] = [
            {"apiVersion": "v1", "kind": "ConfigMap", "name": owner.name, "uid": owner.uid, "controller": True}
        ]
    field = {"key": "metadata.name", "operator": "In", "values": [node]}
    required = {"nodeSelectorTerms": [{"matchFields": [field]}]}
    spec: Json = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": GRACE_S,
        "activeDeadlineSeconds": DEADLINE_S,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}},
        "containers": [_container(plan, profile)],
        "volumes": _volumes(profile, files),
    }
    if profile.tolerations:
        spec["tolerations"] = [dict(entry) for entry in profile.tolerations]
    if profile.service_account:
        spec["serviceAccountName"] = profile.service_account
    if profile.pull_secret:
        spec["imagePullSecrets"] = [{"name": profile.pull_secret}]
    if plan.host_pid:
        spec["hostPID"] = True
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _container(plan: PodPlan, profile: NodeProfile) -> Json:
    container: Json = {
        "name": CONTAINER,
        "image": profile.image or STOCK_IMAGE,
        "command": [profile.python, f"{FILES}/{AGENT}", "wait"],
        "volumeMounts": [
            {"name": "files", "mountPath": FILES, "readOnly": True},
            {"name": "run", "mountPath": RUN},
        ],
        "securityContext": {"allowPrivilegeEscalation": False},
    }
    where = profile.model_path
    if profile.model_claim or profile.model_host_path:
        container["volumeMounts"].append({"name": "model", "mountPath": where, "readOnly": True})
    if plan.cpus:
        container["resources"] = _resources(plan, profile)
    return container


def _resources(plan: PodPlan, profile: NodeProfile) -> Json:
    """CPU requests = limits = what is allocated. The memory limit of the profile is requested too; one that we chose
    only bounds what is pinned, so it is not."""
    amounts: dict[str, str] = {"cpu": str(plan.cpus), **profile.resources}
    if profile.memory_limit:
        amounts["memory"] = profile.memory_limit
    limits = {**({"memory": plan.memory} if plan.memory else {}), **amounts}
    requests = {**({"memory": "256Mi"} if plan.memory and not profile.memory_limit else {}), **amounts}
    return {"requests": requests, "limits": limits}


def memory_limit(placement: Placement, number: int, topology: Topology, profile: NodeProfile) -> str:
    """Pinned memory is widened only for containers that declare a limit: nine tenths of the replica's NUMA nodes,
    shared with the other replicas there. Empty where the profile has its own, the node tells no sizes, or nothing is
    pinned."""
    nodes = set(placement.replicas[number].memory_nodes)
    if not nodes or profile.memory_limit or placement.spec.memory != "local":
        return ""
    sharing = sum(1 for replica in placement.replicas if nodes & set(replica.memory_nodes))
    size = sum(topology.node(node).memory_bytes or 0 for node in nodes)
    return f"{size * 9 // 10 // sharing >> 20}Mi" if size else ""


def _volumes(profile: NodeProfile, files: str) -> list[Json]:
    volumes: list[Json] = [{"name": "files", "configMap": {"name": files}}, {"name": "run", "emptyDir": {}}]
    if profile.model_claim:
        volumes.append({"name": "model", "persistentVolumeClaim": {"claimName": profile.model_claim, "readOnly": True}})
    elif profile.model_host_path:
        volumes.append({"name": "model", "hostPath": {"path": profile.model_host_path, "type": "Directory"}})
    return volumes


def policy(node: str, namespace: str, spec: Json, metadata: Mapping[str, Any], session: str, original: str) -> Json:
    """The node's policy with our types. `original` (JSON) is what to put back; it travels in the object itself, so
    that whoever finds it can."""
    kept = {key: dict(metadata.get(key) or {}) for key in ("labels", "annotations")}
    body: Json = {
        "apiVersion": "config.nri/v1alpha1",
        "kind": "BalloonsPolicy",
        "metadata": {
            "name": f"node.{node}",
            "namespace": namespace,
            "labels": {**kept["labels"], **MANAGED_BY},
            "annotations": {**kept["annotations"], SESSION: session, ORIGINAL: original},
        },
        "spec": spec,
    }
    body["metadata"] |= {key: metadata[key] for key in KEPT if key in metadata}
    return body


def to_yaml(value: Any, indent: int = 0) -> str:
    """A document as block-style YAML; scalars as in JSON, which is YAML too.

    >>> print(to_yaml({"kind": "Pod", "spec": {"containers": [{"name": "c", "args": []}]}}))
    kind: "Pod"
    spec:
      containers:
      - name: "c"
        args: []
    """
    pad = " " * indent
    if isinstance(value, dict) and value:
        return "\n".join(f"{pad}{_key(key)}:{_member(member, indent)}" for key, member in value.items())
    if isinstance(value, list) and value:
        return "\n".join(f"{pad}- {to_yaml(member, indent + 2).lstrip()}" for member in value)
    return pad + json.dumps(value)


def _key(key: str) -> str:
    return (
        key if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]*", key) and key not in ("y", "n", "on", "off") else json.dumps(key)
    )


def _member(value: Any, indent: int) -> str:
    if isinstance(value, str) and value.count("\n") > 1 and _is_plain_text(value):
        pad = " " * (indent + 2)
        return " |\n" + "\n".join(pad + line if line else "" for line in value.splitlines())
    if isinstance(value, dict) and value:
        return "\n" + to_yaml(value, indent + 2)
    if isinstance(value, list) and value:
        return "\n" + to_yaml(value, indent)
    return " " + json.dumps(value)


def _is_plain_text(text: str) -> bool:
    lines = text.split("\n")
    return (
        text.isascii()
        and text.endswith("\n")
        and not text.endswith("\n\n")
        and not lines[0].startswith(" ")
        and all(line == line.rstrip() and "\t" not in line and line.isprintable() for line in lines)
    )
