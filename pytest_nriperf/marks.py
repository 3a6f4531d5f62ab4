"""The arguments of our marks, checked: what a test asks for, before anything runs.

Pure functions of plain arguments; `plugin` and `fixtures` hand over what pytest collected. Every mistake is a
SpecError that names the mark, the argument and the mend.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_nriperf.balloons import BalloonSpec
from pytest_nriperf.errors import SpecError
from pytest_nriperf.metrics import parse_metric
from pytest_nriperf.topology import Topology

Arguments = tuple[Sequence[Any], Mapping[str, Any]]

LLM_ARGUMENTS = ("model", "dtype", "weights", "keep_loaded")
GATE_ARGUMENTS = ("tolerance", "floor")


@dataclass(frozen=True)
class LlmRequest:
    """What `@pytest.mark.llm` asks for; empty model and dtype mean the session's settings."""

    model: str = ""
    dtype: str = ""
    weights: str = "private"
    keep_loaded: bool = False


@dataclass(frozen=True)
class GateMark:
    """What `@pytest.mark.gate` names: metrics; tolerance and floor as shares, None for the settings'."""

    metrics: tuple[str, ...] = ()
    tolerance: float | None = None
    floor: float | None = None


@dataclass(frozen=True)
class Requirement:
    """One fact that `requires_node` can ask of a node."""

    words: str
    read: Callable[[Topology], int]
    least: bool


def _memory_gib(node: Topology) -> int:
    return sum(each.memory_bytes or 0 for each in node.nodes) >> 30


REQUIREMENTS: dict[str, Requirement] = {
    "min_cpus": Requirement("CPUs", lambda node: len(node.online), True),
    "min_cores": Requirement("cores", lambda node: len(node.cores()), True),
    "min_sockets": Requirement("sockets", lambda node: len(node.sockets), True),
    "min_numa_nodes": Requirement("NUMA nodes", lambda node: sum(bool(n.cpus) for n in node.nodes), True),
    "min_memory_gib": Requirement("GiB of memory", _memory_gib, True),
    "threads_per_core": Requirement("threads a core", lambda node: node.threads_per_core, False),
    "sockets": Requirement("sockets", lambda node: len(node.sockets), False),
    "numa_nodes": Requirement("NUMA nodes", lambda node: sum(bool(n.cpus) for n in node.nodes), False),
    "snc": Requirement("NUMA nodes a socket (SNC)", lambda node: node.snc, False),
}


def balloon_spec(marks: Sequence[Arguments]) -> BalloonSpec:
    """The balloon of a test from its marks, the closest first: closer arguments win, one by one."""
    merged: dict[str, Any] = {}
    for positional, named in reversed(marks):
        if positional:
            raise SpecError(
                f"balloon: {positional[0]!r} has no name", "name every argument, for example balloon(cpus=16)"
            )
        merged |= named
    return BalloonSpec.from_arguments(merged)


def llm_request(marks: Sequence[Arguments]) -> LlmRequest:
    """The model of a test from its marks, the closest first."""
    merged: dict[str, Any] = {}
    for positional, named in reversed(marks):
        if len(positional) > 1:
            raise SpecError(f"llm: {positional[1]!r} has no name", 'write llm("smollm2", dtype="float32")')
        merged |= {"model": positional[0]} if positional else {}
        merged |= named
    _known("llm", merged, LLM_ARGUMENTS)
    for name, value in merged.items():
        wanted = bool if name == "keep_loaded" else str
        if not isinstance(value, wanted):
            raise SpecError(f"llm: {name} = {value!r} is no {'truth value' if wanted is bool else 'text'}", "mend it")
    if merged.get("weights", "private") not in ("private", "shared"):
        raise SpecError(f"llm: weights = {merged['weights']!r} is unknown", "write 'private' or 'shared'")
    return LlmRequest(**merged)


def gate_of(marks: Sequence[Arguments]) -> GateMark:
    """The gate of a test from its closest mark; no mark is a gate without metrics."""
    if not marks:
        return GateMark()
    positional, named = marks[0]
    _known("gate", named, GATE_ARGUMENTS)
    for name in positional:
        if not isinstance(name, str):
            raise SpecError(f"gate: {name!r} is no metric name", 'write for example gate("ttft", "itl")')
        parse_metric(name)
    shares = {name: _share("gate", name, value) for name, value in named.items()}
    return GateMark(metrics=tuple(dict.fromkeys(positional)), **shares)


def check_requirements(marks: Sequence[Arguments]) -> dict[str, int]:
    """What the `requires_node` marks ask for, by name; SpecError names an argument that is unknown or no number."""
    asked: dict[str, int] = {}
    for positional, named in reversed(marks):
        if positional:
            raise SpecError(f"requires_node: {positional[0]!r} has no name", "write requires_node(min_cpus=64)")
        _known("requires_node", named, REQUIREMENTS)
        for name, wanted in named.items():
            if isinstance(wanted, bool) or not isinstance(wanted, int):
                raise SpecError(f"requires_node: {name} = {wanted!r} is no whole number", f"write {name}=2")
            asked[name] = wanted
    return asked


def unmet(topology: Topology, marks: Sequence[Arguments]) -> str | None:
    """The first fact of the node that a `requires_node` mark asks for and that does not hold, in words."""
    for name, wanted in check_requirements(marks).items():
        requirement = REQUIREMENTS[name]
        found = requirement.read(topology)
        if found < wanted if requirement.least else found != wanted:
            return f"needs {'at least ' * requirement.least}{wanted} {requirement.words}, this node has {found}"
    return None


def _share(mark: str, name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise SpecError(f"{mark}: {name} = {value!r} is no share between 0 and 1", f"write {name}=0.05 for 5 %")
    return float(value)


def _known(mark: str, given: Mapping[str, Any], known: Collection[str]) -> None:
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            raise SpecError(
                f"{mark}: unknown argument {name!r}",
                f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}",
            )
