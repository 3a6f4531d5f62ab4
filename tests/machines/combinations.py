"""All combinations of a balloon's arguments, and a few of them in which every pair of values still occurs."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pytest_nriperf.balloons import BalloonSpec
from pytest_nriperf.errors import SpecError
from tests.machines.shapes import Shape

AXES: Mapping[str, Sequence[Any]] = {
    "hyperthreads": ("paired", "spread", "hidden"),
    "numa": ("any", "single", "socket", "all"),
    "memory": ("local", "any", "interleave"),
    "placement": ("balance", "pack"),
    "replicas": (1, 2, "numa"),
}
Combination = Mapping[str, Any]
# From so many CPUs on a machine is for scale.
LARGE = 100


def combinations() -> list[Combination]:
    """Every combination that is not refused whatever the machine."""
    return [dict(zip(AXES, values, strict=True)) for values in itertools.product(*AXES.values()) if _valid(values)]


def _valid(values: Sequence[Any]) -> bool:
    try:
        BalloonSpec(cpus=2, **dict(zip(AXES, values, strict=True)))
    except SpecError:
        return False
    return True


@functools.cache
def pairwise() -> list[Combination]:
    """Few combinations with every pair of values that occurs at all: the one with most new pairs first, and so on."""
    left = combinations()
    wanted = {pair for combination in left for pair in _pairs(combination)}
    chosen = []
    while wanted:
        best = max(left, key=lambda combination: len(wanted & _pairs(combination)))
        wanted -= _pairs(best)
        chosen.append(best)
    return chosen


def _pairs(combination: Combination) -> set[tuple[tuple[str, Any], ...]]:
    return set(itertools.combinations(combination.items(), 2))


def tried(shape: Shape, *, everything: bool) -> list[Combination]:
    """The combinations to try on a machine. On a large one it is the sizes that are new, not the combinations."""
    return combinations() if everything and shape.cpus < LARGE else pairwise()


def sizes(combination: Combination, shape: Shape, *, everything: bool) -> Iterator[int]:
    """Sizes worth trying: the smallest that makes whole cores and equal parts of NUMA nodes; of few a larger one when
    everything is wanted."""
    core = 1 if combination["hyperthreads"] == "spread" else shape.threads
    parts = {"socket": shape.snc, "all": shape.cpu_nodes}.get(combination["numa"], 1)
    yield core * parts
    if everything and combination in pairwise():
        yield (16 if shape.cpus >= LARGE else 2) * core * parts
