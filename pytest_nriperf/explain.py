"""Which counters moved together with a metric, and what that usually means. Pure; by rules fixed beforehand.

A counter *stands out* between two sides of run values when

1. it moved by at least FLOOR of its size; a share of time or traffic, also seconds a second, by at least POINTS (of
   one, or of itself where it is more), since a share near nothing doubles easily; a count that was nothing to at least
   ONE (a second, or in a run);
2. the medians lie further apart than the ranges of both sides together, WIDER times that with less than four runs
   on a side: with normal noise of 3 % on every counter, something stands out by chance in about one comparison in a
   hundred. A side of one run has no range: there FLOOR_ALONE and POINTS_ALONE hold, and it is said.

A sentence on the cause is said for counters that stand out in the direction that harms, unless the metric got better;
for the other direction, unless it got worse, the same sentences say what is gone. Which it got says its verdict, and
without one whether it stands out itself. Counters that stand out without a known meaning are listed all the same.
Nothing stands out: nothing is said.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pytest_nriperf.counters import COUNTERS
from pytest_nriperf.metrics import METRICS, Measurement, parse_metric
from pytest_nriperf.units import format_percent, format_value

FLOOR = 0.05
POINTS = 0.02
ONE = 1.0
WIDER = {2: 10.0, 3: 2.5}
# Of one: what is well at nothing. Times a second, summed over CPUs, can be more than one.
SHARES = ("share", "s/s")
FLOOR_ALONE = 0.25
POINTS_ALONE = 0.10

Values = Mapping[str, Sequence[float]]

# Counter -> what a harmful move of it usually means, the surest causes first. What is not here is an effect as often
# as a cause (bandwidth, instructions per cycle, power).
CAUSES = {
    "throttled_time": "a CPU limit holds the engines back",
    "thermal_throttles": "heat or power limits slow the CPUs down",
    "steal_share": "the hypervisor gives the CPUs to others",
    "remote_memory_share": "pages are on the wrong node",
    "remote_share": "pages are on the wrong node",
    "foreign_share": "something else runs on the same CPUs",
    "run_queue_wait": "threads wait for CPUs: others run there, or there are more threads than CPUs",
    "sibling_busy": "the hidden siblings are in use",
    "frequency": "the CPUs run slower (power, heat, governor or turbo)",
    "major_faults": "memory is short: pages come from the disk",
    "page_reclaims": "memory is short: the kernel searches for free pages",
    "memory_pressure": "memory is short",
    "numa_migrations": "the kernel moves pages between NUMA nodes",
    "system_interrupts": "firmware interrupts the CPUs",
    "memory_per_token": "each token moves more bytes",
    "l3_occupancy": "others take the L3 cache",
    "migrations": "threads change their CPUs",
}
# A cause that another one explains is not said beside it.
IMPLIED = {"run_queue_wait": "foreign_share", "remote_share": "remote_memory_share", "memory_pressure": "page_reclaims"}


@dataclass(frozen=True)
class Moved:
    """A counter that stands out. `harmful`: it moved the way that is worse."""

    name: str
    unit: str
    before: float
    after: float
    harmful: bool

    def __str__(self) -> str:
        """With its effect size: relative, or from where to where for shares and what began at nothing."""
        name = self.name.replace("_", " ")
        if self.unit == "share":
            return f"{name} {format_percent(self.before, digits=0)} -> {format_percent(self.after, digits=0)}"
        if self.unit in SHARES or self.before <= 0 or self.after <= 0:
            return f"{name} {format_value(self.before, self.unit)} -> {format_value(self.after, self.unit)}"
        return f"{name} {format_percent(self.after / self.before - 1, signed=True, digits=0)}"

    @property
    def size(self) -> float:
        """How far it moved, for sorting: the logarithm of its ratio, for shares of the ratio of what is left."""
        if self.unit in SHARES:
            return abs(self.after - self.before)
        low, high = sorted((abs(self.before), abs(self.after)))
        return math.log(high) - math.log(low) if low > 0 else math.inf


@dataclass(frozen=True)
class Explanation:
    """What stands out beside a metric's change. `alone`: one side has a single run."""

    metric: str
    effect: float
    moved: tuple[Moved, ...]
    causes: tuple[str, ...]
    alone: bool = False

    @property
    def counters(self) -> str:
        """What moved and its causes: `remote share 2 % -> 31 %, memory bandwidth -9 %: pages are on the wrong node`."""
        text = ", ".join(map(str, self.moved))
        if self.causes:
            text += f": {'; '.join(self.causes)}"
        return f"{text} (one run only: may be chance)" if self.alone else text

    def __str__(self) -> str:
        """The same after the metric and its change."""
        return f"{self.metric} {format_percent(self.effect, signed=True, digits=0)}, {self.counters}"


def explain(metric: str, before: Values, after: Values, outcome: str = "") -> Explanation | None:
    """The counters that moved with `metric` between two sides of run values; None when none stands out.

    Both sides map metric names (latency metrics and counters) to one value a run. `outcome` is the metric's verdict,
    `worse` or `better`, where there is one.

    >>> before = {"tpot": [0.050, 0.051, 0.050], "remote_share": [0.02, 0.02, 0.03]}
    >>> after = {"tpot": [0.056, 0.055, 0.056], "remote_share": [0.31, 0.30, 0.33]}
    >>> str(explain("tpot", before, after))
    'tpot +12 %, remote share 2 % -> 31 %: pages are on the wrong node'
    """
    moved = standing_out(before, after)
    if not moved:
        return None
    old, new = _median(before.get(metric, ())), _median(after.get(metric, ()))
    effect = new / old - 1 if old else float("nan")
    alone = all(min(len(_finite(side.get(each.name, ()))) for side in (before, after)) < 2 for each in moved)
    return Explanation(metric, effect, moved, _causes(moved, outcome or _direction(metric, before, after)), alone)


def standing_out(before: Values, after: Values) -> tuple[Moved, ...]:
    """Every counter that stands out: known causes first, then by size."""
    found = []
    for name, kind in COUNTERS.items():
        old, new = _finite(before.get(name, ())), _finite(after.get(name, ()))
        if old and new and _stands_out(old, new, kind.unit):
            a, b = _median(old), _median(new)
            found.append(Moved(name, kind.unit, a, b, (b > a) == (kind.better == "lower")))
    order = list(CAUSES)
    return tuple(
        sorted(found, key=lambda each: (order.index(each.name) if each.name in CAUSES else len(order), -each.size))
    )


def run_values(measurement: Measurement) -> dict[str, list[float]]:
    """Every metric and counter of a measurement, one value a run."""
    names = [*METRICS, *measurement.pcm]
    return {name: [value for value in measurement.metric(name).per_run if math.isfinite(value)] for name in names}


def _stands_out(old: Sequence[float], new: Sequence[float], unit: str) -> bool:
    a, b = _median(old), _median(new)
    alone = min(len(old), len(new)) < 2
    if unit in SHARES:
        far = abs(b - a) >= (POINTS_ALONE if alone else POINTS) * max(1.0, min(a, b))
    elif min(a, b) <= 0:
        far = abs(b - a) >= ONE
    else:
        far = abs(math.log(b) - math.log(a)) >= math.log1p(FLOOR_ALONE if alone else FLOOR)
    width = WIDER.get(min(len(old), len(new)), 1.0)
    return far and abs(b - a) > width * (max(old) - min(old) + max(new) - min(new))


def _causes(moved: Sequence[Moved], direction: str) -> tuple[str, ...]:
    """What the moves mean: of harmful ones unless the metric got better, and what is gone unless it got worse."""
    said = [] if direction == "better" else _meanings(moved, harmful=True)
    if direction != "worse":
        said += [f"no longer so: {text}" for text in _meanings(moved, harmful=False)]
    return tuple(dict.fromkeys(said))


def _meanings(moved: Sequence[Moved], *, harmful: bool) -> list[str]:
    names = [each.name for each in moved if each.harmful == harmful]
    return [CAUSES[name] for name in CAUSES if name in names and IMPLIED.get(name) not in names]


def _direction(metric: str, before: Values, after: Values) -> str:
    """`worse` or `better` where the metric itself stands out by the same rules, else empty."""
    old, new = _finite(before.get(metric, ())), _finite(after.get(metric, ()))
    if not old or not new or not _stands_out(old, new, ""):
        return ""
    return "worse" if (_median(new) > _median(old)) == (_better(metric) == "lower") else "better"


def _better(metric: str) -> str:
    if metric in COUNTERS:
        return COUNTERS[metric].better
    return METRICS[parse_metric(metric).base].better


def _finite(values: Sequence[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def _median(values: Sequence[float]) -> float:
    finite = _finite(values)
    return float(np.median(finite)) if finite else float("nan")
