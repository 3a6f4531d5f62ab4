"""The custom resources' schemas, written by hand: the fields that are used here, and their neighbours."""

from __future__ import annotations

from tests.kubernetes.double.kinds import Json

_STRING: Json = {"type": "string"}
_NUMBER: Json = {"type": "integer"}
_FLAG: Json = {"type": "boolean"}
_STRINGS: Json = {"type": "array", "items": _STRING}
_QUANTITIES: Json = {"type": "object", "additionalProperties": _STRING}


def _object(properties: Json, *required: str) -> Json:
    return {"type": "object", "properties": properties, **({"required": list(required)} if required else {})}


_EXPRESSION = _object({"key": _STRING, "operator": _STRING, "values": _STRINGS}, "key", "operator")

_BALLOON_TYPE = _object(
    {
        "name": _STRING,
        "minCPUs": _NUMBER,
        "maxCPUs": _NUMBER,
        "minBalloons": _NUMBER,
        "maxBalloons": _NUMBER,
        "allocatorPriority": {"type": "string", "enum": ["high", "normal", "low", "none"], "default": "high"},
        "allocatorTopologyBalancing": _FLAG,
        "preferSpreadOnPhysicalCores": _FLAG,
        "preferCloseToDevices": _STRINGS,
        "preferIsolCpus": {"type": "boolean", "default": False},
        "preferCoreType": {"type": "string", "enum": ["efficient", "performance"]},
        "preferNewBalloons": _FLAG,
        "preferSpreadingPods": _FLAG,
        "preferPerNamespaceBalloon": _FLAG,
        "hideHyperthreads": _FLAG,
        "pinMemory": _FLAG,
        "memoryTypes": _STRINGS,
        "shareIdleCPUsInSame": {
            "type": "string",
            "enum": ["", "system", "package", "die", "numa", "l2cache", "core", "thread"],
        },
        "showContainersInNrt": _FLAG,
        "components": {"type": "array", "items": _object({"balloonType": _STRING}, "balloonType")},
        "componentCreation": {"type": "string", "enum": ["all", "balance-balloons"]},
        "loads": _STRINGS,
        "cpuClass": _STRING,
        "schedulingClass": _STRING,
        "groupBy": _STRING,
        "namespaces": _STRINGS,
        "matchExpressions": {"type": "array", "items": _EXPRESSION},
    },
    "name",
)

_POLICY_SPEC = _object(
    {
        "reservedResources": _QUANTITIES,
        "availableResources": _QUANTITIES,
        "reservedPoolNamespaces": _STRINGS,
        "pinCPU": _FLAG,
        "pinMemory": _FLAG,
        "allocatorTopologyBalancing": _FLAG,
        "preferSpreadOnPhysicalCores": _FLAG,
        "showContainersInNrt": _FLAG,
        "idleCPUClass": _STRING,
        "turboDomain": {"type": "string", "enum": ["package", "system"], "default": "package"},
        "controllableInterrupts": {**_STRINGS, "default": ["*"]},
        "agent": {
            **_object({"nodeResourceTopology": _FLAG, "podResourceAPI": _FLAG}),
            "default": {"nodeResourceTopology": True},
        },
        "balloonTypes": {"type": "array", "items": _BALLOON_TYPE},
        "loadClasses": {
            "type": "array",
            "items": _object(
                {
                    "name": _STRING,
                    "level": {"type": "string", "enum": ["core", "l2cache"]},
                    "overloadsLevelInBalloon": _FLAG,
                },
                "name",
                "level",
            ),
        },
        "schedulingClasses": {"type": "array", "items": _object({"name": _STRING, "policy": _STRING}, "name")},
        "instrumentation": _object({"httpEndpoint": _STRING, "prometheusExport": _FLAG, "reportPeriod": _STRING}),
        "log": _object({"debug": _STRINGS, "klog": {"type": "object"}}),
        "preserve": _object({"matchExpressions": {"type": "array", "items": _EXPRESSION}}),
    },
    "reservedResources",
)

BALLOONS_POLICY: Json = _object(
    {
        "apiVersion": _STRING,
        "kind": _STRING,
        "metadata": {"type": "object"},
        "spec": _POLICY_SPEC,
        "status": _object(
            {
                "nodes": {
                    "type": "object",
                    "additionalProperties": _object(
                        {
                            "status": {"type": "string", "enum": ["Success", "Failure"]},
                            "generation": _NUMBER,
                            "errors": _STRING,
                            "timestamp": _STRING,
                        },
                    ),
                }
            }
        ),
    },
    "spec",
)

_ATTRIBUTES: Json = {"type": "array", "items": _object({"name": _STRING, "value": _STRING}, "name", "value")}

NODE_RESOURCE_TOPOLOGY: Json = _object(
    {
        "apiVersion": _STRING,
        "kind": _STRING,
        "metadata": {"type": "object"},
        "attributes": _ATTRIBUTES,
        "topologyPolicies": _STRINGS,
        "zones": {
            "type": "array",
            "items": _object(
                {
                    "name": _STRING,
                    "type": _STRING,
                    "parent": _STRING,
                    "attributes": _ATTRIBUTES,
                    "costs": {"type": "array", "items": _object({"name": _STRING, "value": _NUMBER})},
                    "resources": {
                        "type": "array",
                        "items": _object(
                            {
                                name: {"x-kubernetes-int-or-string": True} if name != "name" else _STRING
                                for name in ("name", "capacity", "allocatable", "available")
                            }
                        ),
                    },
                },
                "name",
                "type",
            ),
        },
    },
    "zones",
)
