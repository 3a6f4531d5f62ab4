"""Under what conditions each run was made, from the counters of its recording: reference loads and disturbances."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow

REFERENCE_SOURCE = "reference"
_SCOPES = ("replica", "cpu", "socket", "pid")


def reference_loads(counters: pyarrow.Table) -> dict[str, dict[int, float]]:
    """Name -> run -> mean over the replicas and over before and after the run."""
    found: dict[str, dict[int, float]] = {}
    for (run, name), values, _ in _series(counters, REFERENCE_SOURCE, ("run", "name")):
        found.setdefault(str(name), {})[int(run)] = float(np.mean(values))
    return found


def run_facts(counters: pyarrow.Table) -> dict[int, dict[str, float]]:
    """Run -> shares (of CPU time or of the run) that tell of disturbances; what was not counted is absent."""
    gains: dict[int, dict[str, list[tuple[float, float]]]] = {}
    for (run, name, *_), values, times in _series(counters, "proc", ("run", "name", *_SCOPES)):
        if len(values) > 1:
            gain = (float(values[-1] - values[0]), float(times[-1] - times[0]))
            gains.setdefault(int(run), {}).setdefault(str(name), []).append(gain)
    return {run: dict(_facts(gained)) for run, gained in gains.items()}


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


def _series(
    counters: pyarrow.Table, source: str, keys: tuple[str, ...]
) -> Iterator[tuple[tuple[Any, ...], NDArray[np.float64], NDArray[np.int64]]]:
    """Readings of a source, by what tells one series from another: values and times (ns) in order of time."""
    if not counters.num_rows:
        return
    mine = np.flatnonzero(np.asarray(counters["source"].to_pylist()) == source)
    if not mine.size:
        return
    part = counters.take(mine)
    values, times = part["value"].to_numpy(), part["t_ns"].to_numpy()
    rows: dict[tuple[Any, ...], list[int]] = {}
    for at, key in enumerate(zip(*(part[name].to_pylist() for name in keys), strict=True)):
        rows.setdefault(key, []).append(at)
    for key, places in rows.items():
        order = np.asarray(places)[np.argsort(times[places], kind="stable")]
        yield key, values[order], times[order]
