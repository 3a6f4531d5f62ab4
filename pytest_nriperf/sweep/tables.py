"""Tables of wisdom: a metric by two axes, over the rows of any number of sessions, nodes and SNC modes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pytest_nriperf.sweep.rows import OBJECTIVES, Row, ordered, varying

WIDEST = 14


@dataclass(frozen=True)
class Entry:
    """One field: the best row of those that fall here. `at` names the axes that were optimised over."""

    value: float
    low: float
    high: float
    runs: int
    cpus: int
    visible: int
    at: str = ""
    best: bool = False
    simulated: bool = False


@dataclass(frozen=True)
class WisdomTable:
    """`entries[row][column]` in base units, None where nothing was measured; the best of all is marked."""

    metric: str
    unit: str
    better: str
    row_axis: str
    column_axis: str
    rows: tuple[Any, ...]
    columns: tuple[Any, ...]
    entries: tuple[tuple[Entry | None, ...], ...]
    fixed: tuple[tuple[str, Any], ...] = ()

    @property
    def title(self) -> str:
        """What it shows, in words."""
        held = "".join(f", {axis}={value}" for axis, value in self.fixed)
        across = f" and {self.column_axis}" if self.column_axis else ""
        return f"{self.metric} by {self.row_axis}{across}{held}"


def wisdom(rows: Sequence[Row], metric: str) -> list[WisdomTable]:
    """Tables that show a sweep at a glance: replicas down, and across the axis of few values that matters most.

    Places (node, SNC mode, model) that vary get a table each; an axis too long for columns is optimised over, and
    each field says at which value its best was found.
    """
    axes = varying(rows)
    places = [axis for axis in axes if any(axis in row.where for row in rows)]
    free = [axis for axis in axes if axis not in places]
    if not free:
        free = [next(iter(rows[0].cell), "cell")] if rows else []
    down = next((axis for axis in ("replicas", "cpus", *free) if axis in free), None)
    if down is None:
        return []
    rest = [axis for axis in free if axis != down]
    narrow = [axis for axis in rest if len(axes.get(axis, ())) <= WIDEST]
    across = next((axis for axis in ("hyperthreads", "cpus", *narrow) if axis in narrow), "")
    groups: dict[tuple[tuple[str, Any], ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple((axis, row.where.get(axis)) for axis in places), []).append(row)
    return [table(group, metric, down, across, fixed) for fixed, group in groups.items()]


def table(
    rows: Sequence[Row], metric: str, down: str, across: str, fixed: tuple[tuple[str, Any], ...] = ()
) -> WisdomTable:
    """One table; `across` may be empty (one column). Of several rows in one field the best stands."""
    unit, better = OBJECTIVES.get(metric, ("s", "lower"))
    groups: dict[tuple[Any, Any], list[Row]] = {}
    for row in rows:
        if np.isfinite(row.value(metric)):
            groups.setdefault((row.cell.get(down, "-"), row.cell.get(across, "best")), []).append(row)
    lines = tuple(ordered(dict.fromkeys(key[0] for key in groups)))
    columns = tuple(ordered(dict.fromkeys(key[1] for key in groups)))
    winners = {key: _best(group, metric, better) for key, group in groups.items()}
    champion = _best(list(winners.values()), metric, better) if winners else None
    optimised = [axis for axis in varying(rows) if axis not in (down, across) and axis not in dict(fixed)]
    entries = tuple(
        tuple(_entry(winners.get((line, column)), metric, optimised, champion) for column in columns) for line in lines
    )
    return WisdomTable(metric, unit, better, down, across, lines, columns, entries, fixed)


def _best(rows: Sequence[Row], metric: str, better: str) -> Row:
    sign = 1.0 if better == "lower" else -1.0
    return min(rows, key=lambda row: (sign * row.value(metric), row.cpus))


def _entry(row: Row | None, metric: str, optimised: Sequence[str], champion: Row | None) -> Entry | None:
    if row is None:
        return None
    runs = row.runs(metric)
    labels = {**row.cell, **row.where}
    at = ", ".join(f"{axis}={labels[axis]}" for axis in optimised if axis in labels)
    return Entry(
        row.value(metric), min(runs), max(runs), len(runs), row.cpus, row.visible, at, row is champion, row.simulated
    )
