"""Runs, one after the other, until there are enough: each is on disk before the next begins or anything is judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pytest_nriperf.errors import WorkerError
from pytest_nriperf.experiment.bench import Balloon
from pytest_nriperf.experiment.progress import Tracker
from pytest_nriperf.experiment.running import Engines, loaded, record_run
from pytest_nriperf.experiment.subject import Subject
from pytest_nriperf.metrics import Measurement
from pytest_nriperf.seams import Generator, WorkerInfo
from pytest_nriperf.settings import RunPlan

# Whether enough runs have been seen, asked after each run of an adaptive plan.
Settled = Callable[[Measurement], bool]


@dataclass(frozen=True)
class Loaded:
    """Engines that stay loaded between measurements."""

    generator: Generator
    infos: Sequence[WorkerInfo]


def measure(
    subject: Subject, balloon: Balloon, plan: RunPlan, settled: Settled, kept: Callable[[], Loaded] | None = None
) -> Measurement:
    """All runs, each in fresh engines; or one run in the engines that `kept` gives (loaded when first needed).

    A run that fails ends the measurement with its error; the runs before it stay readable.
    """
    plan = RunPlan(1, 1) if kept is not None else plan
    tracker = tracker_of(subject, balloon.replicas, plan.most)

    def one_run(run: int) -> None:
        if kept is not None:
            held = kept()
            record_run(run, [Engines(subject, balloon, held.generator, held.infos)], tracker)
            return
        with loaded(subject, balloon) as engines:
            record_run(run, [engines], tracker)

    subject.open()
    repeat_until_settled([subject], plan, one_run, lambda: settled(subject.recorded()), tracker)
    measurement = subject.recorded()
    subject.caller.measured(measurement)
    return measurement


def repeat_until_settled(
    subjects: Sequence[Subject],
    plan: RunPlan,
    one_run: Callable[[int], None],
    settled: Callable[[], bool],
    tracker: Tracker,
) -> None:
    """Make runs (of all subjects, under the same numbers) until the plan is fulfilled.

    A disturbed run is made again, as often as the settings allow: it stays on disk, marked. A resumed session goes on
    after the runs that it finds.
    """
    last = max((run for each in subjects for run in each.runs()), default=0)
    repeated: set[int] = set().union(*(each.repeated() for each in subjects))
    good = len(set.intersection(*(set(each.runs()) for each in subjects)) - repeated)
    while good < plan.most:
        if good >= plan.least and plan.adaptive and last not in repeated and settled():
            break
        last += 1
        tracker.begin(good + 1)
        try:
            one_run(last)
        except WorkerError as error:
            runs = f"the {good} finished runs are" if good > 1 else "the finished run is"
            kept = f"; {runs} kept in {subjects[-1].folder}" if good else ""
            raise type(error)(f"{error.fact} (run {good + 1} of {plan}{kept})", error.next_step) from error
        except KeyboardInterrupt:
            what = "run" if len(subjects) == 1 else "pair"
            subjects[0].bench.ended_in = f"{what} {good + 1} of {plan} of {subjects[0].caller.test}"
            raise
        disturbed = any(each.disturbances(last) for each in subjects)
        if disturbed and len(repeated) < subjects[0].bench.settings.repeats:
            repeated.add(last)
            for each in subjects:
                each.repeat(last)
        else:
            good += 1
    tracker.tell("done")


def tracker_of(subject: Subject, replicas: int, runs: int) -> Tracker:
    """Tells how far `runs` runs on that many replicas are."""
    work = subject.workload.work
    expected = replicas * (work.warmup + work.requests) * work.max_new_tokens
    return Tracker(subject.caller.test, runs, replicas, expected, subject.bench.show)
