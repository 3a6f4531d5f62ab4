"""What the balloons plugin publishes of a node: its balloons and who is in them, dead containers included."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_nriperf.provision.api_errors import ApiFailure
from pytest_nriperf.provision.cluster import PODS, ZONES, Cluster, wait_until
from pytest_nriperf.units import parse_cpus

Json = dict[str, Any]

RESERVED = "reserved[0]"
# The plugin publishes a moment after it has pinned; one of an emulated machine took up to 2 s for a change.
ZONE_S = 10.0


@dataclass(frozen=True)
class Zone:
    """A zone of the NodeResourceTopology: a balloon with the idle CPUs that it shares, or a container in a `parent`."""

    name: str
    parent: str
    cpus: frozenset[int]
    shared: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Published:
    """A container as the plugin publishes it. `balloon`: the CPUs of the balloon that it is in, empty when none has its
    CPUs; `pinned`: those that it was given, None where containers are not shown; `others`: who else is in that
    balloon."""

    balloon: frozenset[int]
    pinned: frozenset[int] | None = None
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ghost:
    """A dead container that was assigned again. As long as its pod `exists` it stays, else the runtime removes it
    within a minute."""

    name: str
    exists: bool


def is_publishing(spec: Json) -> bool:
    """Whether a policy has the plugin publish: what it published before a change stays for ever."""
    return bool((spec.get("agent") or {}).get("nodeResourceTopology"))


def read_zones(cluster: Cluster, node: str) -> list[Zone] | None:
    """The zones of a node, none where nothing was published yet; None where we may not read them or the cluster does
    not know them."""
    try:
        found = cluster.get(ZONES, node)
    except ApiFailure as error:
        if error.status in (403, 404):
            return None
        raise
    return [_zone(entry) for entry in (found or {}).get("zones") or []]


def is_showing(spec: Json, type_name: str) -> bool:
    """Whether a policy has containers of a balloon type published too."""
    types = {entry["name"]: entry for entry in spec.get("balloonTypes") or []}
    return bool(types.get(type_name, {}).get("showContainersInNrt", spec.get("showContainersInNrt")))


def published(
    read: Callable[[], Sequence[Zone] | None], container: str, cpus: frozenset[int], *, shown: bool
) -> Published | None:
    """A container (`namespace/pod/name`) that has just been pinned to `cpus`: where containers are `shown` its own
    zone, else the balloon that has its CPUs. None where nothing is published."""
    last: list[Sequence[Zone] | None] = [None]

    def of(zones: Sequence[Zone]) -> Published | None:
        return _own(zones, container) if shown else _holder(zones, cpus)

    def found() -> bool:
        zones = last[0] = read()
        return zones is None or of(zones) is not None

    wait_until(found, ZONE_S)
    zones = last[0]
    return (of(zones) or Published(frozenset())) if zones else None


def cpus_by_type(zones: Sequence[Zone] | None) -> Counter[str]:
    """How many CPUs the balloons of each type hold, without the reserved one."""
    held: Counter[str] = Counter()
    for zone in zones or ():
        if not zone.parent and zone.name != RESERVED:
            held[zone.name.rpartition("[")[0]] += len(zone.cpus)
    return held


def ghosts(cluster: Cluster, node: str) -> list[Ghost]:
    """Container zones whose pod is gone or has ended. In the reserved balloon they take nothing that we measure on, and
    system pods that have done their work stay for ever."""
    containers = [zone.name for zone in read_zones(cluster, node) or () if zone.parent not in ("", RESERVED)]
    if not containers:
        return []
    phases = {
        f"{pod['metadata']['namespace']}/{pod['metadata']['name']}": (pod.get("status") or {}).get("phase")
        for pod in cluster.find(PODS, fields=f"spec.nodeName={node}")
    }
    pods = {name: name.rpartition("/")[0] for name in containers}
    return [
        Ghost(name, exists=pod in phases)
        for name, pod in sorted(pods.items())
        if phases.get(pod) not in ("Pending", "Running")
    ]


def _own(zones: Sequence[Zone], container: str) -> Published | None:
    own = next((zone for zone in zones if zone.name == container), None)
    if own is None:
        return None
    balloon = next((zone.cpus for zone in zones if zone.name == own.parent), frozenset[int]())
    others = tuple(zone.name for zone in zones if zone.parent == own.parent and zone.name != container)
    return Published(balloon, own.cpus, others)


def _holder(zones: Sequence[Zone], cpus: frozenset[int]) -> Published | None:
    for zone in zones:
        if not zone.parent and cpus <= zone.cpus | zone.shared:
            return Published(zone.cpus)
    return None


def _zone(entry: Json) -> Zone:
    """A zone; its sets may be the empty string, and of composites the cpuset is the union."""
    texts = {item["name"]: str(item["value"]) for item in entry.get("attributes") or []}
    cpus, shared = (_cpus(texts.get(name, "")) for name in ("cpuset", "shared cpuset"))
    return Zone(str(entry.get("name")), str(entry.get("parent", "")), cpus, shared)


def _cpus(text: str) -> frozenset[int]:
    return parse_cpus(text) if re.fullmatch(r"[0-9,\-]+", text) else frozenset()
