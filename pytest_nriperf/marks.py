"""The arguments of our marks, checked: what a test asks for, before anything runs.

Pure functions of plain arguments; `plugin` and `fixtures` hand over what pytest collected. Every mistake is a
SpecError that names the mark, the argument and the mend.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from pytest_nriperf.balloons import BalloonSpec
from pytest_nriperf.errors import SpecError
from pytest_nriperf.metrics import parse_metric
from pytest_nriperf.topology import Topology

Arguments = tuple[Sequence[Any], Mapping[str, Any]]

LLM_ARGUMENTS = ("model", "dtype", "weights", "keep_loaded")
GATE_ARGUMENTS = ("tolerance", "floor")
BALLOON_ARGUMENTS = tuple(each.name for each in fields(BalloonSpec))
VARIANT_ARGUMENTS = ("model", "dtype", "weights", *BALLOON_ARGUMENTS, "env", "python")
VARIANT_MODES = ("turns", "duet")


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
class Variant:
    """One side of a comparison inside one session: what the test asks for, changed by the variant's own arguments.

    `own` are these arguments as written. `environment` and `python` are of the engine's process.
    """

    name: str
    llm: LlmRequest
    balloon: BalloonSpec
    environment: Mapping[str, str]
    python: str
    own: Mapping[str, Any]


@dataclass(frozen=True)
class VariantsMark:
    """What `@pytest.mark.variants` asks for: `second` is judged against `first`, in turns or side by side (duet)."""

    first: Variant
    second: Variant
    duet: bool = False

    @property
    def balloon(self) -> BalloonSpec | None:
        """The one balloon that both run in, one after the other or in a half each; None when their balloons differ."""
        spec = self.first.balloon
        if not self.duet:
            return spec if spec == self.second.balloon else None
        replicas = int(spec.replicas)
        return replace(spec, replicas=2 * replicas, cpus=spec.cpus or f"{50 / replicas:g}%")

    @property
    def balloons(self) -> tuple[BalloonSpec, ...]:
        """Everything that will be provisioned."""
        return (self.balloon,) if self.balloon else (self.first.balloon, self.second.balloon)


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


def variants_of(
    marks: Sequence[Arguments], *, balloon: Sequence[Arguments], llm: Sequence[Arguments]
) -> VariantsMark | None:
    """The variants of a test from its closest mark, None without one; `balloon`, `llm` are the test's other marks."""
    if not marks:
        return None
    positional, named = marks[0]
    mode = named.get("mode", "turns")
    given = {name: value for name, value in named.items() if name != "mode"}
    if positional or len(given) != 2:
        raise SpecError(
            f"variants: {len(positional) + len(given)} variants, it takes two with a name each",
            'write for example variants(a={"dtype": "float32"}, b={"dtype": "bfloat16"})',
        )
    if mode not in VARIANT_MODES:
        raise SpecError(f"variants: mode = {mode!r} is unknown", "write 'turns' or 'duet'")
    first, second = (_variant(name, own, balloon, llm) for name, own in given.items())
    if first.llm.keep_loaded:
        raise SpecError("variants: a model that stays loaded is one run", "leave llm(keep_loaded=True) out")
    if mode == "duet":
        _check_duet(first, second)
    return VariantsMark(first, second, mode == "duet")


def _variant(name: str, own: Any, balloon: Sequence[Arguments], llm: Sequence[Arguments]) -> Variant:
    if not isinstance(own, Mapping):
        raise SpecError(f"variants: {name} = {own!r} is no dictionary", f'write {name}={{"dtype": "bfloat16"}}')
    _known(f"variants: {name}", own, VARIANT_ARGUMENTS)
    environment, python = own.get("env", {}), own.get("python", "")
    if not isinstance(environment, Mapping) or not all(
        isinstance(text, str) for pair in environment.items() for text in pair
    ):
        raise SpecError(
            f"variants: {name}: env = {environment!r} holds what is no text", 'write env={"OMP_NUM_THREADS": "2"}'
        )
    if not isinstance(python, str):
        raise SpecError(f"variants: {name}: python = {python!r} is no path", "write the path of an interpreter")
    try:
        spec = balloon_spec([((), {key: value for key, value in own.items() if key in BALLOON_ARGUMENTS}), *balloon])
        request = llm_request([((), {key: value for key, value in own.items() if key in LLM_ARGUMENTS}), *llm])
    except SpecError as error:
        raise SpecError(f"variants: {name}: {error.fact}", error.next_step) from None
    return Variant(name, request, spec, dict(environment), python, dict(own))


def _check_duet(first: Variant, second: Variant) -> None:
    """Side by side the balloons are equal, and twice as many replicas have to be counted beforehand."""
    if first.balloon != second.balloon:
        raise SpecError(
            f"variants: mode='duet' has two equal balloons, {first.name} and {second.name} ask for different ones",
            "leave mode out: then they take turns",
        )
    if not isinstance(first.balloon.replicas, int):
        raise SpecError(
            f"variants: mode='duet' with replicas={first.balloon.replicas!r}", "give the number of replicas a variant"
        )


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
