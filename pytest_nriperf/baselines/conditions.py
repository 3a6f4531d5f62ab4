"""Under what conditions each run was made, from the counters of its recording: reference loads and disturbances."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from pytest_nriperf.counters import CounterTable

if TYPE_CHECKING:
    import pyarrow

REFERENCE_SOURCE = "reference"
# What disturbances are told by, all of the kernel's.
_COUNTED = (
    "cpu_steal_time",
    "on_cpu_time",
    "run_queue_wait",
    "throttled_time",
    "core_throttles",
    "package_throttles",
)


def reference_loads(counters: pyarrow.Table) -> dict[str, dict[int, float]]:
    """Name -> run -> mean over the replicas and over before and after the run."""
    table = CounterTable.from_arrow(counters)
    found: dict[str, dict[int, float]] = {}
    for run in _runs(counters):
        for source, name in table.names(run):
            if source == REFERENCE_SOURCE:
                values = [one.value for one in table.series(run, source, name)]
                found.setdefault(name, {})[run] = float(np.mean(np.concatenate(values)))
    return found


def run_facts(counters: pyarrow.Table) -> dict[int, dict[str, float]]:
    """Run -> shares (of CPU time or of the run) that tell of disturbances; what was not counted is absent."""
    table = CounterTable.from_arrow(counters)
    facts = {}
    for run in _runs(counters):
        gains = {
            name: [
                (one.whole(), float(one.t_ns[-1] - one.t_ns[0]))
                for one in table.series(run, "proc", name)
                if len(one.value) > 1
            ]
            for name in _COUNTED
        }
        gained = {name: found for name, found in gains.items() if found}
        if gained:
            facts[run] = dict(_facts(gained))
    return facts


def _runs(counters: pyarrow.Table) -> list[int]:
    return sorted(set(counters["run"].to_pylist()))


def _facts(gained: Mapping[str, list[tuple[float, float]]]) -> Iterator[tuple[str, float]]:
    """Each cumulative counter's gain and the time it took, summed up to shares."""

    def total(name: str) -> float:
        return sum(gain for gain, _ in gained.get(name, ()))

    def time_of(name: str) -> float:
        return sum(time for _, time in gained.get(name, ()))

    if time_of("cpu_steal_time"):
        yield "steal_share", total("cpu_steal_time") / time_of("cpu_steal_time")
    runnable = total("on_cpu_time") + total("run_queue_wait")
    if runnable:
        yield "waiting_share", total("run_queue_wait") / runnable
    if time_of("throttled_time"):
        yield "quota_share", total("throttled_time") / time_of("throttled_time")
    if "core_throttles" in gained or "package_throttles" in gained:
        yield "thermal_throttles", total("core_throttles") + total("package_throttles")
