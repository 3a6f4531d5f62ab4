"""From a recording's tables to one value of each counter metric per run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pytest_nriperf.counters.definitions import COUNTERS
from pytest_nriperf.counters.roofline import mean_context
from pytest_nriperf.counters.series import CounterTable, Undefined, Window
from pytest_nriperf.counters.view import RunView, cpus_of, known_facts
from pytest_nriperf.units import NANOSECONDS


@dataclass(frozen=True)
class RunValues:
    """Counter metric -> run -> value, where there is one; and metric -> run -> why there is none."""

    values: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    reasons: Mapping[str, Mapping[int, str]] = field(default_factory=dict)


def per_run_counters(views: Sequence[RunView]) -> RunValues:
    """Every metric of COUNTERS for each run. A run in which nothing was collected has no values and no reasons."""
    values: dict[str, dict[int, float]] = {}
    reasons: dict[str, dict[int, str]] = {}
    for view in views:
        if not view.table.names(view.run):
            continue
        for name, kind in COUNTERS.items():
            try:
                values.setdefault(name, {})[view.run] = kind.value(view)
            except Undefined as reason:
                reasons.setdefault(name, {})[view.run] = str(reason)
    return RunValues({name: found for name, found in values.items() if found}, reasons)


class IntervalValues(dict[str, float]):
    """Every counter metric over an interval, NaN where it is undefined; `reasons` says why it is."""

    def __init__(self, values: Mapping[str, float], reasons: Mapping[str, str]) -> None:
        super().__init__({name: values.get(name, float("nan")) for name in COUNTERS})
        self.reasons = dict(reasons)


def interval_values(view: RunView) -> IntervalValues:
    """The counter metrics of one view."""
    found = per_run_counters([view])
    values = {name: each[view.run] for name, each in found.values.items()}
    reasons = {name: each[view.run] for name, each in found.reasons.items()}
    if not values and not reasons:
        reasons = dict.fromkeys(COUNTERS, f"nothing was collected in run {view.run}")
    return IntervalValues(values, reasons)


def counter_views(
    document: Mapping[str, Any], runs: Sequence[int], requests: Any, counters: Any | CounterTable
) -> list[RunView]:
    """The runs of a recording, from its document and its Arrow tables of requests and counters."""
    table = counters if isinstance(counters, CounterTable) else CounterTable.from_arrow(counters)
    visible, siblings = cpus_of(document)
    facts = known_facts(document)
    columns = {name: requests[name].to_pylist() for name in ("run", "phase", "status")}
    numbers = {
        name: requests[name].fill_null(-1).to_numpy()
        for name in ("submit_ns", "end_ns", "first_ns", "last_ns", "prompt_tokens", "output_tokens", "replica")
    }
    number, phase, status = (np.array(columns[name], object) for name in ("run", "phase", "status"))
    streams = int(document.get("parameters", {}).get("concurrency") or 1)
    views = []
    for run in runs:
        mine = (number == run) & (phase == "measure")
        if not mine.any():
            continue
        end = np.maximum(numbers["end_ns"], numbers["last_ns"])[mine].max()
        window = Window(int(numbers["submit_ns"][mine].min()), int(end))
        sound = mine & (status == "ok")
        work = {name: column[sound].astype(np.float64) for name, column in numbers.items()}
        tokens = int(work["output_tokens"].sum())
        decoding = _decoding(work, streams)
        views.append(RunView(table, run, window, tokens, visible, siblings, {**facts, **decoding}))
    return views


def interval_view(
    document: Mapping[str, Any], run: int, window: Window, tokens: Any, counters: Any | CounterTable
) -> RunView:
    """Any interval of a run (a request, a phase), with the tokens that came out in it: `(start, end]`."""
    table = counters if isinstance(counters, CounterTable) else CounterTable.from_arrow(counters)
    t_ns, number, n = (tokens[name].to_numpy() for name in ("t_ns", "run", "n"))
    inside = (number == run) & (t_ns > window.start_ns) & (t_ns <= window.end_ns)
    visible, siblings = cpus_of(document)
    return RunView(table, run, window, int(n[inside].sum()), visible, siblings, known_facts(document))


def _decoding(work: Mapping[str, Any], streams: int) -> dict[str, float]:
    """How decoding went, prefill left out: tokens per second of all replicas, `streams` at a time in each, and the mean
    context of a decoded token. Requests of one token decode nothing. The first event is taken as one token."""
    decoded, seconds = work["output_tokens"] - 1, (work["last_ns"] - work["first_ns"]) / NANOSECONDS
    some = (decoded > 0) & (seconds > 0) & (work["first_ns"] >= 0)
    if not some.any():
        return {}
    rate = 0.0
    for replica in np.unique(work["replica"][some]):
        mine = some & (work["replica"] == replica)
        rate += min(streams, int(mine.sum())) * float(decoded[mine].sum() / seconds[mine].sum())
    context = mean_context(work["prompt_tokens"], work["output_tokens"])
    mean = float((context * decoded)[some].sum() / decoded[some].sum())
    return {"decoded_tokens_per_second": rate, "context_tokens": mean}
