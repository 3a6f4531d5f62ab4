"""From token events in memory to all metrics and per-run values: time and peak memory (goals: 2 s and 1 GB).

Input: 10 million events in 49-event requests of 4 replicas, in 5 runs; with --chunk 2, events of two tokens.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from pytest_nriperf.metrics import ENOUGH_SAMPLES, METRICS, Measurement, metric_names

EVENTS, REPLICAS, GAP_NS, SPREAD = 49, 4, 20e6, 0.05


def run_tables(run: int, count: int, chunk: int) -> tuple[pa.Table, pa.Table]:
    """Requests and tokens of one run: `count` requests a replica."""
    random = np.random.default_rng(run)
    total = count * REPLICAS
    stamps = (GAP_NS * random.lognormal(0, SPREAD, (REPLICAS, count * EVENTS))).astype(np.int64)
    stamps = np.cumsum(stamps, axis=1).reshape(total, EVENTS)
    n = np.full((total, EVENTS), chunk, np.int32)
    n[:, 0] = 0
    replica = np.repeat(np.arange(REPLICAS, dtype=np.int32), count)
    request = np.tile(np.arange(count, dtype=np.int32), REPLICAS)
    tokens = {"replica": np.repeat(replica, EVENTS), "request": np.repeat(request, EVENTS), "t_ns": stamps.ravel()}
    rows = {
        "run": np.full(total, run, np.int32),
        "replica": replica,
        "request": request,
        "phase": np.full(total, "measure"),
        "status": np.full(total, "ok"),
        "scheduled_ns": pa.nulls(total, pa.int64()),
        "submit_ns": stamps[:, 0] - 1000,
        "last_ns": stamps[:, -1],
        "end_ns": stamps[:, -1] + 50_000,
        "output_tokens": np.full(total, chunk * (EVENTS - 1)),
    }
    return pa.table(rows), pa.table({"run": np.full(stamps.size, run, np.int32), **tokens, "n": n.ravel()})


def peak_bytes() -> int:
    """The largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Print time and memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--chunk", type=int, default=1, help="tokens in an event")
    options = parser.parse_args()
    count = options.events // options.runs // REPLICAS // EVENTS
    parts = [run_tables(run, count, options.chunk) for run in range(1, options.runs + 1)]
    requests, tokens = (pa.concat_tables(tables) for tables in zip(*parts, strict=True))
    before = peak_bytes()
    start = time.perf_counter()
    runs = range(1, options.runs + 1)
    m = Measurement.from_tables(Path("benchmark"), {}, runs, requests, tokens, tokens.slice(0, 0))
    derived = time.perf_counter()
    statistics = m.per_run_statistics()
    values = {name: m.metric(name).value for name in metric_names()}
    judged = time.perf_counter()
    pooled = [getattr(m.metric(name), f"p{percent}") for percent in ENOUGH_SAMPLES for name in METRICS]
    end = time.perf_counter()
    assert len(statistics["itl"]) == options.runs
    assert all(np.isfinite(each) for each in [*values.values(), *pooled])
    print(f"{len(tokens):,} token events of {options.chunk} tokens, {len(requests):,} requests, {options.runs} runs")
    print(f"samples {derived - start:.2f} s, per-run values {judged - derived:.2f} s, pooled {end - judged:.2f} s")
    print(f"all metrics and per-run values: {end - start:.2f} s (goal: 2 s)")
    print(f"peak memory: {peak_bytes() / 1e9:.2f} GB, of which {before / 1e9:.2f} GB before the metrics (goal: 1 GB)")


if __name__ == "__main__":
    main()
