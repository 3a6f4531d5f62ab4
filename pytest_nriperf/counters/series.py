"""Counter readings joined with any interval of time. Pure; the readings are a recording's, the times nanoseconds.

A *series* is what one source said of one name and one scope (CPU, socket, replica, ...). Over an interval:

- cumulative: each pair of successive readings is taken as a steady rate, so a pair that the interval cuts counts with
  its share of time. The error of an interval's increase is then at most what the two cut pairs grew by, and 0 where
  the rate was steady. A pair in which the counter fell (wrap-around, restart, another tool) is left out.
- gauge: the mean over time of the straight lines between readings.
- interval: the mean over time of what each reading says of the time since the one before it.

An interval in which fewer than two readings lie, or of which less than COVERAGE lies between readings, is undefined.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pytest_nriperf.seams import CounterRow
from pytest_nriperf.units import NANOSECONDS, format_percent

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

COVERAGE = 0.9
SCOPES = ("replica", "cpu", "core", "socket", "node", "pid")
_NONE = -1
_WIDEST = 2**62


class Undefined(Exception):
    """Why a value does not exist."""


class Window(NamedTuple):
    """An interval of time, nanoseconds."""

    start_ns: int
    end_ns: int

    @property
    def seconds(self) -> float:
        """Its length."""
        return (self.end_ns - self.start_ns) / NANOSECONDS


@dataclass(frozen=True, eq=False)
class Series:
    """Readings of one scope in the order of time. `exact` are the integers where every reading was one."""

    scope: Mapping[str, int | None]
    kind: str
    unit: str
    t_ns: Integers
    value: Floats
    exact: Integers | None = None

    def increase(self, window: Window) -> float:
        """By how much a cumulative counter grew in the window. Raises Undefined."""
        return self.rate(window) * window.seconds

    def rate(self, window: Window) -> float:
        """Growth per second of a cumulative counter in the window. Raises Undefined."""
        grown = self.growth
        sound = grown >= 0
        overlap = self._overlaps(window, sound)
        length = np.diff(self.t_ns)
        return float((grown[sound] * (overlap / length[sound])).sum() / overlap.sum() * NANOSECONDS)

    def mean(self, window: Window) -> float:
        """Mean over time of a gauge, or of interval values, in the window. Raises Undefined."""
        overlap = self._overlaps(window, np.ones(len(self.t_ns) - 1 if len(self.t_ns) else 0, bool))
        if self.kind == "interval":
            return float((self.value[1:] * overlap).sum() / overlap.sum())
        start, end = (min(max(t, int(self.t_ns[0])), int(self.t_ns[-1])) for t in window)
        inner = (self.t_ns > start) & (self.t_ns < end)
        origin = self.t_ns[0]
        t = np.concatenate([[start], self.t_ns[inner], [end]]) - origin
        values = np.interp(t, self.t_ns - origin, self.value)
        return float(((values[1:] + values[:-1]) / 2 * np.diff(t)).sum() / (t[-1] - t[0]))

    def last(self) -> float:
        """The last reading. Raises Undefined where there is none."""
        if not len(self.value):
            raise Undefined("there is no reading")
        return float(self.value[-1])

    def whole(self) -> float:
        """Growth from the first reading to the last, around the run; what fell is left out. Raises Undefined."""
        if len(self.value) < 2:
            raise Undefined("there is one reading only")
        return float(self.growth[self.growth >= 0].sum())

    @cached_property
    def growth(self) -> Floats:
        """Differences of successive readings, taken between integers where they are."""
        if self.exact is not None:
            return np.diff(self.exact).astype(np.float64)
        return np.diff(self.value)

    def _overlaps(self, window: Window, sound: NDArray[np.bool_]) -> Floats:
        """Nanoseconds that each sound pair of readings has in common with the window."""
        if window.end_ns <= window.start_ns:
            raise Undefined("the interval is empty")
        inside = int(((self.t_ns >= window.start_ns) & (self.t_ns <= window.end_ns)).sum())
        if inside < 2:
            readings = f"{inside} reading{'s' * (inside != 1)}"
            raise Undefined(f"{readings} in {window.seconds:.3g} s, two are needed: raise --nri-sample-hz")
        begin = np.maximum(self.t_ns[:-1], window.start_ns)
        end = np.minimum(self.t_ns[1:], window.end_ns)
        overlap = np.maximum(end - begin, 0).astype(np.float64)[sound]
        covered = overlap.sum() / (window.end_ns - window.start_ns)
        if covered < COVERAGE:
            raise Undefined(f"readings cover {format_percent(covered, digits=0)} of the interval")
        return np.asarray(overlap)


class CounterTable:
    """All readings of a recording (or of one run), found by run, source and name."""

    def __init__(self, columns: Mapping[str, NDArray[Any]], words: Mapping[str, Sequence[str]]) -> None:
        """`columns`: integer codes of source, name, kind and unit (indices into `words`), integers otherwise."""
        self._columns = columns
        self._words = words
        order, bounds = _grouped(columns)
        self._order = order
        self._groups: dict[tuple[int, str, str], list[slice]] = {}
        self._made: dict[tuple[int, str, str], list[Series]] = {}
        for start, end in pairwise(bounds):
            row = order[start]
            key = (int(columns["run"][row]), self._word("source", row), self._word("name", row))
            self._groups.setdefault(key, []).append(slice(int(start), int(end)))

    @classmethod
    def from_arrow(cls, table: Any) -> CounterTable:
        """From a recording's table of counters."""
        columns: dict[str, NDArray[Any]] = {}
        words: dict[str, Sequence[str]] = {}
        for name in ("source", "name", "kind", "unit"):
            encoded = table[name].combine_chunks().dictionary_encode()
            columns[name] = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
            words[name] = encoded.dictionary.to_pylist()
        for name in ("run", "t_ns", *SCOPES):
            columns[name] = table[name].fill_null(_NONE).to_numpy().astype(np.int64)
        columns["value"] = table["value"].to_numpy().astype(np.float64)
        columns["whole"] = table["value_int"].is_valid().to_numpy().astype(bool)
        columns["value_int"] = table["value_int"].fill_null(0).to_numpy().astype(np.int64)
        return cls(columns, words)

    @classmethod
    def from_rows(cls, rows: Iterable[CounterRow], run: int = 1) -> CounterTable:
        """From readings that are not written yet."""
        found = list(rows)
        columns: dict[str, NDArray[Any]] = {"run": np.full(len(found), run, np.int64)}
        words: dict[str, Sequence[str]] = {}
        for name in ("source", "name", "kind", "unit"):
            texts: dict[str, int] = {}
            columns[name] = np.array([texts.setdefault(getattr(row, name), len(texts)) for row in found], np.int64)
            words[name] = list(texts)
        for name in SCOPES:
            values = [getattr(row, name) for row in found]
            columns[name] = np.array([_NONE if value is None else value for value in values], np.int64)
        columns["t_ns"] = np.array([row.t_ns for row in found], np.int64)
        columns["value"] = np.array([float(row.value) for row in found], np.float64)
        exact = [isinstance(row.value, int) and -(2**63) <= row.value < 2**63 for row in found]
        columns["whole"] = np.array(exact, bool)
        columns["value_int"] = np.array(
            [row.value if whole else 0 for row, whole in zip(found, exact, strict=True)], np.int64
        )
        return cls(columns, words)

    def __len__(self) -> int:
        return len(self._order)

    def has(self, run: int, source: str, name: str) -> bool:
        """Whether there is any reading."""
        return (run, source, name) in self._groups

    def names(self, run: int) -> list[tuple[str, str]]:
        """(source, name) of everything that was read in a run, sorted."""
        return sorted({(source, name) for number, source, name in self._groups if number == run})

    def series(self, run: int, source: str, name: str) -> list[Series]:
        """One series a scope; readings of one instant keep the last."""
        key = (run, source, name)
        if key not in self._made:
            self._made[key] = [self._series(each) for each in self._groups.get(key, ())]
        return self._made[key]

    def _series(self, where: slice) -> Series:
        rows = self._order[where]
        t_ns = self._columns["t_ns"][rows]
        keep = np.ones(len(t_ns), bool)
        np.greater(t_ns[1:], t_ns[:-1], out=keep[:-1])
        rows = rows[keep]
        scope = {name: int(self._columns[name][rows[0]]) for name in SCOPES}
        whole = self._columns["whole"][rows].all()
        return Series(
            scope={name: None if value == _NONE else value for name, value in scope.items()},
            kind=self._word("kind", rows[0]),
            unit=self._word("unit", rows[0]),
            t_ns=t_ns[keep],
            value=self._columns["value"][rows],
            exact=self._columns["value_int"][rows] if whole else None,
        )

    def _word(self, column: str, row: int) -> str:
        return self._words[column][int(self._columns[column][row])]


def _grouped(columns: Mapping[str, NDArray[Any]]) -> tuple[Integers, Integers]:
    """Row numbers ordered by series and time, and where each series begins (and the end of all)."""
    size = len(columns["t_ns"])
    key, span = np.zeros(size, np.int64), 1
    for name in ("run", "source", "name", *SCOPES) if size else ():
        column, width = _codes(columns[name])
        if span > _WIDEST // width:
            key, span = _codes(key, widest=0)
        key, span = key * width + column, span * width
    order = np.lexsort((columns["t_ns"], key))
    starts = np.flatnonzero(np.diff(key[order], prepend=-1)) if size else np.empty(0, np.int64)
    return order, np.append(starts, size).astype(np.int64)


def _codes(column: Integers, widest: int = 1 << 20) -> tuple[Integers, int]:
    """The column from 0 on and how many values that spans; numbered through where it spans more than `widest`."""
    low = int(column.min())
    width = int(column.max()) - low + 1
    if width > widest:
        _, column = np.unique(column, return_inverse=True)
        return column.astype(np.int64), int(column.max()) + 1
    return column - low, width
