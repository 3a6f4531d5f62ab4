"""The values: what is asked for (`BalloonSpec`), what is given (`Placement`)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from functools import cached_property
from typing import Any

from pytest_nriperf.balloons.sizes import resolve_sizes
from pytest_nriperf.errors import NriperfError, SpecError
from pytest_nriperf.topology import Topology
from pytest_nriperf.units import format_cpus, parse_cpus

CHOICES: dict[str, tuple[Any, ...]] = {
    "hyperthreads": ("paired", "spread", "hidden"),
    "numa": ("any", "single", "socket", "all"),
    "memory": ("local", "any", "interleave"),
    "placement": ("balance", "pack"),
    "snc": (None, 1, 2, 3, 4),
}
PORTABLE_SIZES = ("numa", "socket", "all")


@dataclass(frozen=True)
class BalloonSpec:
    """What a test asks for. Valid once built: raises SpecError naming the argument and its value.

    `cpus` are ALLOCATED logical CPUs per replica: a number, `"numa"`, `"socket"`, `"all"` or a share such as `"25%"` of
    what the node can allocate; None is all that `numa` leaves to a replica, with nothing else asked every CPU that
    the test may use, as it is. `replicas` may be `"numa"`: one inside each NUMA node. `snc` is the sub-NUMA mode that
    the node must be booted in (1 = off).

    >>> BalloonSpec(cpus=16, hyperthreads="hidden").canonical()
    'cpus=16,hyperthreads=hidden'
    """

    cpus: int | str | None = None
    hyperthreads: str = "paired"
    numa: str = "any"
    memory: str = "local"
    replicas: int | str = 1
    placement: str = "balance"
    snc: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "cpus", _valid_cpus(self.cpus))
        object.__setattr__(self, "replicas", _valid_replicas(self.replicas))
        object.__setattr__(self, "snc", _number(self.snc))
        for name, choices in CHOICES.items():
            _check_choice(name, getattr(self, name), choices)
        if self.hyperthreads == "hidden" and isinstance(self.cpus, int) and self.cpus % 2:
            raise SpecError(
                f"balloon: cpus={self.cpus} with hyperthreads='hidden' leaves half a core",
                f"the nearest sizes are {self.cpus - 1} and {self.cpus + 1}" if self.cpus > 1 else "ask for 2",
            )
        if self.replicas == "numa" and self.numa in ("socket", "all"):
            raise SpecError(
                f"balloon: replicas='numa' puts one replica inside each NUMA node, numa={self.numa!r} says otherwise",
                "leave numa out, or give replicas as a number",
            )

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> BalloonSpec:
        """A spec from the arguments of a mark or of a sweep's cell. Raises SpecError naming an unknown one."""
        names = [field.name for field in fields(cls)]
        for name in arguments:
            if name not in names:
                raise SpecError(f"balloon: unknown argument {name!r}", _suggest(name, names))
        return cls(**arguments)

    @classmethod
    def parse(cls, text: str) -> BalloonSpec:
        """A spec as people type it.

        >>> BalloonSpec.parse("cpus=16, hyperthreads=hidden, replicas=4").replicas
        4
        """
        arguments: dict[str, Any] = {}
        for part in filter(None, (piece.strip() for piece in text.split(","))):
            name, sign, value = (piece.strip() for piece in part.partition("="))
            if not sign or not value:
                raise SpecError(f"balloon: {part!r} is no NAME=VALUE", "write for example cpus=16,hyperthreads=hidden")
            if name in arguments:
                raise SpecError(f"balloon: {name} is given twice", "give it once")
            arguments[name] = value
        return cls.from_arguments(arguments)

    def canonical(self) -> str:
        """The same text for the same request, sorted, defaults left out: an argument that is added to the product
        later does not change the text of what was measured before. Keys baselines.

        >>> BalloonSpec().canonical(), BalloonSpec(replicas="2", cpus="4").canonical()
        ('default', 'cpus=4,replicas=2')
        """
        parts = [
            f"{field.name}={getattr(self, field.name)}"
            for field in fields(self)
            if getattr(self, field.name) != field.default
        ]
        return ",".join(sorted(parts)) or "default"

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, all arguments."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def resolve(self, topology: Topology, allowed: Iterable[int], reserved: Iterable[int] = frozenset()) -> BalloonSpec:
        """The same request with numbers for `cpus` and `replicas`, rounded down to whole cores and equal parts.

        Raises SpecError for sizes that do not divide, PlacementError where a share is less than a core.
        """
        sizes = resolve_sizes(self, topology, frozenset(allowed), frozenset(reserved))
        return BalloonSpec(**{**self.as_dict(), "cpus": sizes.cpus, "replicas": sizes.replicas})

    def boot_needed(self, topology: Topology) -> str:
        """What the node would have to be booted with, empty when it is: `needs a boot with SNC-2`."""
        if self.snc is None or self.snc == topology.snc:
            return ""
        return f"needs a boot with {'SNC off' if self.snc == 1 else f'SNC-{self.snc}'}"


def _valid_cpus(value: Any) -> int | str | None:
    value = _number(value)
    if value is None or value in PORTABLE_SIZES:
        return value  # type: ignore[no-any-return]
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    if isinstance(value, str) and (match := re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", value)) and 0 < float(match[1]) <= 100:
        return f"{float(match[1]):g}%"
    close = get_close_matches(str(value), PORTABLE_SIZES, 1)
    raise SpecError(
        f"balloon: cpus={value!r} is no size",
        f"did you mean {close[0]!r}?"
        if close
        else "give a number from 1, 'numa', 'socket', 'all' or a share like '25%'",
    )


def _valid_replicas(value: Any) -> int | str:
    value = _number(value)
    if value == "numa":
        return "numa"
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    raise SpecError(f"balloon: replicas={value!r} is no number of replicas", "give a number from 1, or 'numa'")


def _number(value: Any) -> Any:
    """Digits as a number: the command line and sweeps over it give text."""
    return int(value) if isinstance(value, str) and re.fullmatch(r"\d{1,9}", value.strip()) else value


def _check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    if any(value == choice and type(value) is type(choice) for choice in choices):
        return
    words = [str(choice) for choice in choices if choice is not None]
    raise SpecError(f"balloon: {name}={value!r} is none of {', '.join(words)}", _suggest(str(value), words))


def _suggest(word: str, words: list[str]) -> str:
    close = get_close_matches(word, words, 1)
    return f"did you mean {close[0]!r}?" if close else f"possible are {', '.join(words)}"


@dataclass(frozen=True)
class ReplicaPlacement:
    """The CPUs of one replica: `visible` is what the workload sees of `allocated`. `memory_nodes` are the NUMA nodes
    to bind to or to interleave over; none means unbound."""

    allocated: frozenset[int]
    visible: frozenset[int]
    memory_nodes: tuple[int, ...]


@dataclass(frozen=True)
class Placement:
    """Which CPUs each replica gets. `cpus` is the number allocated to each, `topology` the node's name."""

    spec: BalloonSpec
    cpus: int
    replicas: tuple[ReplicaPlacement, ...]
    topology: str

    @cached_property
    def allocated(self) -> frozenset[int]:
        """The CPUs of all replicas."""
        return frozenset().union(*(replica.allocated for replica in self.replicas))

    @cached_property
    def visible(self) -> frozenset[int]:
        """The CPUs that the workloads of all replicas see."""
        return frozenset().union(*(replica.visible for replica in self.replicas))

    @property
    def sizes_text(self) -> str:
        """Both numbers, per replica: `16 allocated / 8 visible`."""
        return f"{self.cpus} allocated / {len(self.replicas[0].visible)} visible"

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "spec": self.spec.as_dict(),
            "cpus": self.cpus,
            "topology": self.topology,
            "replicas": [
                {
                    "allocated": format_cpus(replica.allocated),
                    "visible": format_cpus(replica.visible),
                    "memory_nodes": list(replica.memory_nodes),
                }
                for replica in self.replicas
            ],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Placement:
        """The inverse of `as_dict`. Raises NriperfError when something is missing."""
        try:
            return cls(
                spec=BalloonSpec.from_arguments(data["spec"]),
                cpus=data["cpus"],
                topology=data["topology"],
                replicas=tuple(
                    ReplicaPlacement(
                        parse_cpus(replica["allocated"]), parse_cpus(replica["visible"]), tuple(replica["memory_nodes"])
                    )
                    for replica in data["replicas"]
                ),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise NriperfError(
                f"this is no description of a placement: {type(error).__name__}: {error}",
                "write it with Placement.as_dict",
            ) from error
