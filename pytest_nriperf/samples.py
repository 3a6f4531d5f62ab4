"""Token events of one run -> samples of every metric, in seconds. Pure and vectorised; `metrics` joins the runs.

A *token event* is an event with n >= 1; t_first and t_last are a request's first and last token events, N its
tokens, n_first those of the first event. Only requests of phase `measure` with status `ok` enter.

The *steady window* of a run, for throughput: all replicas are busy at their full concurrency c and warm-up is
over. A replica's load is full from its c-th measured submit until the c-th last end of its measured requests
(failed ones included, since they kept it busy); the window is the intersection over the replicas, `(start, end]`.
With c = 1: from the latest first submit to the earliest last end. Without such a window throughput is undefined.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pytest_nriperf.errors import RecordingError
from pytest_nriperf.units import NANOSECONDS, format_percent

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

NEVER = np.iinfo(np.int64).min


@dataclass(frozen=True, eq=False)
class RunPart:
    """One run's columns as arrays; times that did not happen are NEVER. Requests sorted by (replica, request)."""

    path: Path
    run: int
    replica: Integers
    request: Integers
    phase: NDArray[np.object_]
    status: NDArray[np.object_]
    scheduled_ns: Integers
    submit_ns: Integers
    last_ns: Integers
    end_ns: Integers
    output_tokens: Integers
    token_replica: NDArray[np.integer[Any]]
    token_request: NDArray[np.integer[Any]]
    t_ns: Integers
    n: NDArray[np.integer[Any]]

    @property
    def failed(self) -> list[str]:
        """The status of each measured request that did not succeed."""
        return [str(status) for status in self.status[self.measured & (self.status != "ok")]]

    @property
    def measured(self) -> NDArray[np.bool_]:
        return np.asarray(self.phase == "measure", bool)


class RunSamples(NamedTuple):
    samples: dict[str, Floats]
    warnings: list[str]


class _Events(NamedTuple):
    """Token events of a run grouped by request: per group its key, where it starts and how many events it has."""

    key: Integers
    start: Integers
    size: Integers
    t_ns: Integers
    n: NDArray[np.integer[Any]]


def run_parts(path: Path, runs: Sequence[int], requests: Any, tokens: Any) -> Iterator[RunPart]:
    """The tables cut into runs, as arrays without a copy where a run lies in one piece."""
    request_run, token_run = _array(requests["run"]), _array(tokens["run"])
    for table, column in (("requests", request_run), ("tokens", token_run)):
        if (column[1:] < column[:-1]).any():
            raise RecordingError(f"{path}: the rows of {table} are not in the order of runs", "sort them by run")
    for run in runs:
        rows = requests.slice(*_slice(request_run, run))
        events = tokens.slice(*_slice(token_run, run))
        numbers = ("replica", "request", "scheduled_ns", "submit_ns", "last_ns", "end_ns", "output_tokens")
        columns: dict[str, NDArray[Any]] = {name: _array(rows[name]).astype(np.int64) for name in numbers}
        columns |= {name: np.array(rows[name].to_pylist(), object) for name in ("phase", "status")}
        order = np.lexsort((columns["request"], columns["replica"]))
        token_columns = [_array(events[name]) for name in ("replica", "request", "t_ns", "n")]
        yield RunPart(
            path,
            run,
            **{name: column[order] for name, column in columns.items()},
            token_replica=token_columns[0],
            token_request=token_columns[1],
            t_ns=token_columns[2],
            n=token_columns[3],
        )


def _slice(column: NDArray[Any], run: int) -> tuple[int, int]:
    first, last = np.searchsorted(column, [run, run + 1])
    return int(first), int(last - first)


def _array(column: Any) -> NDArray[Any]:
    """A chunked Arrow column as numbers; without a copy when it is one chunk without nulls."""
    if column.null_count:
        column = column.fill_null(NEVER)
    if column.num_chunks == 1:
        return np.asarray(column.chunk(0).to_numpy(zero_copy_only=False))
    return np.asarray(column.to_numpy())


def _key(replica: NDArray[Any], request: NDArray[Any]) -> Integers:
    """One number per (replica, request), in the same order."""
    return np.asarray(replica.astype(np.int64) * 2**32 + request, np.int64)


def _events(part: RunPart) -> _Events:
    """Group the token events (n >= 1) of a run by request."""
    t_ns, n = part.t_ns, part.n
    replica, request = part.token_replica, part.token_request
    if not _in_order(replica, request, t_ns):
        order = np.lexsort((t_ns, request, replica))
        replica, request, t_ns, n = replica[order], request[order], t_ns[order], n[order]
    changes = np.empty(len(t_ns), bool)
    changes[:1] = True
    np.not_equal(replica[1:], replica[:-1], out=changes[1:])
    changes[1:] |= request[1:] != request[:-1]
    begin = np.flatnonzero(changes)
    keep = n > 0
    count = np.add.reduceat(keep, begin, dtype=np.int64) if begin.size else np.empty(0, np.int64)
    key = _key(replica[begin], request[begin])[count > 0]
    count = count[count > 0]
    return _Events(key, np.cumsum(count) - count, count, t_ns[keep], n[keep])


def _in_order(replica: NDArray[Any], request: NDArray[Any], t_ns: NDArray[Any]) -> bool:
    later = t_ns[1:] >= t_ns[:-1]
    if later.all() and (replica[1:] == replica[:-1]).all() and (request[1:] == request[:-1]).all():
        return True
    same_request = request[1:] == request[:-1]
    same_replica = replica[1:] == replica[:-1]
    ordered = (replica[1:] > replica[:-1]) | (same_replica & ((request[1:] > request[:-1]) | (same_request & later)))
    return bool(ordered.all())


def run_samples(part: RunPart, replicas: NDArray[Any], concurrency: int) -> RunSamples:
    """Every metric's samples of one run, seconds (or a rate)."""
    events = _events(part)
    group, found = _groups(part, events)
    ok = part.measured & (part.status == "ok") & found
    first, last, first_n, total = _ends(events, group[ok])
    inside = _inside(events, group[ok])
    icl, itl = _gaps(events, inside.copy())
    start = np.where(part.scheduled_ns == NEVER, part.submit_ns, part.scheduled_ns)[ok]
    more = total > first_n
    rate, warnings = _throughput(part, events, inside, steady_window(part, replicas, concurrency))
    samples = {
        "ttft": (first - part.submit_ns[ok]) / NANOSECONDS,
        "itl": itl,
        "icl": icl,
        "tpot": (last - first)[more] / NANOSECONDS / (total - first_n)[more],
        "e2e": (last - start) / NANOSECONDS,
        "throughput": np.array([rate] if np.isfinite(rate) else []),
    }
    return RunSamples(samples, [*warnings, *_doubts(part, events, ok, found, first, total)])


def _groups(part: RunPart, events: _Events) -> tuple[Integers, NDArray[np.bool_]]:
    """Per request its group of token events, and whether it has one."""
    key = _key(part.replica, part.request)
    if (key[1:] == key[:-1]).any():
        twice = int(np.flatnonzero(key[1:] == key[:-1])[0])
        raise RecordingError(
            f"{part.path}: run {part.run} names request {part.request[twice]} of replica {part.replica[twice]} twice",
            "number every request of a replica, warm-up included",
        )
    group = np.searchsorted(events.key, key)
    found = group < len(events.key)
    found[found] = events.key[group[found]] == key[found]
    return group, found


def _inside(events: _Events, chosen: Integers) -> NDArray[np.bool_]:
    """Per token event whether it belongs to a chosen group."""
    selected = np.zeros(len(events.key), bool)
    selected[chosen] = True
    return np.repeat(selected, events.size)


def _ends(events: _Events, chosen: Integers) -> tuple[Integers, Integers, Integers, Integers]:
    """Per chosen group: time of its first and last token event, tokens of the first, tokens in all."""
    if not chosen.size:
        nothing = np.empty(0, np.int64)
        return nothing, nothing, nothing, nothing
    start = events.start[chosen]
    total = np.add.reduceat(events.n, events.start, dtype=np.int64)[chosen]
    last = events.t_ns[start + events.size[chosen] - 1]
    return events.t_ns[start], last, events.n[start].astype(np.int64), total


def _gaps(events: _Events, inside: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """ICL and ITL samples of the events that are `inside` (overwritten); one array where every event is a token."""
    inside[events.start] = False
    inside = inside[1:]
    gaps = np.diff(events.t_ns)[inside] / NANOSECONDS
    n = events.n[1:][inside]
    return gaps, gaps if (n == 1).all() else np.repeat(gaps / n, n)


class Window(NamedTuple):
    """The steady window `(start, end]` of a run; where there is none, `problem` says why and start = end = 0."""

    start_ns: int
    end_ns: int
    problem: str = ""


def steady_window(part: RunPart, replicas: NDArray[Any], concurrency: int) -> Window:
    """When all `replicas` worked under full load and none was warming up (the module's docstring defines it)."""
    if not part.measured.any():
        return Window(0, 0, "no request was measured")
    over = np.maximum(np.maximum(part.end_ns, part.last_ns), part.submit_ns)
    start, end = NEVER, np.iinfo(np.int64).max
    for replica in replicas:
        mine = part.measured & (part.replica == replica)
        if not mine.any():
            return Window(0, 0, f"throughput is undefined: replica {replica} measured nothing")
        full = min(concurrency, int(mine.sum())) - 1
        start = max(start, int(np.sort(part.submit_ns[mine])[full]))
        end = min(end, int(np.sort(over[mine])[-1 - full]))
    if end <= start:
        return Window(0, 0, "throughput is undefined: the replicas never worked all at the same time")
    return Window(start, end)


def _throughput(part: RunPart, events: _Events, inside: NDArray[np.bool_], window: Window) -> tuple[float, list[str]]:
    """Tokens per second in the steady window, NaN without one, and what is to be said about it."""
    start, end, problem = window
    if problem:
        return float("nan"), [problem]
    tokens = int(events.n[inside & (events.t_ns > start) & (events.t_ns <= end)].sum())
    measured = part.measured
    over = np.maximum(np.maximum(part.end_ns, part.last_ns), part.submit_ns)
    share = float((end - start) / (over[measured].max() - part.submit_ns[measured].min()))
    doubt = f"throughput rests on {format_percent(share, digits=0)} of the time: the rest was not under full load"
    return tokens * NANOSECONDS / (end - start), [doubt] if share < 0.5 else []


def _doubts(
    part: RunPart,
    events: _Events,
    ok: NDArray[np.bool_],
    found: NDArray[np.bool_],
    first: Integers,
    total: Integers,
) -> list[str]:
    """What in this run does not fit together."""
    doubts = []
    if silent := int((part.measured & (part.status == "ok") & ~found).sum()):
        doubts.append(f"{silent} requests succeeded without a token and have no latency")
    if backwards := int((first < part.submit_ns[ok]).sum()):
        doubts.append(f"{backwards} requests have their first token before their submit: two clocks were mixed")
    if unlike := int((total != part.output_tokens[ok]).sum()):
        doubts.append(f"{unlike} requests state another number of tokens than their events have; the events count")
    if strays := int(len(events.key) - found.sum()):
        doubts.append(f"token events of {strays} unknown requests are left out")
    return doubts


# ------------------------------------------------------------------------------------------------ one run's dots


@dataclass(frozen=True, eq=False)
class Timeline:
    """One run as a picture needs it: seconds since its first measured submit.

    A gap per pair of successive token events of a request (`gap_replica`, when it ended `gap_at_s`, `gap_s`), and
    measured requests (`replica`, `submit_s`, `first_s` NaN without a token, `end_s`, `ok`). Gaps of failed
    requests are shown too. `steady_s` is the steady window, None where there is none.
    """

    run: int
    gap_replica: Integers
    gap_at_s: Floats
    gap_s: Floats
    replica: Integers
    submit_s: Floats
    first_s: Floats
    end_s: Floats
    ok: NDArray[np.bool_]
    steady_s: tuple[float, float] | None

    @property
    def replicas(self) -> list[int]:
        """The replicas that measured, in order."""
        return [int(replica) for replica in np.unique(self.replica)]


def timeline(part: RunPart, replicas: NDArray[Any], concurrency: int) -> Timeline:
    """The run's gaps and requests over time."""
    events = _events(part)
    group, found = _groups(part, events)
    measured = part.measured
    origin = int(part.submit_ns[measured].min()) if measured.any() else 0

    def seconds(time_ns: Any) -> Any:
        return (time_ns - origin) / NANOSECONDS

    inside = _inside(events, group[measured & found])
    inside[events.start] = False
    later = np.flatnonzero(inside)
    first = np.full(len(part.replica), np.nan)
    first[found] = seconds(events.t_ns[events.start[group[found]]])
    over = np.maximum(np.maximum(part.end_ns, part.last_ns), part.submit_ns)
    window = steady_window(part, replicas, concurrency)
    return Timeline(
        run=part.run,
        gap_replica=np.repeat(events.key >> 32, events.size)[later],
        gap_at_s=seconds(events.t_ns[later]),
        gap_s=(events.t_ns[later] - events.t_ns[later - 1]) / NANOSECONDS,
        replica=part.replica[measured],
        submit_s=seconds(part.submit_ns[measured]),
        first_s=first[measured],
        end_s=seconds(over[measured]),
        ok=np.asarray(part.status[measured] == "ok", bool),
        steady_s=None if window.problem else (seconds(window.start_ns), seconds(window.end_ns)),
    )
