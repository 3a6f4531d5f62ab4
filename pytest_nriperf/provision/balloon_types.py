"""From balloons to types of the balloons policy: those that we add (manage), or those that are there (annotate).

Pure. Where a replica lies inside one NUMA node its type is close to that node, and every other type of ours is close to
its own: so the policy repeats the plan node by node. Sockets and whole nodes in equal parts are composites of one
component a NUMA node.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_nriperf.balloons import BalloonSpec, Placement
from pytest_nriperf.errors import SettingsError
from pytest_nriperf.topology import Topology

Json = dict[str, Any]

OWN_CORE: Json = {"name": "nriperf-own-core", "level": "core", "overloadsLevelInBalloon": True}
BUILT_IN = ("reserved", "default")


@dataclass(frozen=True)
class TypeChoice:
    """The balloon type that a replica's pod names; `hide` asks for hidden hyperthreads by annotation."""

    name: str
    hide: bool = False


@dataclass(frozen=True)
class TypePlan:
    """Types to add for one balloon, and each replica's choice among them."""

    types: tuple[Json, ...]
    replicas: tuple[TypeChoice, ...]
    loads: tuple[Json, ...] = ()

    @property
    def hinted(self) -> bool:
        """Whether a type is close to a NUMA node: then the policy keeps all other types away from it."""
        return any("preferCloseToDevices" in entry for entry in self.types)

    @property
    def roams(self) -> bool:
        """Whether a spread type reaches over NUMA nodes. The policy would rather keep it off the nodes that others
        are close to than off cores that it has a thread on already."""
        return any("loads" in entry and "preferCloseToDevices" not in entry for entry in self.types)

    def excludes(self, other: TypePlan) -> bool:
        """Whether the types of both cannot be in one policy."""
        return (self.hinted and other.roams) or (self.roams and other.hinted)


def fitting(plans: Mapping[str, TypePlan], first: str = "") -> list[str]:
    """Keys of the plans whose types can be in one policy with those of `first`, or of the most when nobody is first."""
    roams = plans[first].roams if first else False
    if roams or any(plan.hinted for plan in plans.values()):
        return [key for key, plan in plans.items() if key == first or not (plan.hinted if roams else plan.roams)]
    return list(plans)


@dataclass(frozen=True)
class ExistingType:
    """What matters of a type that the node's policy has."""

    name: str
    minimum: int = 0
    maximum: int = 0
    hides: bool = False
    spreads: bool = False
    own_cores: bool = False
    balances: bool = False
    shares: bool = False
    separate: bool = False
    matched: bool = field(default=False, compare=False)


def plan_types(placement: Placement, topology: Topology, session: str) -> TypePlan:
    """The types for a planned balloon. Names carry the session, so that writing them always changes the policy."""
    spec = placement.spec
    digest = hashlib.sha256(spec.canonical().encode()).hexdigest()[:6]
    stem = f"nriperf-{session}-{digest}"
    spans = [topology.nodes_of(replica.allocated) for replica in placement.replicas]
    several = len(topology.cpu_nodes) > 1
    types: dict[str, Json] = {}
    choices = []
    for nodes in spans:
        name = f"{stem}-n{'.'.join(map(str, nodes))}" if several else stem
        choices.append(TypeChoice(name))
        if name in types:
            types[name]["maxBalloons"] += 1
            continue
        types[name] = {"name": name, "minCPUs": placement.cpus, "maxCPUs": placement.cpus, "maxBalloons": 1}
        types[name] |= _visible(spec)
        if spec.numa in ("socket", "all") and len(nodes) > 1:
            parts = [f"{stem}-part{node}" for node in nodes]
            types[name]["components"] = [{"balloonType": part} for part in parts]
            share = placement.cpus // len(nodes)
            for part, node in zip(parts, nodes, strict=True):
                types[part] = {"name": part, "minCPUs": share, "maxCPUs": share, **_picked(spec), **_close(node)}
        else:
            types[name] |= _picked(spec) | (_close(nodes[0]) if several and len(nodes) == 1 else {})
    return TypePlan(tuple(types.values()), tuple(choices), (OWN_CORE,) if spec.hyperthreads == "spread" else ())


def mark(session: str, number: int) -> TypePlan:
    """A type whose balloon is there from the beginning, empty: with a new one each change of ours is a change, and what
    the plugin publishes can be told from what it published before."""
    return TypePlan(({"name": f"nriperf-{session}-mark{number}", "minBalloons": 1, "maxBalloons": 1},), ())


def is_mark(name: str) -> bool:
    """Whether a type is a mark of ours.

    >>> is_mark(mark("1a2b3c4d", 2).types[0]["name"]), is_mark("nriperf-1a2b3c4d-51f0ab-n1")
    (True, False)
    """
    return re.fullmatch(r"nriperf-[^-]+-mark[0-9]+", name) is not None


def _visible(spec: BalloonSpec) -> Json:
    result: Json = {"preferNewBalloons": True, "showContainersInNrt": True, "pinMemory": spec.memory == "local"}
    return result | ({"hideHyperthreads": True} if spec.hyperthreads == "hidden" else {})


def _picked(spec: BalloonSpec) -> Json:
    spread = spec.hyperthreads == "spread"
    result: Json = {
        "allocatorTopologyBalancing": spec.placement == "balance",
        "preferSpreadOnPhysicalCores": spread,
    }
    return result | ({"loads": [OWN_CORE["name"]]} if spread else {})


def _close(node: int) -> Json:
    return {"preferCloseToDevices": [f"/sys/devices/system/node/node{node}"]}


def with_types(effective: Json, plans: Iterable[TypePlan], reserved: str) -> Json:
    """The node's policy with our types added, containers shown and pinned. `reserved` as a cpuset keeps the reserved
    CPUs where they are although our types change what is free (empty: as the policy has it)."""
    types: dict[str, Json] = {}
    loads: dict[str, Json] = {entry["name"]: entry for entry in effective.get("loadClasses") or []}
    for plan in plans:
        types.update({entry["name"]: entry for entry in plan.types})
        loads.update({entry["name"]: entry for entry in plan.loads})
    spec = {
        **effective,
        "balloonTypes": [*(effective.get("balloonTypes") or []), *types.values()],
        "pinCPU": True,
        "showContainersInNrt": True,
        "agent": {**(effective.get("agent") or {}), "nodeResourceTopology": True},
    }
    if loads:
        spec["loadClasses"] = list(loads.values())
    if reserved:
        spec["reservedResources"] = {**effective["reservedResources"], "cpu": f"cpuset:{reserved}"}
    return spec


# ------------------------------------------------------------------------------------------------------- annotate mode


def existing_types(spec: Json) -> list[ExistingType]:
    """The types of a policy, without the built-in ones."""
    overloading = {entry["name"] for entry in spec.get("loadClasses") or [] if entry.get("overloadsLevelInBalloon")}
    found = []
    for entry in spec.get("balloonTypes") or []:
        if entry["name"] in BUILT_IN:
            continue
        found.append(
            ExistingType(
                entry["name"],
                entry.get("minCPUs", 0),
                entry.get("maxCPUs", 0),
                hides=bool(entry.get("hideHyperthreads")),
                spreads=bool(entry.get("preferSpreadOnPhysicalCores", spec.get("preferSpreadOnPhysicalCores"))),
                own_cores=bool(overloading & set(entry.get("loads") or ())),
                balances=bool(entry.get("allocatorTopologyBalancing", spec.get("allocatorTopologyBalancing"))),
                shares=bool(entry.get("shareIdleCPUsInSame")),
                separate=bool(entry.get("preferNewBalloons")),
            )
        )
    return found


def choose_type(
    spec: BalloonSpec, cpus: int, policy: Json, mapping: Mapping[str, str], profile: str, node: str
) -> TypeChoice:
    """The node's own type for a balloon: the profile's, else one that does what the balloon asks for."""
    types = existing_types(policy)
    kind = spec.hyperthreads
    if kind in mapping:
        chosen = next((entry for entry in types if entry.name == mapping[kind]), None)
        if chosen is None:
            raise SettingsError(
                f"node {node}: the policy has no balloon type {mapping[kind]!r}, which the profile names for {kind}",
                f"its types are {_names(types)}; mend balloon_types of [tool.nriperf.nodes.{profile}]",
            )
        _check_size(chosen, cpus, node)
        _check_placement(chosen, spec, node)
        return TypeChoice(chosen.name, hide=kind == "hidden" and not chosen.hides)
    usable = [entry for entry in types if _fits(entry, cpus) and entry.separate and not entry.shares]
    hiding = [entry for entry in usable if kind == "hidden" and entry.hides and not entry.spreads]
    suitable = (
        hiding
        or {
            "spread": [entry for entry in usable if not entry.hides and (entry.own_cores or entry.spreads)],
            "paired": [entry for entry in usable if not entry.hides and not entry.spreads and not entry.own_cores],
        }["spread" if kind == "spread" else "paired"]
    )
    if not suitable:
        raise SettingsError(
            f"node {node}: no balloon type of its policy gives {cpus} CPUs of a balloon's own with "
            f"hyperthreads={kind!r} (its types: {_names(types)})",
            f'add such a type and name it, balloon_types = {{{kind} = "..."}} in [tool.nriperf.nodes.{profile}], '
            'or let us write it: policy = "manage" (or --nri-manage)',
        )
    best = max(suitable, key=lambda entry: (entry.own_cores, entry.balances == (spec.placement == "balance")))
    _check_placement(best, spec, node)
    return TypeChoice(best.name, hide=kind == "hidden" and not best.hides)


def _fits(entry: ExistingType, cpus: int) -> bool:
    return entry.minimum <= cpus and (entry.maximum == 0 or cpus <= entry.maximum)


def _check_size(entry: ExistingType, cpus: int, node: str) -> None:
    if not _fits(entry, cpus):
        limits = f"minCPUs {entry.minimum}, maxCPUs {entry.maximum or 'unlimited'}"
        raise SettingsError(
            f"node {node}: balloon type {entry.name} ({limits}) cannot have exactly {cpus} CPUs",
            "ask for a size inside these limits, or map another type",
        )


def _check_placement(entry: ExistingType, spec: BalloonSpec, node: str) -> None:
    """Several replicas lie as the type says. One alone, one a NUMA node and parts of all nodes lie the same anyway."""
    if spec.numa == "all" or spec.replicas in (1, "numa") or entry.balances == (spec.placement == "balance"):
        return
    does = "spreads replicas over NUMA nodes" if entry.balances else "puts replicas into as few NUMA nodes as it can"
    raise SettingsError(
        f"node {node}: balloon type {entry.name} {does} (allocatorTopologyBalancing), asked for was "
        f"placement={spec.placement!r}",
        f'use placement="{"balance" if entry.balances else "pack"}", map another type in balloon_types, or let us '
        'write the types: policy = "manage" (or --nri-manage)',
    )


def _names(types: Sequence[ExistingType]) -> str:
    return ", ".join(entry.name for entry in types) or "none but the built-in ones"
