"""Counters of another node: the same readings as here, and a lost, slow or failing observer costs counters only."""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nriperf.collect.observer import serve
from pytest_nriperf.collect.remote import RemoteSampler, choose_there, health_there
from pytest_nriperf.collect.wire import ROWS_A_LINE, decode, encode, pack_target, row_messages, rows_of, target_of
from pytest_nriperf.errors import CollectorError, UsageError, WorkerError
from pytest_nriperf.generate.archive import worker_archive
from pytest_nriperf.seams import CounterRow, Launch, Observer, Target, TargetReplica
from pytest_nriperf.units import format_cpus
from tests.generate.grants import PipeStream, PlainGrant

Make = Callable[..., Observer]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Starts real observers from the archive that travels."""
    grant = PlainGrant(tmp_path)

    def start(hidden: str = "") -> Observer:
        return Observer(grant.start_worker(0, Launch(worker_archive(), arguments=("observe",))), hidden)

    yield start
    for stream in grant.streams:
        stream.close()
        assert stream.process.stdout is not None
        stream.process.stdout.close()


def myself() -> Target:
    cpus = frozenset(os.sched_getaffinity(0))
    where = dict.fromkeys(cpus, 0)
    return Target((TargetReplica(0, os.getpid(), cpus, cpus),), where, where)


def wait_for(holds: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end
        threading.Event().wait(0.02)


def names(rows: list[CounterRow]) -> set[tuple[str, str]]:
    return {(row.source, row.name) for row in rows}


def test_readings_arrive_while_the_run_goes_on_and_bear_the_nodes_clock(make: Make) -> None:
    begin = time.perf_counter_ns()
    with RemoteSampler(make, ["proc"], myself(), 5) as sampler:
        wait_for(lambda: sampler.rows)
        early = len(sampler.rows)
    # Here it runs where it measures, which it says itself.
    inside, *others = sampler.warnings
    assert inside.startswith(f"observer: it may itself run on CPUs {format_cpus(os.sched_getaffinity(0))}, which are")
    assert all("collector proc" in each for each in others)
    assert len(sampler.rows) > early
    assert all(begin <= row.t_ns <= time.perf_counter_ns() for row in sampler.rows)
    assert {("proc", "run_queue_wait"), ("proc", "cpu_busy_time")} <= names(sampler.rows)
    own = [row for row in sampler.rows if row.name == "on_cpu_time"]
    assert {(row.replica, row.pid) for row in own} == {(0, os.getpid())}
    assert {"sampler_cpu_s", "sampler_late_max_s", "collector_proc_cpu_s", "observer_cpu_s"} <= sampler.cost.keys()


def test_without_sight_of_the_processes_the_machine_is_read_alone(make: Make) -> None:
    with RemoteSampler(lambda: make("no host_pid"), ["proc"], myself(), 1) as sampler:
        pass
    assert ("proc", "cpu_busy_time") in names(sampler.rows)
    assert ("proc", "run_queue_wait") not in names(sampler.rows)
    assert all(row.pid is None for row in sampler.rows)


def test_what_an_observer_offers_is_told_with_what_is_missing_and_why(make: Make) -> None:
    chosen, line = choose_there(make(), "auto", "http://127.0.0.1:1")
    assert "proc" in chosen
    assert "no pcm (nothing listens on http://127.0.0.1:1/metrics)" in line
    chosen, line = choose_there(make("no host_pid"), "proc", "")
    assert chosen == ["proc"]
    assert "proc without what it tells of each replica's tasks (no host_pid)" in line


def test_whether_the_nodes_counters_can_be_trusted_is_asked_there(make: Make) -> None:
    facts = health_there(make("no host_pid"), "http://127.0.0.1:1")
    assert facts["pcm"]["missing"] == ["nothing listens on http://127.0.0.1:1/metrics"]
    assert facts["left_groups"] == []
    assert "shared_counters" in facts


def test_collectors_that_cannot_work_there_are_refused_by_name(make: Make) -> None:
    with pytest.raises(CollectorError, match=r"collector resctrl: .*leave it out"):
        choose_there(make("no host_pid"), ["resctrl"], "")
    with pytest.raises(UsageError, match="did you mean 'proc'"):
        choose_there(make(), ["prok"], "")


def test_an_observer_that_is_killed_leaves_what_it_read_and_a_mark(make: Make) -> None:
    started: list[Observer] = []

    def start() -> Observer:
        started.append(make())
        return started[-1]

    with RemoteSampler(start, ["proc"], myself(), 5) as sampler:
        wait_for(lambda: sampler.rows)
        stream = started[0].stream
        assert isinstance(stream, PipeStream)
        stream.process.kill()
        wait_for(lambda: sampler.warnings)
    assert len(sampler.rows) > 0
    (warning,) = sampler.warnings
    assert warning.startswith("observer: lost, counters of this run are missing or end early (it ended: killed by SIGK")
    assert f"; {len(sampler.rows)} readings until then are kept" in warning


def test_an_observer_that_cannot_be_started_costs_the_counters_only() -> None:
    def refuse() -> Observer:
        raise WorkerError("node xeon1: pod observer is gone")

    with RemoteSampler(refuse, ["proc"], myself()) as sampler:
        pass
    assert sampler.rows == []
    assert "node xeon1: pod observer is gone" in sampler.warnings[0]


class Stream:
    """An observer that says what it is told to say, and then nothing."""

    pid = None

    def __init__(self, *lines: bytes) -> None:
        self.lines = list(lines)
        self.closed = threading.Event()

    def send(self, line: bytes) -> None:
        decode(line)

    def receive(self, timeout_s: float) -> bytes | None:
        if self.lines:
            return self.lines.pop(0)
        if self.closed.wait(timeout_s):
            return None
        raise TimeoutError

    def close(self, grace_s: float = 2.0) -> str:
        self.closed.set()
        return "closed"


def test_an_observer_that_hangs_does_not_hold_up_the_run() -> None:
    stream = Stream()
    with RemoteSampler(lambda: Observer(stream), ["proc"], myself(), start_timeout_s=0.05, stop_timeout_s=0.05) as it:
        pass
    assert "did not begin to read within 0.05 s" in it.warnings[0]
    assert "did not come to an end within 0.05 s" in it.warnings[1]
    with pytest.raises(CollectorError, match="did not answer"):
        choose_there(Observer(Stream()), "auto", "", 0.01)


@pytest.mark.parametrize("moment", ["begin", "end"])
def test_nothing_is_left_when_waiting_for_an_observer_is_interrupted(
    moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Stream(*([] if moment == "begin" else [b'{"type": "started"}\n']))
    sampler = RemoteSampler(lambda: Observer(stream), ["proc"], myself(), start_timeout_s=5)

    def interrupted(self: RemoteSampler, stages: Sequence[str], timeout_s: float) -> bool:
        raise KeyboardInterrupt

    stack = contextlib.ExitStack()
    if moment == "end":
        stack.enter_context(sampler)
    monkeypatch.setattr(RemoteSampler, "_wait_for", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stack.enter_context(sampler) if moment == "begin" else stack.close()
    assert stream.closed.is_set()
    assert "nriperf-observer" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize(
    "line", [b"Killed\n", b"[]\n", b'{"type": "rows"}\n', b'{"type": "rows", "data": "AAAA"}\n', b'{"x": 1}\n']
)
def test_garbage_from_an_observer_is_a_mark_and_no_error(line: bytes) -> None:
    stream = Stream(line)
    with RemoteSampler(lambda: Observer(stream), ["proc"], myself(), start_timeout_s=5, stop_timeout_s=5) as sampler:
        pass
    assert "observer: lost" in sampler.warnings[0]


def test_an_observer_ends_with_its_input_and_stops_its_collectors() -> None:
    said: list[str] = []
    request = {
        "op": "sample",
        "collectors": ["proc"],
        "pcm": "",
        "hidden": "x",
        "hz": 1,
        "target": pack_target(myself()),
    }
    serve(decode(encode(request)), lambda kind, **_: said.append(kind), lambda _: b"")
    assert said[0] == "started"
    assert said[-1] == "stopped"


numbers = st.none() | st.integers(0, 2**12)
rows = st.builds(
    CounterRow,
    st.integers(0, 2**63),
    st.integers(0, 2**63),
    st.text(max_size=8),
    st.text(max_size=8),
    st.sampled_from(["cumulative", "gauge", "interval", "untyped"]),
    st.integers(-(2**64), 2**64) | st.floats(allow_nan=False),
    st.text(max_size=4),
    *([numbers] * 6),
)


@given(st.lists(rows, max_size=20))
def test_readings_survive_the_way_digit_for_digit(some: list[CounterRow]) -> None:
    arrived = [row for message in row_messages(some) for row in rows_of(decode(encode(message)))]
    assert arrived == some
    assert [type(row.value) for row in arrived] == [type(row.value) for row in some]


def test_many_readings_are_cut_into_lines_of_a_limited_size() -> None:
    row = CounterRow(10**18, 10**18, "pcm", "Instructions_Retired_Any", "cumulative", 2**60, "", cpu=3)
    some = [row._replace(t_ns=row.t_ns + n, value=row.value + n * 12345) for n in range(ROWS_A_LINE * 2 + 1)]
    lines = [encode(message) for message in row_messages(some)]
    assert len(lines) == 3
    assert max(map(len, lines)) < 1 << 18
    assert [row for line in lines for row in rows_of(decode(line))] == some
    assert math.isnan(rows_of(decode(encode(next(row_messages([row._replace(value=math.nan)])))))[0].value)


@given(
    st.dictionaries(st.integers(0, 999), st.integers(0, 7)), st.lists(st.frozensets(st.integers(0, 999)), max_size=4)
)
def test_a_target_survives_the_way(where: dict[int, int], cpus: list[frozenset[int]]) -> None:
    replicas = tuple(TargetReplica(n, n or None, each, each) for n, each in enumerate(cpus))
    target = Target(replicas, where, where)
    assert target_of(decode(encode(pack_target(target)))) == target
