"""What the API server checks and fills in of each kind before it stores an object."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from tests.kubernetes.double import answers
from tests.kubernetes.double.kinds import (
    CONFIG_MAPS,
    DAEMON_SETS,
    EVENTS,
    LEASES,
    NAMESPACES,
    NODES,
    PODS,
    POLICIES,
    ZONES,
    Json,
    Kind,
)
from tests.kubernetes.double.schema import pruned, typed_schema, unknown_fields, violations
from tests.kubernetes.double.schemas import BALLOONS_POLICY, NODE_RESOURCE_TOPOLOGY

_MODELS = {
    PODS: "V1Pod",
    NODES: "V1Node",
    NAMESPACES: "V1Namespace",
    CONFIG_MAPS: "V1ConfigMap",
    EVENTS: "CoreV1Event",
    LEASES: "V1Lease",
    DAEMON_SETS: "V1DaemonSet",
}
_SUBDOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_MICRO_TIME = "2006-01-02T15:04:05.000000Z07:00"


@cache
def _typed(model: str) -> Json:
    return typed_schema(model)


class Schemas:
    """The schema of every kind. The custom ones may be replaced by those of real CRDs."""

    def __init__(self) -> None:
        self.custom: dict[Kind, Json] = {POLICIES: BALLOONS_POLICY, ZONES: NODE_RESOURCE_TOPOLOGY}

    def of(self, kind: Kind) -> Json:
        """The schema of a kind, open where nothing is known."""
        if kind in self.custom:
            return self.custom[kind]
        return _typed(_MODELS[kind]) if kind in _MODELS else {}

    def unknown(self, kind: Kind, body: Json) -> list[str]:
        """Unknown fields, in the order of their paths' text."""
        checked = {key: value for key, value in body.items() if key != "metadata" or not kind.custom}
        return sorted(unknown_fields(checked, self.of(kind)))

    def completed(self, kind: Kind, body: Json) -> Json:
        """Without unknown fields, with defaults. Metadata stays as it is."""
        result: Json = pruned({key: value for key, value in body.items() if key != "metadata"}, self.of(kind))
        return {**result, "metadata": body.get("metadata", {})}


def check(kind: Kind, body: Json, schemas: Schemas) -> None:
    """Refused when the object is not valid."""
    name = str(body.get("metadata", {}).get("name", ""))
    if not re.fullmatch(_SUBDOMAIN, name):
        text = (
            f'Invalid value: "{name}": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric '
            "characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', "
            f"regex used for validation is '{_SUBDOMAIN}')"
        )
        raise answers.invalid(kind, name, [{"reason": "FieldValueInvalid", "message": text, "field": "metadata.name"}])
    if kind.custom:
        causes = list(violations({k: v for k, v in body.items() if k != "metadata"}, schemas.of(kind)))
        if causes:
            raise answers.invalid(kind, name, causes, unchecked=True)
    elif kind is LEASES:
        _check_lease(kind, name, body.get("spec") or {})
    elif kind is PODS:
        _check_pod(kind, name, body)
    elif kind is CONFIG_MAPS:
        _check_size(kind, name, body)


def _check_lease(kind: Kind, name: str, spec: Json) -> None:
    for key in ("acquireTime", "renewTime"):
        if key in spec:
            _check_micro_time(kind, str(spec[key]))
    if spec.get("leaseDurationSeconds", 1) <= 0:
        text = f"Invalid value: {spec['leaseDurationSeconds']}: must be greater than 0"
        cause = {"reason": "FieldValueInvalid", "message": text, "field": "spec.leaseDurationSeconds"}
        raise answers.invalid(kind, name, [cause])


def _check_micro_time(kind: Kind, text: str) -> None:
    if re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d\d:\d\d)", text):
        return
    part, layout = text[19:], ".000000"
    if text[10:11] != "T":
        part, layout = text[10:], "T"
    raise answers.undecodable(kind, f'parsing time "{text}" as "{_MICRO_TIME}": cannot parse "{part}" as "{layout}"')


def _check_pod(kind: Kind, name: str, body: Json) -> None:
    causes: list[Json] = []
    for key in body["metadata"].get("annotations") or {}:
        part = key.rpartition("/")[2]
        if len(part) > 63:
            text = f'Invalid value: "{key}": name part must be no more than 63 bytes'
            causes.append({"reason": "FieldValueInvalid", "message": text, "field": "metadata.annotations"})
    for number, container in enumerate(body["spec"].get("containers", [])):
        resources = container.get("resources") or {}
        limits = resources.get("limits") or {}
        for resource, amount in (resources.get("requests") or {}).items():
            if resource in limits and quantity(amount) > quantity(limits[resource]):
                text = (
                    f'Invalid value: "{amount}": must be less than or equal to {resource} limit of {limits[resource]}'
                )
                field = f"spec.containers[{number}].resources.requests"
                causes.append({"reason": "FieldValueInvalid", "message": text, "field": field})
    if causes:
        raise answers.invalid(kind, name, causes)


def _check_size(kind: Kind, name: str, body: Json) -> None:
    size = sum(len(value) for value in (body.get("data") or {}).values())
    size += sum(len(value) * 3 // 4 for value in (body.get("binaryData") or {}).values())
    if size > 1 << 20:
        cause = {"reason": "FieldValueTooLong", "message": "Too long: may not be more than 1048576 bytes", "field": ""}
        raise answers.invalid(kind, name, [cause])


def quantity(text: Any) -> float:
    """A Kubernetes quantity as a number.

    >>> quantity("250m"), quantity("64Mi"), quantity(2)
    (0.25, 67108864.0, 2.0)
    """
    match = re.fullmatch(r"([0-9.]+)([a-zA-Z]*)", str(text))
    assert match is not None, text
    scale = {"": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30}
    return float(match[1]) * scale[match[2]]


def fill(kind: Kind, body: Json) -> None:
    """Defaults of built-in kinds."""
    if kind is not PODS:
        return
    spec = body["spec"]
    for container in spec["containers"]:
        container.setdefault("resources", {})
        container.setdefault("terminationMessagePath", "/dev/termination-log")
        container.setdefault("terminationMessagePolicy", "File")
        latest = ":" not in container["image"].rpartition("/")[2] or container["image"].endswith(":latest")
        container.setdefault("imagePullPolicy", "Always" if latest else "IfNotPresent")
        limits, requests = container["resources"].get("limits") or {}, container["resources"].get("requests") or {}
        if limits:
            container["resources"]["requests"] = {**limits, **requests}
    for key, value in {
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": 30,
        "dnsPolicy": "ClusterFirst",
        "serviceAccountName": "default",
        "securityContext": {},
        "schedulerName": "default-scheduler",
        "priority": 0,
        "enableServiceLinks": True,
        "preemptionPolicy": "PreemptLowerPriority",
    }.items():
        spec.setdefault(key, value)
    spec.setdefault("serviceAccount", spec["serviceAccountName"])
    tolerations = spec.setdefault("tolerations", [])
    for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"):
        tolerations.append({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300})
    body["status"] = {"phase": "Pending", "qosClass": _qos(spec)}


def _qos(spec: Json) -> str:
    resources = [container["resources"] for container in spec["containers"]]
    if not any(entry.get("requests") or entry.get("limits") for entry in resources):
        return "BestEffort"
    for entry in resources:
        limits = entry.get("limits") or {}
        if not {"cpu", "memory"} <= set(limits) or entry.get("requests") != limits:
            return "Burstable"
    return "Guaranteed"


def admit(kind: Kind, body: Json, namespace: Json) -> None:
    """Pod Security: a namespace that enforces baseline or restricted takes no pod with the node's PIDs; a webhook may
    refuse it too. A service mesh: pods of a namespace that asks for it get a container beside their own."""
    labels = namespace["metadata"].get("labels") or {}
    if kind is PODS and labels.get("istio-injection") == "enabled":
        body["spec"]["containers"].append({"name": "istio-proxy", "image": "istio/proxyv2:1"})
    if kind is PODS and "example.org/policies" in labels and body["spec"].get("hostPID"):
        text = 'admission webhook "validate.example.org" denied the request: hostPID must not be set'
        raise answers.bad_request(text)
    level = labels.get("pod-security.kubernetes.io/enforce", "privileged")
    if kind is PODS and level != "privileged" and body["spec"].get("hostPID"):
        name = body["metadata"]["name"]
        text = f'pods "{name}" is forbidden: violates PodSecurity "{level}:latest": host namespaces (hostPID=true)'
        raise answers.Refused(403, answers.status(403, "Forbidden", text, answers.details_of(kind, name)))
