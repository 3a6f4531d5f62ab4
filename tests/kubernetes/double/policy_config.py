"""A BalloonsPolicy's spec as the plugin reads it, and what makes the plugin reject it (in the plugin's words)."""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pytest_nriperf.errors import UsageError
from pytest_nriperf.topology import Topology
from pytest_nriperf.units import format_cpus, parse_cpus
from tests.kubernetes.double.kinds import Json
from tests.kubernetes.double.validation import quantity


class Rejected(Exception):
    """A configuration that the plugin refuses; the text is what the status shows."""


@dataclass(frozen=True)
class BalloonType:
    """An entry of balloonTypes. `spec` keeps what has no field here."""

    name: str
    minimum: int = 0
    maximum: int = 0
    minimum_balloons: int = 0
    maximum_balloons: int = 0
    balancing: bool = False
    spread: bool = False
    hide: bool = False
    new: bool = False
    pin_memory: bool = True
    show: bool = False
    load_levels: frozenset[str] = frozenset()
    overloads: bool = False
    hints: tuple[frozenset[int], ...] = ()
    components: tuple[str, ...] = ()
    spec: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Config:
    """An accepted configuration."""

    types: tuple[BalloonType, ...]
    allowed: frozenset[int]
    reserved_set: frozenset[int] | None
    reserved_namespaces: tuple[str, ...]
    pin: bool
    publish: bool

    def type(self, name: str) -> BalloonType | None:
        """A type by name."""
        return next((entry for entry in self.types if entry.name == name), None)

    def is_reserved(self, namespace: str) -> bool:
        """Whether a namespace's pods go to the reserved balloon."""
        return any(fnmatch.fnmatchcase(namespace, glob) for glob in self.reserved_namespaces)


def read_config(spec: Json, topology: Topology) -> Config:
    """The configuration. Rejected in the plugin's words."""
    allowed = _allowed(spec, topology)
    reserved_set, quantity_cpus = _reserved(spec, allowed)
    entries = _with_implicit(spec.get("balloonTypes") or [], reserved_set is not None)
    _check_entries(entries, spec)
    loads = {entry["name"]: entry for entry in spec.get("loadClasses") or []}
    types = []
    for entry in entries:
        if entry["name"] == "reserved":
            entry = _reserved_type(entry, reserved_set, quantity_cpus)
        types.append(_balloon_type(entry, spec, loads, topology))
    namespaces = ("kube-system", *(spec.get("reservedPoolNamespaces") or ()))
    pin, publish = bool(spec.get("pinCPU", True)), bool((spec.get("agent") or {}).get("nodeResourceTopology"))
    return Config(tuple(types), allowed, reserved_set, namespaces, pin, publish)


def _allowed(spec: Json, topology: Topology) -> frozenset[int]:
    text = (spec.get("availableResources") or {}).get("cpu")
    if text is None:
        return topology.online
    word, _, cpus = text.partition(":")
    if word not in ("cpuset", "exclude-cpuset"):
        raise Rejected(f"balloons: can't handle CPU resources given as resource.Quantity ({text})")
    named = parse_cpus(cpus)
    return topology.online & named if word == "cpuset" else topology.online - named


def _reserved(spec: Json, allowed: frozenset[int]) -> tuple[frozenset[int] | None, int]:
    """The reserved CPU set, or None and the number of CPUs of a quantity."""
    text = (spec.get("reservedResources") or {}).get("cpu")
    if text is None:
        return None, 0
    word, colon, cpus = text.partition(":")
    if colon:
        try:
            named = parse_cpus(cpus)
        except UsageError as error:
            text = f"failed to parse amount '{cpus}' as cpuset: strconv.Atoi: parsing \"{cpus[:1]}\": invalid syntax"
            raise Rejected(f"balloons: failed to parse reserved CPU cpuset '{cpus}': {text}") from error
        named = allowed - named if word == "exclude-cpuset" else named
        if outside := named - allowed:
            raise Rejected(
                f"balloons: ReservedResources cpus {format_cpus(named)} contains CPUs not in AllowedResources "
                f"{format_cpus(allowed)}, namely {format_cpus(outside)}"
            )
        return named, 0
    if not re.fullmatch(r"[0-9.]+m?", text):
        raise Rejected(
            f"balloons: failed to parse reserved CPU quantity '{text}': failed to parse amount '{text}' as resource "
            "quantity: quantities must match the regular expression "
            "'^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
        )
    return None, math.ceil(quantity(text))


def _with_implicit(entries: list[Json], reserved_is_set: bool) -> list[Json]:
    names = [entry["name"] for entry in entries]
    result = [dict(entry) for entry in entries]
    if "reserved" not in names:
        priority = "normal" if reserved_is_set else "low"
        result.insert(0, {"name": "reserved", "minBalloons": 1, "allocatorPriority": priority})
    if "default" not in names:
        result.append({"name": "default", "minBalloons": 1, "maxBalloons": 1, "allocatorPriority": "low"})
    return result


def _reserved_type(entry: Json, reserved_set: frozenset[int] | None, cpus: int) -> Json:
    result = {**entry, "minBalloons": 1, "maxBalloons": 1}
    if reserved_set is None:
        if entry.get("minCPUs", cpus) != cpus:
            raise Rejected(
                f"balloons: mismatching reserved balloon minCpus: {entry['minCPUs']} and "
                f"ReservedResources cpus: {cpus * 1000} mCPU"
            )
        result["minCPUs"] = cpus
    elif "minCPUs" not in entry:
        result["minCPUs"] = min(len(reserved_set), entry.get("maxCPUs", 0))
    return result


def _check_entries(entries: list[Json], spec: Json) -> None:
    wrong = "balloons: invalid configuration: balloons: "
    names = [entry["name"] for entry in entries]
    loads = {entry["name"] for entry in spec.get("loadClasses") or []}
    classes = {entry["name"] for entry in spec.get("schedulingClasses") or []}
    for entry in entries:
        name, low, high = entry["name"], entry.get("minCPUs", 0), entry.get("maxCPUs", 0)
        for expression in entry.get("matchExpressions") or []:
            if expression["operator"] in ("Equals", "NotEqual") and len(expression.get("values") or []) != 1:
                raise Rejected(f"expression: invalid expression, '{expression['operator']}' requires a single value")
        if names.count(name) > 1:
            raise Rejected(f'{wrong}two balloon types with the same name: "{name}"')
        if high and low > high:
            raise Rejected(f'{wrong}MinCpus ({low}) > MaxCpus ({high}) in balloon type "{name}"')
        for component in entry.get("components") or []:
            if component["balloonType"] not in names:
                raise Rejected(
                    f'{wrong}balloon type "{component["balloonType"]}" in composite balloon "{name}" '
                    "is not defined in balloonTypes"
                )
        for load in entry.get("loads") or []:
            if load not in loads:
                raise Rejected(f"{wrong}loads defined in balloonTypes but missing from loadClasses: map[{load}:{{}}]")
        scheduling = entry.get("schedulingClass")
        if scheduling and scheduling not in classes:
            raise Rejected(
                f"{wrong}schedulingClass(es) defined in balloonTypes but missing from schedulingClasses: "
                f"map[{scheduling}:{{}}]"
            )


def _balloon_type(entry: Json, spec: Json, loads: Mapping[str, Json], topology: Topology) -> BalloonType:
    own = [loads[name] for name in entry.get("loads") or []]

    def flag(name: str, default: bool) -> bool:
        return bool(entry.get(name, spec.get(name, default)))

    return BalloonType(
        name=entry["name"],
        minimum=entry.get("minCPUs", 0),
        maximum=entry.get("maxCPUs", 0),
        minimum_balloons=entry.get("minBalloons", 0),
        maximum_balloons=entry.get("maxBalloons", 0),
        balancing=flag("allocatorTopologyBalancing", False),
        spread=flag("preferSpreadOnPhysicalCores", False),
        hide=entry.get("hideHyperthreads", False),
        new=entry.get("preferNewBalloons", False),
        pin_memory=flag("pinMemory", True),
        show=flag("showContainersInNrt", False),
        load_levels=frozenset(load["level"] for load in own),
        overloads=any(load.get("overloadsLevelInBalloon") for load in own),
        hints=tuple(_device(path, topology) for path in entry.get("preferCloseToDevices") or ()),
        components=tuple(component["balloonType"] for component in entry.get("components") or ()),
        spec=entry,
    )


def _device(path: str, topology: Topology) -> frozenset[int]:
    """The CPUs close to a NUMA node or a CPU's cache; nothing is known of other devices here."""
    if match := re.fullmatch(r"/sys/devices/system/node/node(\d+)", path):
        number = int(match[1])
        return topology.node_cpus(number) if number in {node.id for node in topology.nodes} else frozenset()
    if match := re.fullmatch(r"/sys/devices/system/cpu/cpu(\d+)(?:/.*)?", path):
        return topology.siblings(int(match[1]))
    return frozenset()
