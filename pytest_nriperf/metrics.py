"""What a recording says: latencies and rates, pooled and one value per run. Pure; seconds from here on.

Definitions: `METRICS` in words, `samples` in code. Requests of phase `measure` with status `ok` enter; warm-up and
failures are counted. Percentiles are by linear interpolation.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pytest_nriperf.counters import (
    COUNTERS,
    CounterTable,
    IntervalValues,
    Window,
    counter_views,
    interval_values,
    interval_view,
    per_run_counters,
)
from pytest_nriperf.errors import SpecError
from pytest_nriperf.recording import Recording, open_recording
from pytest_nriperf.samples import Floats, Timeline, run_parts, run_samples, timeline

if TYPE_CHECKING:
    import pyarrow


@dataclass(frozen=True)
class MetricKind:
    """What a metric is: base unit, which direction is better (`lower` or `higher`), its definition in words.

    A rate has one value per run; other metrics have a sample per request or per token.
    """

    unit: str
    better: str
    definition: str
    rate: bool = False


METRICS: dict[str, MetricKind] = {
    "ttft": MetricKind("s", "lower", "time to first token: first token event - submit, per request"),
    "itl": MetricKind("s", "lower", "inter-token latency: an event of n tokens adds n samples of gap / n"),
    "icl": MetricKind("s", "lower", "inter-chunk latency: gap between successive token events, raw"),
    "tpot": MetricKind("s", "lower", "time per output token: (t_last - t_first) / (N - n_first)"),
    "e2e": MetricKind("s", "lower", "end to end: last token event - submit (open loop: - scheduled time)"),
    "throughput": MetricKind("token/s", "higher", "tokens inside the steady window / window, all replicas", rate=True),
}

# The quantiles of each run that are worth keeping; `low` is the engine undisturbed, the rest its neighbours.
STATISTICS = {"low": 0.10, "median": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99}

# Samples that a pooled percentile needs to be worth its name (source: vllm-cpu-perf-eval; IETF LLM benchmarking draft).
ENOUGH_SAMPLES = {50: 100, 90: 500, 95: 1000, 99: 1000}


class MetricName(NamedTuple):
    """A metric and which number of each run stands for the run: a key of STATISTICS, or `rate`."""

    base: str
    statistic: str


def metric_names() -> list[str]:
    """Every name of METRICS that a gate may use; it may also use those of COUNTERS."""
    suffixes = ["", *(f".{name}" for name in STATISTICS if name != "median")]
    return [base + suffix for base, kind in METRICS.items() for suffix in (suffixes[:1] if kind.rate else suffixes)]


def parse_metric(name: str) -> MetricName:
    """Take a metric's name apart; raises SpecError, with the nearest names, when there is none such.

    >>> parse_metric("ttft"), parse_metric("itl.p95").statistic, parse_metric("throughput").statistic
    (MetricName(base='ttft', statistic='median'), 'p95', 'rate')
    """
    names = [*metric_names(), *COUNTERS]
    if name not in names:
        near = difflib.get_close_matches(name, names, 3, 0.5) or list(METRICS)
        raise SpecError(f"there is no metric {name!r}", f"near: {', '.join(near)}; all: {', '.join(METRICS)}, counters")
    base, _, statistic = name.partition(".")
    rate = base in COUNTERS or METRICS[base].rate
    return MetricName(base, "rate" if rate else statistic or "median")


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples of one metric, an array per run."""

    by_run: tuple[Floats, ...]

    @cached_property
    def pooled(self) -> Floats:
        """All runs together."""
        return self.by_run[0] if len(self.by_run) == 1 else np.concatenate([np.empty(0), *self.by_run])

    @property
    def size(self) -> int:
        """Samples in all."""
        return sum(each.size for each in self.by_run)

    @cached_property
    def statistics(self) -> tuple[dict[str, float], ...]:
        """Per run: name -> quantile, NaN where the run has no sample."""
        wanted = list(STATISTICS.values())
        return tuple(
            dict(
                zip(
                    STATISTICS, np.quantile(each, wanted).tolist() if each.size else [np.nan] * len(wanted), strict=True
                )
            )
            for each in self.by_run
        )

    @cached_property
    def percentiles(self) -> dict[int, float]:
        """Percent -> pooled percentile by linear interpolation, NaN without samples."""
        wanted = list(ENOUGH_SAMPLES)
        if not self.size:
            return dict.fromkeys(wanted, float("nan"))
        copy = np.concatenate(self.by_run)
        return dict(zip(wanted, np.percentile(copy, wanted, overwrite_input=True).tolist(), strict=True))


@dataclass(frozen=True, eq=False)
class Metric:
    """One metric of a measurement, in base units.

    `per_run` has one value for each of `runs` (NaN where undefined) and is what verdicts rest on; the percentiles
    are pooled over all runs and are for reading.
    """

    name: str
    unit: str
    better: str
    runs: tuple[int, ...]
    per_run: tuple[float, ...]
    pool: Samples = field(repr=False)

    @property
    def samples(self) -> Floats:
        """Every sample, by run, replica, request and time."""
        return self.pool.pooled

    @property
    def value(self) -> float:
        """The median over the runs; NaN when no run has a value."""
        finite = [value for value in self.per_run if np.isfinite(value)]
        return float(np.median(finite)) if finite else float("nan")

    @property
    def spread(self) -> tuple[float, float]:
        """The lowest and the highest run."""
        finite = [value for value in self.per_run if np.isfinite(value)] or [float("nan")]
        return min(finite), max(finite)

    @property
    def p50(self) -> float:
        """Pooled median."""
        return self.pool.percentiles[50]

    @property
    def p90(self) -> float:
        """Pooled 90th percentile."""
        return self.pool.percentiles[90]

    @property
    def p95(self) -> float:
        """Pooled 95th percentile."""
        return self.pool.percentiles[95]

    @property
    def p99(self) -> float:
        """Pooled 99th percentile."""
        return self.pool.percentiles[99]

    def enough(self, percent: int) -> bool:
        """Whether there are samples enough for this pooled percentile."""
        return self.pool.size >= ENOUGH_SAMPLES[percent]


class CounterMetrics(Mapping[str, Metric]):
    """Counter metrics of a measurement by name, also as attributes: `measurement.pcm.memory_bandwidth.value`.

    `reasons` says of other names why there is no value.
    """

    def __init__(
        self,
        metrics: Mapping[str, Metric] | None = None,
        source: str = "pcm",
        reasons: Mapping[str, str] | None = None,
    ) -> None:
        self._metrics = dict(metrics or {})
        self._source = source
        self.reasons = dict(reasons or {})

    def __getitem__(self, name: str) -> Metric:
        return self._metrics[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._metrics)

    def __len__(self) -> int:
        return len(self._metrics)

    def __getattr__(self, name: str) -> Metric:
        if name.startswith("_") or name not in self._metrics:
            there = ", ".join(self._metrics) or "none"
            why = f" ({self.reasons[name]})" if name in self.reasons else ""
            raise AttributeError(f"this measurement has no {self._source} metric {name!r}{why}; it has: {there}")
        return self._metrics[name]


@dataclass(frozen=True, eq=False)
class Measurement:
    """What `llm.measure` gives: metrics, the raw tables (Arrow, nanoseconds) and what to be careful about.

    Of a test with variants this is the second variant's, and `variants` holds both by name.

    `runs` are the finished runs; `measured`, `warmup` and `failures` count requests (failures of phase `measure`).
    """

    path: Path
    document: Mapping[str, Any]
    runs: tuple[int, ...]
    requests: pyarrow.Table
    tokens: pyarrow.Table
    counters: pyarrow.Table
    measured: int
    warmup: int
    failures: int
    warnings: tuple[str, ...]
    pool: Mapping[str, Samples] = field(repr=False)
    attached: CounterMetrics | None = field(default=None, repr=False)
    variants: Mapping[str, Measurement] = field(default_factory=dict, repr=False)

    @classmethod
    def from_recording(cls, recording: Recording | Path) -> Measurement:
        """Read a recording's finished runs. Raises RecordingError, by name, for what is damaged."""
        opened = recording if isinstance(recording, Recording) else open_recording(recording)
        tables = opened.requests(), opened.tokens(), opened.counters()
        return cls.from_tables(opened.path, opened.document, opened.runs, *tables, warnings=opened.warnings)

    @classmethod
    def from_tables(
        cls,
        path: Path,
        document: Mapping[str, Any],
        runs: Sequence[int],
        requests: pyarrow.Table,
        tokens: pyarrow.Table,
        counters: pyarrow.Table,
        warnings: Sequence[str] = (),
    ) -> Measurement:
        """Derive everything from tables that stand in the order of a recording."""
        parts = list(run_parts(path, runs, requests, tokens))
        replicas = np.unique(np.concatenate([part.replica for part in parts])) if parts else np.empty(0)
        results = [run_samples(part, replicas, _concurrency(document)) for part in parts]
        pool = {name: Samples(tuple(result.samples[name] for result in results)) for name in METRICS}
        if all(result.samples["itl"] is result.samples["icl"] for result in results):
            pool["itl"] = pool["icl"]
        measure = [part.measured for part in parts]
        failed = [text for part in parts for text in part.failed]
        facts = [document.get("runs", {}).get(str(run), {}) for run in runs]
        told = [*document.get("warnings", ()), *warnings, *_merge([each.get("warnings", ()) for each in facts], runs)]
        told += _merge([result.warnings for result in results], runs)
        told += [*_failure_warning(failed, sum(map(np.sum, measure))), *_sample_warning(pool)]
        return cls(
            path,
            document,
            tuple(runs),
            requests,
            tokens,
            counters,
            measured=int(sum(map(np.sum, measure))),
            warmup=int(sum((part.phase == "warmup").sum() for part in parts)),
            failures=len(failed),
            warnings=tuple(told),
            pool=pool,
        )

    @property
    def ttft(self) -> Metric:
        """Time to first token, seconds."""
        return self.metric("ttft")

    @property
    def itl(self) -> Metric:
        """Inter-token latency, seconds."""
        return self.metric("itl")

    @property
    def icl(self) -> Metric:
        """Inter-chunk latency, seconds."""
        return self.metric("icl")

    @property
    def tpot(self) -> Metric:
        """Time per output token, seconds."""
        return self.metric("tpot")

    @property
    def e2e(self) -> Metric:
        """End-to-end latency, seconds."""
        return self.metric("e2e")

    @property
    def throughput(self) -> Metric:
        """Tokens per second of all replicas together."""
        return self.metric("throughput")

    def metric(self, name: str) -> Metric:
        """The metric of that name (`ttft`, `itl.p95`, ...). Raises SpecError, with the nearest names, for others."""
        if name not in METRICS and name in self.pcm:
            return self.pcm[name]
        base, statistic = parse_metric(name)
        if base in COUNTERS:
            return _counter_metric(base, self.runs, {})
        kind, pool = METRICS[base], self.pool[base]
        per_run = tuple(each["median" if kind.rate else statistic] for each in pool.statistics)
        return Metric(name, kind.unit, kind.better, self.runs, per_run, pool)

    def per_run_statistics(self) -> dict[str, dict[int, dict[str, float]]]:
        """Metric -> run -> a handful of quantiles (`low median p90 p95 p99` and the count `n`; a rate: `rate`).

        What is undefined is left out. Base units; this is what a baseline keeps.
        """
        result: dict[str, dict[int, dict[str, float]]] = {}
        for name, pool in self.pool.items():
            rows = zip(self.runs, pool.by_run, pool.statistics, strict=True)
            result[name] = {
                run: {"rate": float(samples[0])} if METRICS[name].rate else {**statistics, "n": samples.size}
                for run, samples, statistics in rows
                if samples.size
            }
        return result

    def timeline(self, run: int) -> Timeline:
        """The dots of one run: token gaps and requests over time, seconds."""
        (part,) = run_parts(self.path, [run], self.requests, self.tokens)
        return timeline(part, np.unique(self.requests["replica"].to_numpy()), _concurrency(self.document))

    def with_pcm(self, metrics: Mapping[str, Metric]) -> Measurement:
        """The same measurement with counter metrics attached."""
        return replace(self, attached=CounterMetrics(metrics))

    @cached_property
    def pcm(self) -> CounterMetrics:
        """Counter metrics (`counters.COUNTERS`) with a value in some run, from whatever collectors there were."""
        if self.attached is not None:
            return self.attached
        if not len(self.counters):
            return CounterMetrics()
        found = per_run_counters(counter_views(self.document, self.runs, self.requests, self._counter_table))
        metrics = {name: _counter_metric(name, self.runs, values) for name, values in found.values.items()}
        reasons = {name: next(iter(each.values())) for name, each in found.reasons.items() if name not in metrics}
        return CounterMetrics(metrics, reasons=reasons)

    def counters_between(self, run: int, start_ns: int, end_ns: int) -> IntervalValues:
        """Counter metrics over an interval of a run, such as a request's submit to end; NaN where undefined, for what
        the result's `reasons` say."""
        window = Window(start_ns, end_ns)
        return interval_values(interval_view(self.document, run, window, self.tokens, self._counter_table))

    @cached_property
    def _counter_table(self) -> CounterTable:
        return CounterTable.from_arrow(self.counters)


def _counter_metric(name: str, runs: tuple[int, ...], values: Mapping[int, float]) -> Metric:
    per_run = tuple(values.get(run, float("nan")) for run in runs)
    pool = Samples(tuple(np.array([value] if np.isfinite(value) else []) for value in per_run))
    return Metric(name, COUNTERS[name].unit, COUNTERS[name].better, runs, per_run, pool)


def _concurrency(document: Mapping[str, Any]) -> int:
    """Requests in flight per replica, as recorded; 1 where nothing says so (open loop, scenarios)."""
    stated = document.get("parameters", {}).get("concurrency")
    return stated if isinstance(stated, int) and stated > 0 else 1


def _merge(warnings: Sequence[Sequence[str]], runs: Sequence[int]) -> list[str]:
    """Each warning once, with its runs before it."""
    where: dict[str, list[int]] = {}
    for run, texts in zip(runs, warnings, strict=True):
        for text in texts:
            where.setdefault(text, []).append(run)
    return [f"run{'s' if len(each) > 1 else ''} {', '.join(map(str, each))}: {text}" for text, each in where.items()]


def _failure_warning(failed: Sequence[str], measured: int) -> list[str]:
    if not failed:
        return []
    kinds = ", ".join(f"{count} {status}" for status, count in sorted(Counter(failed).items()))
    return [f"{len(failed)} of {measured} requests did not succeed ({kinds}); they are in no latency"]


def _sample_warning(pool: Mapping[str, Samples]) -> list[str]:
    """One line naming every metric whose pooled percentiles rest on too few samples."""
    short = []
    for name in ("ttft", "itl", "tpot", "e2e"):
        size = pool[name].size
        weak = [f"p{percent}" for percent, enough in ENOUGH_SAMPLES.items() if size < enough]
        if weak and size:
            short.append(f"{name} {size} ({' '.join(weak)})")
    floors = ", ".join(f"p{percent} {enough}" for percent, enough in ENOUGH_SAMPLES.items())
    return [f"too few samples for a pooled percentile (needed: {floors}): {', '.join(short)}"] if short else []
