"""Counters of a recording joined with its runs: one value of each counter metric per run, or why there is none."""

from __future__ import annotations

from pytest_nriperf.counters.definitions import COUNTERS, CounterKind
from pytest_nriperf.counters.runs import (
    IntervalValues,
    RunValues,
    counter_views,
    interval_values,
    interval_view,
    per_run_counters,
)
from pytest_nriperf.counters.series import CounterTable, Series, Undefined, Window
from pytest_nriperf.counters.timeline import Timeline, timelines
from pytest_nriperf.counters.view import RunView

__all__ = [
    "COUNTERS",
    "CounterKind",
    "CounterTable",
    "IntervalValues",
    "RunValues",
    "RunView",
    "Series",
    "Timeline",
    "Undefined",
    "Window",
    "counter_views",
    "interval_values",
    "interval_view",
    "per_run_counters",
    "timelines",
]
