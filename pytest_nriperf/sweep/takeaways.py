"""What a sweep says in plain words: each sentence computed from rows, with its numbers and how sure they are.

A comparison stands only when its interval excludes "no difference"; without repeats it is told as seen once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats as distributions

from pytest_nriperf.sweep.rows import Row, spread_of, varying
from pytest_nriperf.units import format_percent

CONFIDENCE = 0.95
LEAST_SHIFT = 0.02
LEAST_PAIRS = 6


@dataclass(frozen=True)
class Takeaway:
    """A sentence with the ratio it rests on, its interval (None: no cell was repeated) and the cells behind it."""

    text: str
    ratio: float
    low: float | None
    high: float | None
    cells: int
    simulated: bool

    @property
    def confidence(self) -> str:
        """How sure the ratio is, in words."""
        if self.low is None or self.high is None:
            return "seen once, not repeated: no interval"
        return f"{format_percent(CONFIDENCE, digits=0)} interval {self.low:.2f}x to {self.high:.2f}x"

    def __str__(self) -> str:
        return f"{'SIMULATED: ' if self.simulated else ''}{self.text} ({self.confidence})"


def takeaways(rows: Sequence[Row]) -> list[Takeaway]:
    """All that the rows carry, the most useful first; one place (node, SNC mode, model) at a time."""
    places = [axis for axis in varying(rows) if any(axis in row.where for row in rows)]
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if np.isfinite(row.value("tpot")) and np.isfinite(row.value("throughput")):
            groups.setdefault(tuple((axis, row.where.get(axis)) for axis in places), []).append(row)
    found: list[Takeaway] = []
    for place, group in groups.items():
        said = [*_against_one(group), *_cheapest(group), *_fewer(group), *_hyperthreads(group)]
        label = ", ".join(f"{axis} {value}" for axis, value in place)
        found.extend(_labelled(item, label) for item in said)
    return found


def _labelled(item: Takeaway, label: str) -> Takeaway:
    text = f"{label}: {item.text}" if label else item.text
    return Takeaway(text, item.ratio, item.low, item.high, item.cells, item.simulated)


def _against_one(rows: Sequence[Row]) -> list[Takeaway]:
    """The best node throughput against one replica on the most CPUs that were measured."""
    one = _largest_single(rows)
    best = max(rows, key=lambda row: (row.value("throughput"), -row.cpus))
    if one is None or best is one:
        return []
    gain, speed = _ratio(rows, best, one, "throughput"), _ratio(rows, one, best, "tpot")
    if not _clear(gain):
        return []
    text = (
        f"{best.name}: {gain[0]:.3g}x node throughput at {speed[0]:.2g}x stream speed, "
        f"{_share(best)}, against {one.name}"
    )
    return [_takeaway(text, gain, [best, one])]


def _cheapest(rows: Sequence[Row]) -> list[Takeaway]:
    """The fewest CPUs that still give nearly the best throughput."""
    best = max(rows, key=lambda row: (row.value("throughput"), -row.cpus))
    good = [row for row in rows if row.value("throughput") >= 0.95 * best.value("throughput") and row.cpus < best.cpus]
    if not good:
        return []
    cheap = min(good, key=lambda row: (row.cpus, -row.value("throughput")))
    kept = _ratio(rows, cheap, best, "throughput")
    text = (
        f"{cheap.name} keep {format_percent(kept[0], digits=0)} of the best node throughput with {_share(cheap)} "
        f"({best.name} take {best.cpus})"
    )
    return [_takeaway(text, kept, [cheap, best])]


def _fewer(rows: Sequence[Row]) -> list[Takeaway]:
    """Whether one replica streams faster on fewer CPUs than on the most."""
    singles = [row for row in rows if _replicas(row) == 1]
    most = _largest_single(rows)
    if most is None or len({row.cpus for row in singles}) < 3:
        return []
    best = min(singles, key=lambda row: (row.value("tpot"), row.cpus))
    speed = _ratio(rows, most, best, "tpot")
    if best.cpus >= most.cpus or not _clear(speed) or speed[0] < 1:
        return []
    text = f"one stream is fastest on {best.cpus} CPUs ({best.name}): {speed[0]:.3g}x its speed on {most.cpus}"
    return [_takeaway(text, speed, [best, most])]


def _hyperthreads(rows: Sequence[Row]) -> list[Takeaway]:
    """Each kind of hyperthread use against another in cells that are alike in all else, sign-tested."""
    found: list[Takeaway] = []
    for kind, other in (("hidden", "paired"), ("spread", "hidden")):
        pairs = _matched(rows, kind, other)
        for words, chosen in (("up to half load", _low(pairs)), ("above half load", _high(pairs))):
            item = _paired(kind, other, words, chosen)
            found.extend([item] if item else [])
    return found


def _paired(kind: str, other: str, words: str, pairs: Sequence[tuple[Row, Row]]) -> Takeaway | None:
    if len(pairs) < LEAST_PAIRS:
        return None
    logs = np.array([np.log(one.value("throughput") / two.value("throughput")) for one, two in pairs])
    low, high = _median_interval(logs)
    ratio = float(np.exp(np.median(logs)))
    if not _clear((ratio, low, high)):
        return None
    wins = int((logs > 0).sum())
    text = (
        f"{words}, {kind} gives {ratio:.2f}x the node throughput of {other} at the same replicas and allocated CPUs: "
        f"more in {wins} of {len(pairs)} cells"
    )
    return _takeaway(text, (ratio, low, high), [row for pair in pairs for row in pair])


def _median_interval(logs: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[float, float]:
    """Interval of the median's ratio by the sign test: order statistics, no shape assumed.

    >>> _median_interval(np.zeros(5)), _median_interval(np.zeros(6))
    ((0.0, inf), (1.0, 1.0))
    """
    values = np.sort(logs)
    below = distributions.binom.cdf(np.arange(len(values)), len(values), 0.5)
    cut = int((below <= (1 - CONFIDENCE) / 2).sum()) - 1
    if cut < 0:
        return 0.0, float("inf")
    return float(np.exp(values[cut])), float(np.exp(values[len(values) - 1 - cut]))


def _matched(rows: Sequence[Row], kind: str, other: str) -> list[tuple[Row, Row]]:
    def key(row: Row) -> str:
        return repr(sorted((axis, value) for axis, value in row.cell.items() if axis != "hyperthreads"))

    partners = {key(row): row for row in rows if row.cell.get("hyperthreads") == other}
    own = [row for row in rows if row.cell.get("hyperthreads") == kind]
    return [(row, partners[key(row)]) for row in own if key(row) in partners]


def _low(pairs: Sequence[tuple[Row, Row]]) -> list[tuple[Row, Row]]:
    return [pair for pair in pairs if pair[0].node_cpus and pair[0].cpus <= 0.5 * pair[0].node_cpus]


def _high(pairs: Sequence[tuple[Row, Row]]) -> list[tuple[Row, Row]]:
    return [pair for pair in pairs if pair[0].node_cpus and pair[0].cpus > 0.5 * pair[0].node_cpus]


def _largest_single(rows: Sequence[Row]) -> Row | None:
    """One replica on the most CPUs: what one gets without thinking (`paired` before other uses of threads)."""
    singles = [row for row in rows if _replicas(row) == 1]
    usual = [row for row in singles if row.cell.get("hyperthreads", "paired") == "paired"] or singles
    return max(usual, key=lambda row: (row.cpus, row.value("throughput")), default=None)


def _replicas(row: Row) -> int:
    try:
        return int(row.cell.get("replicas", 1))
    except ValueError:
        return 0


def _share(row: Row) -> str:
    return f"{row.cpus} of {row.node_cpus} CPUs" if row.node_cpus else f"{row.cpus} CPUs"


Ratio = tuple[float, float | None, float | None]


def _ratio(rows: Sequence[Row], one: Row, other: Row, metric: str) -> Ratio:
    """one / other with its interval: Student's t on logs with the spread pooled over all repeated cells."""
    ratio = one.value(metric) / other.value(metric)
    spread = spread_of(rows, metric)
    counts = (len(one.runs(metric)), len(other.runs(metric)))
    if not spread.known:
        return ratio, None, None
    reach = float(distributions.t.ppf((1 + CONFIDENCE) / 2, spread.degrees)) * spread.deviation
    reach *= float(np.sqrt(sum(1 / count for count in counts)))
    return ratio, ratio * float(np.exp(-reach)), ratio * float(np.exp(reach))


def _clear(ratio: Ratio) -> bool:
    """Whether the difference is there: outside its interval, or, seen once, well beyond what nobody cares about."""
    value, low, high = ratio
    if abs(value - 1) < LEAST_SHIFT:
        return False
    return low is None or high is None or low > 1 or high < 1


def _takeaway(text: str, ratio: Ratio, rows: Sequence[Row]) -> Takeaway:
    return Takeaway(text, ratio[0], ratio[1], ratio[2], len(rows), any(row.simulated for row in rows))
