"""Parsing one answer of pcm-sensor-server on 224 hardware threads: ours beside prometheus_client (goal: 10 ms).

Ours for the scopes of a balloon (its CPUs and all sockets), as in a run, and for everything.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from pytest_nriperf.collect.pcm_text import PcmParser
from tests.pcm_double import Machine, text


def milliseconds(call: Callable[[], object], times: int) -> tuple[float, float]:
    """Lowest and median time of a call."""
    taken = []
    for _ in range(times):
        begin = time.perf_counter()
        call()
        taken.append((time.perf_counter() - begin) * 1e3)
    return min(taken), statistics.median(taken)


def reference(document: str) -> int:
    """Series that prometheus_client finds."""
    from prometheus_client.parser import text_string_to_metric_families

    return sum(len(family.samples) for family in text_string_to_metric_families(document))


def main() -> None:
    """Print a line a way of parsing."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--times", type=int, default=9)
    times = options.parse_args().times
    document = text(Machine(sockets=2, cores=56, threads=2), 864_000_123_456)
    print(f"one answer: {len(document) / 1e3:.0f} kB, {document.count(chr(10))} lines, 224 hardware threads")
    for what, cpus in (("16 CPUs", range(16)), ("64 CPUs", range(64)), ("everything", None)):
        parser = PcmParser(cpus)
        begin = time.perf_counter()
        kept = len(parser.parse(document).readings)
        first = (time.perf_counter() - begin) * 1e3
        low, median = milliseconds(lambda parser=parser: parser.parse(document), times)  # type: ignore[misc]
        print(f"  {what:<12}{low:8.1f} ms  (median {median:.1f}, first {first:.1f}, {kept} readings kept)")
    low, median = milliseconds(lambda: reference(document), max(1, times // 3))
    print(f"  prometheus_client {low:.0f} ms (median {median:.0f}, {reference(document)} series)")


if __name__ == "__main__":
    main()
