"""What counters say of a measurement by itself, without anything to compare with: lines for a summary. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from pytest_nriperf.metrics import Measurement
from pytest_nriperf.units import format_percent


class Remark(NamedTuple):
    """A counter metric, from which value on it is worth a line, and the line."""

    metric: str
    least: float
    words: str


# Steal, waiting and throttling are not here: they make a run count as disturbed, which is said as a warning.
REMARKS = (
    Remark("bandwidth_attained", 0.0, "decoding reads {} of what these CPUs can read from memory"),
    Remark("remote_memory_share", 0.10, "{} of the engines' memory lies on other NUMA nodes than their CPUs"),
    Remark("remote_share", 0.10, "{} of the memory traffic goes to other NUMA nodes"),
    Remark("sibling_busy", 0.05, "the hidden siblings were busy for {} of the time"),
    Remark("foreign_share", 0.05, "{} of the CPUs' busy time was not the engines'"),
    Remark("system_interrupts", 1.0, "firmware interrupted the CPUs during the runs (SMI)"),
)


def counter_remarks(measurement: Measurement) -> Iterator[str]:
    """Lines worth reading, in the order of REMARKS; none without counters."""
    for remark in REMARKS:
        metric = measurement.pcm.get(remark.metric)
        if metric is not None and math.isfinite(metric.value) and metric.value >= remark.least:
            yield remark.words.format(format_percent(metric.value, digits=0))
