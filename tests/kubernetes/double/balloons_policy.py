"""The balloons policy: balloons of CPUs for containers, by the project's own allocator."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from pytest_nriperf.balloons.allocator import cores_of, lowest_cpu
from pytest_nriperf.balloons.tree import CpuTree, bits_of, cpu_tree
from pytest_nriperf.topology import Topology
from pytest_nriperf.units import format_cpus
from tests.kubernetes.double.choosing import Wish, by_thread, choose
from tests.kubernetes.double.kinds import Json
from tests.kubernetes.double.policy_config import BalloonType, Config, Rejected

_KEY = "balloon.balloons.resource-policy.nri.io"
_HIDE = "hide-hyperthreads.resource-policy.nri.io"
_PRIORITIES = ("high", "normal", "low", "none")


class NoBalloon(Exception):
    """A container that no balloon can hold; the text is the policy's."""


@dataclass
class Balloon:
    """An instance of a type: its CPUs as bits of the tree, the idle ones that it shares, the containers in it."""

    type: BalloonType
    number: int
    mask: int = 0
    shared: int = 0
    parts: list[Balloon] = field(default_factory=list)
    containers: list[Container] = field(default_factory=list)

    @property
    def name(self) -> str:
        """`type[N]`."""
        return f"{self.type.name}[{self.number}]"

    @property
    def requested(self) -> int:
        """CPU requests in thousandths."""
        return sum(container.request for container in self.containers)


@dataclass(eq=False)
class Container:
    """A container as the plugin's cache has it. `request` is in thousandths of a CPU."""

    namespace: str
    pod: str
    pod_uid: str
    name: str
    request: int
    limit: int = 0
    annotations: dict[str, str] = field(default_factory=dict)
    stopped: bool = False
    pinned: frozenset[int] | None = None
    memory: tuple[int, ...] | None = None

    @property
    def path(self) -> str:
        """`namespace/pod/container`."""
        return f"{self.namespace}/{self.pod}/{self.name}"

    def annotation(self, key: str) -> str | None:
        """The most specific form of an annotation."""
        for form in (f"{key}/container.{self.name}", f"{key}/pod", key):
            if form in self.annotations:
                return self.annotations[form]
        return None


class Policy:
    """Balloons of one accepted configuration. Not thread-safe."""

    def __init__(self, config: Config, topology: Topology) -> None:
        self.config = config
        self.topology = topology
        self.tree: CpuTree = cpu_tree(topology)
        self.split = by_thread(self.tree)
        self.free = self.tree.mask(config.allowed)
        self.balloons: list[Balloon] = []
        self._taken = self.free
        ordered = [(p, t) for p in _PRIORITIES for t in config.types if t.spec.get("allocatorPriority", "high") == p]
        for _, type_ in ordered:
            for _ in range(type_.minimum_balloons):
                self._create(type_)

    # -------------------------------------------------------------------------------------------------- containers

    def add(self, container: Container) -> None:
        """Place a container and pin it. NoBalloon when nothing can hold it."""
        type_ = self._type_of(container)
        balloon = self._choose(type_, container)
        if balloon is None:
            raise NoBalloon("no suitable balloon instance available")
        balloon.containers.append(container)
        self._resize(balloon)
        self._share()
        self._pin(balloon)

    def release(self, container: Container) -> None:
        """A container ended: its balloon shrinks, or goes."""
        for balloon in self.balloons:
            if container in balloon.containers:
                balloon.containers.remove(container)
                self._shrink(balloon)
                # The CPUs of one that is deleted are shared with the next allocation only.
                if balloon in self.balloons:
                    self._share()
                return

    def drop_zone(self, container: Container) -> None:
        """A container that was assigned although it is dead is forgotten: nobody shrinks its balloon."""
        for balloon in self.balloons:
            if container in balloon.containers:
                balloon.containers.remove(container)

    def _type_of(self, container: Container) -> BalloonType:
        named = container.annotation(_KEY)
        if named is not None:
            type_ = self.config.type(named)
            if type_ is None:
                raise NoBalloon(f'no balloon for annotation "{named}"')
            return type_
        if self.config.is_reserved(container.namespace):
            reserved = self.config.type("reserved")
            assert reserved is not None
            return reserved
        for type_ in self.config.types:
            if container.namespace in (type_.spec.get("namespaces") or ()) or "*" in (
                type_.spec.get("namespaces") or ()
            ):
                return type_
        default = self.config.type("default")
        assert default is not None
        return default

    def _choose(self, type_: BalloonType, container: Container) -> Balloon | None:
        own = [balloon for balloon in self.balloons if balloon.type is type_]
        same_pod = [b for b in own if any(c.pod_uid == container.pod_uid for c in b.containers)]
        if not type_.spec.get("preferSpreadingPods"):
            for balloon in same_pod:
                if self._most(balloon) >= container.request:
                    return balloon
        room = [b for b in own if 1000 * b.mask.bit_count() - b.requested >= container.request]
        growing = [b for b in own if self._most(b) >= container.request]
        if type_.new:
            return self._new(type_, container) or next(iter(room or growing), None)
        return next(iter(room or growing), None) or self._new(type_, container)

    def _new(self, type_: BalloonType, container: Container) -> Balloon | None:
        own = [balloon for balloon in self.balloons if balloon.type is type_]
        for balloon in own:
            if not balloon.containers:
                return balloon
        count = self.free.bit_count()
        if not count or count < type_.minimum or (type_.maximum_balloons and len(own) >= type_.maximum_balloons):
            return None
        if self._bound(type_, 0) < container.request:
            return None
        try:
            return self._create(type_)
        except Rejected:
            return None

    def _bound(self, type_: BalloonType, own: int) -> int:
        free = self.free.bit_count()
        return 1000 * (own + free) if type_.maximum == 0 or type_.maximum > free + own else 1000 * type_.maximum

    def _most(self, balloon: Balloon) -> int:
        return self._bound(balloon.type, balloon.mask.bit_count()) - balloon.requested

    # ------------------------------------------------------------------------------------------------------- CPUs

    def _create(self, type_: BalloonType) -> Balloon:
        numbers = {balloon.number for balloon in self.balloons if balloon.type is type_}
        balloon = Balloon(type_, next(n for n in range(len(numbers) + 1) if n not in numbers))
        for component in type_.components:
            part = self.config.type(component)
            assert part is not None
            balloon.parts.append(Balloon(part, 0))
        if type_.minimum > 0:
            self._grow(balloon, type_.minimum)
        self.balloons.append(balloon)
        return balloon

    def _target(self, balloon: Balloon) -> int:
        type_ = balloon.type
        wanted = max(math.ceil(balloon.requested / 1000), type_.minimum, 1 if balloon.containers else 0)
        return min(wanted, type_.maximum) if type_.maximum else wanted

    def _resize(self, balloon: Balloon) -> None:
        missing = self._target(balloon) - balloon.mask.bit_count()
        if missing > 0:
            try:
                self._grow(balloon, missing)
            except Rejected as error:
                balloon.containers.pop()
                if not balloon.containers:
                    self._shrink(balloon)
                raise NoBalloon("no suitable balloon instance available") from error

    def _grow(self, balloon: Balloon, count: int) -> None:
        if balloon.parts:
            share = math.ceil(count / len(balloon.parts))
            for part in balloon.parts:
                self._grow(part, max(share - part.mask.bit_count(), 0))
                balloon.mask |= part.mask
            return
        mask = self._allocate(balloon, count)
        balloon.mask |= mask
        self.free &= ~mask

    def _allocate(self, balloon: Balloon, count: int) -> int:
        type_, free = balloon.type, self.free
        failed = Rejected(
            f"balloons: resize/inflate: failed to choose a cpuset for allocating additional {count} CPUs: "
            f"not enough free CPUs ({free.bit_count()}) to resize current CPU set from {balloon.mask.bit_count()} "
            f"to {balloon.mask.bit_count() + count} CPUs"
        )
        if free.bit_count() < count:
            raise failed
        if count == 0:
            return 0

        def far(current: int) -> tuple[int, ...]:
            loaded = self._loaded() if "core" in type_.load_levels else 0
            own = cores_of(self.tree, current) if type_.overloads else 0
            return (*self._far(type_), loaded | own)

        close = tuple(self._close(type_))
        root = self.split if type_.spread else self.tree.root
        wish = Wish(root, type_.spread, type_.balancing, close, far, type_.overloads)
        found = choose(self.tree, free, balloon.mask, count, wish)
        if found is None:
            raise failed
        return found

    def _close(self, type_: BalloonType) -> list[int]:
        hints = [self.tree.mask(hint) for hint in type_.hints]
        if type_.name == "reserved" and self.config.reserved_set:
            hints.insert(0, self.tree.mask(self.config.reserved_set))
        return hints

    def _far(self, type_: BalloonType) -> list[int]:
        own = self._close(type_)
        found: list[int] = []
        for other in self.config.types:
            found += [hint for hint in self._close(other) if hint not in own and hint not in found]
        return found

    def _loaded(self) -> int:
        return _union(
            cores_of(self.tree, balloon.mask) for balloon in self.balloons if "core" in balloon.type.load_levels
        )

    def _shrink(self, balloon: Balloon) -> None:
        same = [other for other in self.balloons if other.type is balloon.type]
        if not balloon.containers and len(same) > balloon.type.minimum_balloons:
            self.free |= balloon.mask
            self.balloons.remove(balloon)
            return
        surplus = balloon.mask.bit_count() - max(self._target(balloon), balloon.type.minimum)
        for bit in sorted(bits_of(balloon.mask), reverse=True)[: max(0, surplus)]:
            balloon.mask &= ~(1 << bit)
            self.free |= 1 << bit

    def _share(self) -> None:
        """Idle CPUs for balloons whose types share those of their own core, cache, NUMA node, package or of all."""
        elements = {
            "system": (self.tree.root.mask,),
            "package": self.tree.packages,
            "die": self.tree.packages,
            "numa": tuple(self.tree.nodes.values()),
            "l2cache": self.tree.cores,
            "core": self.tree.cores,
        }
        for balloon in self.balloons:
            level = elements.get(balloon.type.spec.get("shareIdleCPUsInSame", ""), ())
            shared = _union(element & self.free for element in level if element & balloon.mask)
            if shared != balloon.shared:
                balloon.shared = shared
                self._pin(balloon)

    def _pin(self, balloon: Balloon) -> None:
        given = balloon.mask | balloon.shared
        for container in balloon.containers:
            if not self.config.pin:
                container.pinned = None
                continue
            hide = container.annotation(_HIDE)
            hidden = balloon.type.hide if hide not in ("true", "false") else hide == "true"
            container.pinned = self.tree.cpus(_first_threads(self.tree, given) if hidden else given)
            nodes = self.topology.memory_near(self.tree.cpus(given))
            container.memory = nodes if balloon.type.pin_memory else None

    # ------------------------------------------------------------------------------------------------------ zones

    def zones(self) -> list[Json]:
        """The NodeResourceTopology's zones."""
        found: list[Json] = []
        for balloon in self.balloons:
            found.append(self._balloon_zone(balloon))
            if balloon.type.show:
                found += [self._container_zone(balloon, container) for container in balloon.containers]
        return found

    def _balloon_zone(self, balloon: Balloon) -> Json:
        excess = 1000 * balloon.mask.bit_count() - balloon.requested
        largest = balloon.type.maximum or len(self.config.allowed)
        available = max(0, self._most(balloon)) // 1000
        attributes = [
            ("cpuset", self._text(balloon.mask)),
            ("shared cpuset", self._text(balloon.shared)),
            ("excess cpus", f"{max(0, excess)}m"),
        ]
        if balloon.parts:
            inside = ", ".join(f"{{{self._text(part.mask)}}}" for part in balloon.parts)
            attributes.append(("component cpusets", f"{{{inside}}}"))
        numbers = {"capacity": len(self.topology.cpus), "allocatable": largest, "available": available}
        return _zone(balloon.name, "balloon", attributes, numbers)

    def _container_zone(self, balloon: Balloon, container: Container) -> Json:
        pinned = container.pinned or frozenset()
        memory = "" if container.memory is None else format_cpus(container.memory)
        attributes = [("cpuset", format_cpus(pinned)), ("memory set", memory)]
        request = container.request / 1000
        numbers = {"capacity": min(container.limit // 1000 or len(pinned), len(pinned)), "allocatable": request}
        zone = _zone(container.path, "allocation for container", attributes, {**numbers, "available": 0})
        return {**zone, "parent": balloon.name}

    def _text(self, mask: int) -> str:
        return format_cpus(self.tree.cpus(mask)) if mask else ""


def _zone(name: str, type_: str, attributes: list[tuple[str, str]], numbers: dict[str, Any]) -> Json:
    return {
        "name": name,
        "type": type_,
        "attributes": [{"name": key, "value": value} for key, value in attributes],
        "resources": [{"name": "cpu", **{key: f"{value:g}" for key, value in numbers.items()}}],
    }


def _union(masks: Any) -> int:
    result = 0
    for mask in masks:
        result |= mask
    return result


def _first_threads(tree: CpuTree, mask: int) -> int:
    return _union(lowest_cpu(tree, core & mask) for core in tree.cores if core & mask)
