"""One run: loaded engines are verified, measured under the collectors, verified again, and written.

Usually of one subject; of two side by side in a duet.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pytest_nriperf.experiment.bench import Balloon, ReferenceLoad
from pytest_nriperf.experiment.progress import Tracker
from pytest_nriperf.experiment.scenario import drive_scenario
from pytest_nriperf.experiment.subject import Subject
from pytest_nriperf.seams import (
    CounterRow,
    Generator,
    Progress,
    ReadsMemory,
    RunData,
    StartsLoading,
    Target,
    TargetReplica,
    WorkerInfo,
    no_rendezvous,
)
from pytest_nriperf.units import NANOSECONDS, format_percent

# How long one side of a duet waits for the other to be warm, seconds.
TOGETHER_S = 600.0
# On a CPU for so long during a run, a thread is one that computes.
CROWD_NS = 20_000_000
# Of the measured time of a duet, the share in which both sides run at least.
OVERLAP = 0.8


@dataclass(frozen=True)
class Engines:
    """The loaded engines of a subject in a balloon."""

    subject: Subject
    balloon: Balloon
    generator: Generator
    infos: Sequence[WorkerInfo]

    def verify(self) -> list[Mapping[str, Any]]:
        """What the kernel says of every worker. Raises NotHonouredError when something escaped."""
        grant = self.balloon.grant
        return [grant.verify(info.replica, info.stream) for info in self.infos if info.stream is not None]

    def read_memory_once(self) -> None:
        """Let the recording know what the balloon's CPUs read from memory a second, where no run is bracketed by it."""
        subject, bench, place = self.subject, self.subject.bench, self.balloon.visible
        if subject.reference is not ReferenceLoad.ONCE:
            return
        if place not in bench.read_bandwidths and isinstance(self.generator, ReadsMemory):
            found = [row.value for row in self.generator.reference_load() if row.name == "memory_bandwidth"]
            bench.read_bandwidths[place] = sum(found) if found else None
        bandwidth = bench.read_bandwidths.get(place)
        if bandwidth is not None:
            subject.document["balloon"]["read_bandwidth"] = bandwidth

    def measure(self, progress: Callable[[Progress], None], rendezvous: Callable[[], None] = no_rendezvous) -> RunData:
        """The work of the subject; `rendezvous` is called between its warm-up and its measured requests."""
        workload = self.subject.workload
        workload = replace(workload, work=replace(workload.work, rendezvous=rendezvous))
        if workload.scenario is None:
            return self.generator.measure(workload.work, progress)
        return drive_scenario(self.generator, workload, self.balloon.replicas)


@contextlib.contextmanager
def loaded(subject: Subject, balloon: Balloon) -> Iterator[Engines]:
    """Fresh engines of a subject, ended with the context."""
    with loaded_together([(subject, balloon)]) as (engines,):
        yield engines


@contextlib.contextmanager
def loaded_together(sides: Sequence[tuple[Subject, Balloon]]) -> Iterator[list[Engines]]:
    """Fresh engines of several subjects, loaded at the same time, ended with the context."""
    with contextlib.ExitStack() as stack:
        made = [
            stack.enter_context(contextlib.closing(subject.bench.generator(subject.choice, subject.options)))
            for subject, _ in sides
        ]
        for generator, (_, balloon) in zip(made, sides, strict=True):
            if isinstance(generator, StartsLoading):
                generator.start_loading(balloon.grant)
        yield [
            Engines(subject, balloon, generator, list(generator.load(balloon.grant)))
            for generator, (subject, balloon) in zip(made, sides, strict=True)
        ]


def record_run(run: int, engines: Sequence[Engines], tracker: Tracker) -> None:
    """One run of all these engines at the same time, each written into its subject's recording."""
    bench = engines[0].subject.bench
    verified = [each.verify() for each in engines]
    for each in engines:
        each.read_memory_once()
    began_ns = time.perf_counter_ns()
    sampler = bench.counting.sampler(_target(engines), bench.settings.sample_hz)
    with sampler:
        data = _measured(engines, tracker)
    for each in engines:
        each.verify()
    tracker.tell("writing")
    first = 0
    for each, own, facts in zip(engines, data, verified, strict=True):
        own.counters.extend(own_rows(sampler.rows, first, each.balloon.replicas, alone=len(engines) == 1))
        own.cost.update(sampler.cost)
        own.cost["reference_s"] = _reference_s(own.counters)
        own.warnings.extend(sampler.warnings)
        visible = [len(replica.visible) for replica in each.balloon.grant.placement.replicas]
        own.warnings.extend(crowded(own.counters, visible, each.subject.workload.work.concurrency))
        each.subject.write(run, each.balloon, each.infos, own, {"began_ns": began_ns, "verified": facts})
        first += each.balloon.replicas


def crowded(rows: Sequence[CounterRow], visible: Sequence[int], concurrency: int = 1) -> Iterator[str]:
    """A warning for each replica of which more threads computed than its balloon shows CPUs, whatever the engine says.

    A thread computes when it was on a CPU for CROWD_NS and a tenth as long as the busiest one; a thread a request in
    flight is the engine's own. `visible` are CPUs by replica.
    """
    first: dict[tuple[int, int | None], float] = {}
    gained: dict[tuple[int, int | None], float] = {}
    began = min((row.t_ns for row in rows if row.name == "task_on_cpu_time"), default=0)
    for row in rows:
        if row.name == "task_on_cpu_time" and row.replica is not None:
            # A thread that is not there at first has begun meanwhile, at 0.
            base = row.value if row.t_ns - began < NANOSECONDS // 100 else 0
            gained[row.replica, row.pid] = row.value - first.setdefault((row.replica, row.pid), base)
    for replica, cpus in enumerate(visible):
        times = [time_ns for (owner, _), time_ns in gained.items() if owner == replica]
        busy = sum(time_ns >= max(CROWD_NS, max(times) / 10) for time_ns in times)
        if busy > cpus + concurrency:
            yield (
                f"replica {replica}: {busy} threads computed on the {cpus} CPUs that its balloon shows: they wait for "
                "each other; see what starts them (OMP_NUM_THREADS, a thread pool of a library)"
            )


def _measured(engines: Sequence[Engines], tracker: Tracker) -> list[RunData]:
    if len(engines) == 1 or engines[0].subject.bench.simulated:
        # Virtual time does not pass in threads: simulated sides cannot meet.
        return [each.measure(tracker.progress) for each in engines]
    firsts = itertools.accumulate((each.balloon.replicas for each in engines[:-1]), initial=0)
    data = side_by_side([_side(each, first, tracker) for each, first in zip(engines, firsts, strict=True)])
    share = overlap(data)
    for each in data:
        each.cost["overlap_share"] = share
        if share < OVERLAP:
            text = (
                f"the variants ran side by side for less than {format_percent(OVERLAP, digits=0)} of the measured time"
            )
            each.warnings.append(f"{text}: give them more requests")
    return data


def _side(engines: Engines, shift: int, tracker: Tracker) -> Callable[[Callable[[], None]], RunData]:
    """The measuring of one side, its replicas numbered from `shift` on where progress is shown."""

    def measure(meet: Callable[[], None]) -> RunData:
        return engines.measure(lambda step: tracker.progress(step._replace(replica=step.replica + shift)), meet)

    return measure


def side_by_side(sides: Sequence[Callable[[Callable[[], None]], RunData]]) -> list[RunData]:
    """Each side in a thread of its own; each is given what to call when it is warm, which waits for the others.

    Nobody waits for a side that has ended. Raises the first error of any, after all have ended.
    """
    together = threading.Barrier(len(sides))
    found: dict[int, RunData] = {}
    failures: list[BaseException] = []

    def meet() -> None:
        with contextlib.suppress(threading.BrokenBarrierError):
            together.wait(TOGETHER_S)

    def measure(at: int) -> None:
        try:
            found[at] = sides[at](meet)
        except BaseException as error:  # noqa: BLE001 - raised again below, in the caller's thread
            failures.append(error)
        finally:
            together.abort()

    threads = [threading.Thread(target=measure, args=(at,), daemon=True) for at in range(len(sides))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return [found[at] for at in range(len(sides))]


def overlap(data: Sequence[RunData]) -> float:
    """Of the time in which any side was measured, the share in which all were."""
    spans = []
    for each in data:
        rows = [row for row in each.requests if row.phase == "measure" and row.end_ns is not None]
        if not rows:
            return 0.0
        spans.append((min(row.submit_ns for row in rows), max(row.end_ns or 0 for row in rows)))
    begin, end = max(begin for begin, _ in spans), min(end for _, end in spans)
    whole = max(end for _, end in spans) - min(begin for begin, _ in spans)
    return max(0.0, (end - begin) / whole) if whole else 0.0


def own_rows(rows: Sequence[CounterRow], first: int, replicas: int, *, alone: bool) -> Iterator[CounterRow]:
    """The readings that concern one side: those of its replicas, numbered from 0 again, and of no replica."""
    for row in rows:
        if alone or row.replica is None:
            yield row
        elif first <= row.replica < first + replicas:
            yield row._replace(replica=row.replica - first)


def _reference_s(rows: Sequence[CounterRow]) -> float:
    """What the reference loads took, of the slowest replica, seconds."""
    spans = {(row.replica, row.t_ns): row.read_ns - row.t_ns for row in rows if row.source == "reference"}
    took: dict[int | None, int] = {}
    for (replica, _), span in spans.items():
        took[replica] = took.get(replica, 0) + span
    return max(took.values(), default=0) / NANOSECONDS


def _target(engines: Sequence[Engines]) -> Target:
    """What to watch: the replicas of all sides, numbered through."""
    topology = engines[0].subject.bench.topology
    replicas: list[TargetReplica] = []
    for each in engines:
        granted = each.balloon.grant.placement.replicas
        own = [
            TargetReplica(info.replica, info.pid, granted[info.replica].allocated, granted[info.replica].visible)
            for info in each.infos
        ]
        shift = len(replicas)
        replicas += [replace(one, replica=one.replica + shift) for one in own]
    return Target(
        replicas=tuple(replicas),
        socket_of_cpu={cpu: topology.cpu(cpu).socket for cpu in topology.online},
        node_of_cpu={cpu: topology.cpu(cpu).node for cpu in topology.online},
    )
