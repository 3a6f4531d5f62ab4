"""Metrics: exactly the definitions of docs/recording.md, on any recording."""

from __future__ import annotations

import itertools
import math
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_nriperf.errors import RecordingError, SpecError
from pytest_nriperf.metrics import METRICS, Measurement, Metric, Samples, metric_names, parse_metric
from pytest_nriperf.recording import write_document, write_run
from pytest_nriperf.seams import RequestRow, TokenEvents

SECOND = 1_000_000_000


class Events(NamedTuple):
    """A request with its events (time, n)."""

    row: RequestRow
    events: list[tuple[int, int]]


def record(folder: Path, runs: dict[int, list[Events]], **document: Any) -> Measurement:
    """Write the runs as the product does and read the measurement back."""
    folder.mkdir(exist_ok=True)
    for file in folder.iterdir():
        file.unlink()
    write_document(folder, {"test": "test_it", **document})
    for run, each in runs.items():
        tokens = TokenEvents()
        for row, events in each:
            tokens.add(row.replica, row.request, [t for t, _ in events], [n for _, n in events])
        write_run(folder, run, [row for row, _ in each], tokens)
    return Measurement.from_recording(folder)


def request(
    replica: int,
    number: int,
    submit: int,
    events: list[tuple[int, int]],
    *,
    phase: str = "measure",
    status: str = "ok",
    scheduled: int | None = None,
    after: int = 0,
) -> Events:
    """A request that consistently describes its events; it ends `after` its last event."""
    times = [t for t, n in events if n > 0]
    first, last = (times[0], times[-1]) if times else (None, None)
    end = (events[-1][0] if events else submit) + after
    total = sum(n for _, n in events)
    return Events(
        RequestRow(replica, number, phase, "p", scheduled, submit, first, last, end, 4, total, status), events
    )


# ------------------------------------------------------------------------- a slow oracle, written from the definitions


def oracle(run: list[Events], replicas: set[int], concurrency: int) -> dict[str, list[float]]:
    """Samples of one run in plain Python."""
    out: dict[str, list[float]] = {name: [] for name in METRICS}
    measured = sorted(
        (each for each in run if each.row.phase == "measure"), key=lambda each: (each.row.replica, each.row.request)
    )
    good = []
    for row, events in measured:
        tokens = [(t, n) for t, n in events if n >= 1]
        if row.status == "ok" and tokens:
            good.append((row, tokens))
    for row, tokens in good:
        (t_first, n_first), t_last = tokens[0], tokens[-1][0]
        total = sum(n for _, n in tokens)
        out["ttft"].append((t_first - row.submit_ns) / SECOND)
        out["e2e"].append((t_last - (row.submit_ns if row.scheduled_ns is None else row.scheduled_ns)) / SECOND)
        if total != n_first:
            out["tpot"].append((t_last - t_first) / SECOND / (total - n_first))
        for (before, _), (now, n) in itertools.pairwise(tokens):
            out["icl"].append((now - before) / SECOND)
            out["itl"].extend([(now - before) / SECOND / n] * n)
    windows = []
    for replica in replicas:
        rows = [each.row for each in measured if each.row.replica == replica]
        if not rows:
            return out
        full = min(concurrency, len(rows))
        submits = sorted(row.submit_ns for row in rows)
        ends = sorted(max(t for t in (row.submit_ns, row.last_ns, row.end_ns) if t is not None) for row in rows)
        windows.append((submits[full - 1], ends[-full]))
    start, end = max(first for first, _ in windows), min(last for _, last in windows)
    if end > start:
        inside = sum(n for _, tokens in good for t, n in tokens if start < t <= end)
        out["throughput"].append(inside * SECOND / (end - start))
    return out


def quantile(samples: list[float], share: float) -> float:
    """Linear interpolation between order statistics."""
    if not samples:
        return math.nan
    ordered = sorted(samples)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


@st.composite
def runs(draw: st.DrawFn) -> list[Events]:
    """One run of up to three replicas: any phases, failures, chunk sizes, empty requests, open and closed loop."""
    result = []
    for replica in range(draw(st.integers(1, 3))):
        now = draw(st.integers(0, 3000))
        for number in range(draw(st.integers(1, 4))):
            submit = now = now + draw(st.integers(0, 200))
            events = [(now, 0)] if draw(st.booleans()) else []
            for _ in range(draw(st.integers(0, 5))):
                now += draw(st.integers(0, 300))
                events.append((now, draw(st.sampled_from([1, 1, 1, 0, 2, 3]))))
            result.append(
                request(
                    replica,
                    number,
                    submit,
                    events,
                    phase="warmup" if number == 0 and draw(st.booleans()) else "measure",
                    status=draw(st.sampled_from(["ok", "ok", "ok", "failed", "timeout"])),
                    scheduled=draw(st.none() | st.integers(0, submit)),
                    after=draw(st.integers(0, 50)),
                )
            )
            now = submit if draw(st.integers(0, 3)) == 0 else result[-1].row.end_ns or now
    return draw(st.permutations(result))


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.lists(runs(), min_size=1, max_size=3), concurrency=st.integers(1, 3))
def test_metrics_equal_a_slow_oracle(tmp_path: Path, data: list[list[Events]], concurrency: int) -> None:
    numbered = dict(enumerate(data, 1))
    m = record(tmp_path / "r", numbered, parameters={"concurrency": concurrency})
    replicas = {each.row.replica for run in data for each in run}
    expected = [oracle(run, replicas, concurrency) for run in data]
    for name in METRICS:
        metric = m.metric(name)
        assert metric.samples.tolist() == pytest.approx([x for each in expected for x in each[name]], rel=1e-12)
        pooled = [x for each in expected for x in each[name]]
        for percent in (50, 90, 95, 99):
            found = getattr(metric, f"p{percent}")
            assert found == pytest.approx(quantile(pooled, percent / 100), rel=1e-9, nan_ok=True)
        medians = [quantile(each[name], 0.5) for each in expected]
        assert metric.per_run == pytest.approx(medians, rel=1e-9, nan_ok=True)
        finite = [x for x in medians if not math.isnan(x)]
        assert metric.value == pytest.approx(statistics.median(finite) if finite else math.nan, nan_ok=True)
    low = [quantile(each["ttft"], 0.1) for each in expected]
    assert m.metric("ttft.low").per_run == pytest.approx(low, rel=1e-9, nan_ok=True)
    tail = [quantile(each["itl"], 0.95) for each in expected]
    assert m.metric("itl.p95").per_run == pytest.approx(tail, rel=1e-9, nan_ok=True)
    rows = [each.row for run in data for each in run]
    assert m.measured == sum(row.phase == "measure" for row in rows)
    assert m.warmup == sum(row.phase == "warmup" for row in rows)
    assert m.failures == sum(row.phase == "measure" and row.status != "ok" for row in rows)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=runs(), seed=st.integers(0, 99))
def test_rows_of_a_run_in_another_order_give_the_same_metrics(tmp_path: Path, data: list[Events], seed: int) -> None:
    m = record(tmp_path / "r", {1: data})
    random = np.random.default_rng(seed)
    rows, tokens = (table.take(random.permutation(len(table))) for table in (m.requests, m.tokens))
    if len({(each["replica"], each["request"], each["t_ns"]) for each in m.tokens.to_pylist()}) < len(m.tokens):
        return  # events at one instant have no order of their own
    shuffled = Measurement.from_tables(m.path, m.document, m.runs, rows, tokens, m.counters)
    for name in METRICS:
        assert shuffled.metric(name).samples.tolist() == m.metric(name).samples.tolist()
    assert shuffled.warnings == m.warnings


# ------------------------------------------------------------------------------------------------------ by hand


def test_one_request_by_hand(tmp_path: Path) -> None:
    warm = request(0, 0, 0, [(0, 0), (10, 1), (20, 1)], phase="warmup")
    row = request(0, 1, 100, [(110, 0), (200, 1), (300, 1), (600, 3)], scheduled=60)
    m = record(tmp_path / "r", {1: [warm, row]})
    assert m.ttft.samples.tolist() == [100e-9]
    assert m.icl.samples.tolist() == [100e-9, 300e-9]
    assert m.itl.samples.tolist() == pytest.approx([100e-9] * 4)
    assert m.tpot.samples.tolist() == [100e-9]
    assert m.e2e.samples.tolist() == [540e-9]
    assert m.throughput.per_run == (5 / 500e-9,)
    assert (m.runs, m.measured, m.warmup, m.failures) == ((1,), 1, 1, 0)


def test_throughput_counts_only_while_all_replicas_are_busy(tmp_path: Path) -> None:
    first = request(0, 0, 0, [(t, 1) for t in range(100, 1100, 100)])
    late = request(1, 0, 500, [(t, 1) for t in range(600, 2100, 100)])
    m = record(tmp_path / "r", {1: [first, late]})
    assert m.throughput.per_run == (10 / 500e-9,)


def test_replicas_that_never_overlap_have_no_throughput_and_a_warning(tmp_path: Path) -> None:
    one, other = request(0, 0, 0, [(10, 1)]), request(1, 0, 20, [(30, 1)])
    m = record(tmp_path / "r", {1: [one, other], 2: [one, replace_submit(other, 5)]})
    assert math.isnan(m.throughput.per_run[0])
    assert m.throughput.value == m.throughput.per_run[1]
    assert "run 1: throughput is undefined: the replicas never worked all at the same time" in m.warnings
    assert 1 not in m.per_run_statistics()["throughput"]


def replace_submit(each: Events, submit: int) -> Events:
    return Events(replace(each.row, submit_ns=submit), each.events)


def test_a_replica_that_measured_nothing_is_named(tmp_path: Path) -> None:
    warm = request(1, 0, 0, [(5, 1)], phase="warmup")
    m = record(tmp_path / "r", {3: [request(0, 0, 0, [(10, 1)]), warm]})
    assert "run 3: throughput is undefined: replica 1 measured nothing" in m.warnings


def test_a_short_steady_window_is_told(tmp_path: Path) -> None:
    m = record(tmp_path / "r", {1: [request(0, 0, 0, [(1000, 1)]), request(1, 0, 0, [(90, 1), (100, 1)])]})
    assert "run 1: throughput rests on 10 % of the time: the rest was not under full load" in m.warnings


def test_failures_are_counted_and_in_no_latency(tmp_path: Path) -> None:
    good, bad = request(0, 0, 0, [(10, 1)]), request(0, 1, 20, [(9000, 1)], status="timeout")
    m = record(tmp_path / "r", {1: [good, bad]})
    assert m.failures == 1
    assert m.ttft.samples.tolist() == [10e-9]
    assert "1 of 2 requests did not succeed (1 timeout); they are in no latency" in m.warnings


def test_a_run_in_which_all_failed_has_no_values(tmp_path: Path) -> None:
    m = record(tmp_path / "r", {1: [request(0, 0, 0, [], status="failed")]})
    assert all(math.isnan(m.metric(name).value) for name in metric_names())
    assert m.per_run_statistics() == {name: {} for name in METRICS} | {"throughput": {}}


def test_percentiles_with_too_few_samples_are_named_once(tmp_path: Path) -> None:
    rows = [request(0, k, k * 1000, [(k * 1000 + j, 1) for j in range(1, 13)]) for k in range(10)]
    m = record(tmp_path / "r", {1: rows})
    (warning,) = (text for text in m.warnings if "too few" in text)
    assert "ttft 10 (p50 p90 p95 p99)" in warning
    assert "itl 110 (p90 p95 p99)" in warning
    assert m.itl.enough(50)
    assert not m.itl.enough(90)


def test_what_does_not_fit_together_is_told(tmp_path: Path) -> None:
    silent = request(0, 0, 0, [])
    early = replace_submit(request(0, 1, 5, [(10, 1)]), 11)
    unlike = request(0, 2, 20, [(30, 1)])
    unlike = Events(replace(unlike.row, output_tokens=7), unlike.events)
    m = record(tmp_path / "r", {1: [silent, early, unlike]})
    assert any("1 requests succeeded without a token" in text for text in m.warnings)
    assert any("first token before their submit" in text for text in m.warnings)
    assert any("another number of tokens" in text for text in m.warnings)


def test_a_request_named_twice_is_refused_by_name(tmp_path: Path) -> None:
    row = request(0, 4, 0, [(10, 1)])
    with pytest.raises(RecordingError, match=r"run 2 names request 4 of replica 0 twice"):
        record(tmp_path / "r", {2: [row, row]})


def test_a_recording_without_runs_has_metrics_without_values(tmp_path: Path) -> None:
    m = record(tmp_path / "r", {})
    assert (m.runs, m.measured, m.failures) == ((), 0, 0)
    assert math.isnan(m.itl.value)
    assert math.isnan(m.itl.p99)
    assert m.ttft.per_run == ()


def test_warnings_of_the_document_come_first(tmp_path: Path) -> None:
    m = record(tmp_path / "r", {1: [request(0, 0, 0, [(10, 1)])]}, warnings=["turbo changed"])
    assert m.warnings[0] == "turbo changed"


# ------------------------------------------------------------------------------------------------------ names


def test_an_unknown_metric_is_refused_with_the_nearest() -> None:
    with pytest.raises(SpecError, match=r"ttft\.p95"):
        parse_metric("ttft.p59")
    with pytest.raises(SpecError, match="throughput"):
        parse_metric("thruput")


def test_every_name_leads_to_a_per_run_statistic(tmp_path: Path) -> None:
    rows = [request(0, k, k * 100, [(k * 100 + j, 1) for j in range(10, 60, 10)]) for k in range(3)]
    m = record(tmp_path / "r", {1: rows, 4: rows})
    kept = m.per_run_statistics()
    for name in metric_names():
        base, statistic = parse_metric(name)
        metric = m.metric(name)
        assert metric.name == name
        assert metric.runs == (1, 4)
        assert metric.per_run == tuple(kept[base][run][statistic] for run in metric.runs)
        assert metric.better in ("lower", "higher")


def test_attached_counter_metrics_are_metrics_by_name(tmp_path: Path) -> None:
    m = record(tmp_path / "r", {1: [request(0, 0, 0, [(10, 1)])]})
    with pytest.raises(AttributeError, match="no pcm metric 'memory_bandwidth'; it has: none"):
        _ = m.pcm.memory_bandwidth
    bandwidth = Metric("memory_bandwidth", "B/s", "lower", (1,), (2e9,), Samples((np.array([2e9]),)))
    richer = m.with_pcm({"memory_bandwidth": bandwidth})
    assert richer.pcm.memory_bandwidth.p50 == 2e9
    assert richer.metric("memory_bandwidth") is bandwidth
    assert not m.pcm
