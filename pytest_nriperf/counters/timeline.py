"""Counters over time, for drawing beside the dots: a rate for each pair of readings. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from pytest_nriperf.counters.series import CounterTable, Floats, Series
from pytest_nriperf.units import NANOSECONDS


class Drawn(NamedTuple):
    """What is worth drawing: label, unit, factor from growth per second, and the scope that tells series apart."""

    label: str
    unit: str
    factor: float
    scope: str


# More series of one name than this are not told apart in a picture.
MOST = 8
# (source, name) -> how it is drawn. Series of other scopes of the same name are left out.
DRAWN = {
    ("pcm", "DRAM_Reads"): Drawn("memory read", "B/s", 1.0, "socket"),
    ("pcm", "DRAM_Writes"): Drawn("memory written", "B/s", 1.0, "socket"),
    ("pcm", "Package_Joules_Consumed"): Drawn("package power", "W", 1.0, "socket"),
    ("perf", "memory_read_bytes"): Drawn("memory read", "B/s", 1.0, "socket"),
    ("perf", "memory_write_bytes"): Drawn("memory written", "B/s", 1.0, "socket"),
    ("energy", "package_energy"): Drawn("package power", "W", 1e-6, "socket"),
    ("proc", "on_cpu_time"): Drawn("CPUs in use", "", 1e-9, "replica"),
    ("proc", "run_queue_wait"): Drawn("threads waiting for a CPU", "", 1e-9, "replica"),
    ("proc", "throttled_time"): Drawn("refused by a CPU limit", "s/s", 1e-9, "replica"),
    ("proc", "machine_steal_time"): Drawn("CPUs taken by the hypervisor", "", 1e-9, ""),
}


class Timeline(NamedTuple):
    """Rates of one series: `t_ns` are the middles of its pairs of readings. `where` is its scope in words."""

    run: int
    label: str
    unit: str
    where: str
    t_ns: Floats
    value: Floats


def timelines(table: CounterTable, run: int) -> Iterator[Timeline]:
    """Everything of DRAWN that was counted in a run and was not nothing throughout."""
    for (source, name), drawn in DRAWN.items():
        found = [_timeline(run, series, drawn) for series in table.series(run, source, name)]
        kept = [timeline for timeline in found if timeline is not None]
        if len(kept) <= MOST:
            yield from kept


def _timeline(run: int, series: Series, drawn: Drawn) -> Timeline | None:
    scope = series.scope.get(drawn.scope) if drawn.scope else None
    if (drawn.scope and scope is None) or series.scope["cpu"] is not None or len(series.t_ns) < 3:
        return None
    grown = series.growth
    sound = grown >= 0
    value = grown[sound] / np.diff(series.t_ns)[sound] * NANOSECONDS * drawn.factor
    if not value.any():
        return None
    middle = (series.t_ns[:-1] + np.diff(series.t_ns) / 2)[sound]
    return Timeline(
        run, drawn.label, drawn.unit, f"{drawn.scope} {scope}".strip() if drawn.scope else "", middle, value
    )
