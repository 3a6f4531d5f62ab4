"""Two variants in one measurement: pairs of runs, in turns or side by side, judged against each other.

In turns the order is A B B A B A A B and on (`baselines.pairs.turns`), so that a steady drift falls out. In a duet
both load and run at the same time, in equal disjoint halves of one balloon, and change halves and who is started first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

from pytest_nriperf.balloons import Placement
from pytest_nriperf.baselines.pairs import halves_taken, started_in_order, turns
from pytest_nriperf.experiment.bench import Balloon, Bench, ReferenceLoad
from pytest_nriperf.experiment.progress import Tracker
from pytest_nriperf.experiment.running import loaded, loaded_together, record_run
from pytest_nriperf.experiment.runs import Settled, repeat_until_settled, tracker_of
from pytest_nriperf.experiment.subject import Caller, Subject
from pytest_nriperf.experiment.workload import Workload
from pytest_nriperf.marks import Variant, VariantsMark
from pytest_nriperf.metrics import Measurement
from pytest_nriperf.seams import EngineOptions, Grant, Launch, WorkerStream
from pytest_nriperf.settings import RunPlan


@dataclass(frozen=True)
class GrantPart:
    """Some replicas of a grant, as a grant: those from `first` on that `placement` has."""

    whole: Grant
    placement: Placement
    first: int

    @property
    def mechanism(self) -> str:
        """That of the whole."""
        return self.whole.mechanism

    def start_worker(self, replica: int, launch: Launch) -> WorkerStream:
        """A worker in the replica of that number in this part."""
        return self.whole.start_worker(self.first + replica, launch)

    def verify(self, replica: int, stream: WorkerStream) -> Mapping[str, Any]:
        """What the kernel says of the worker, against the whole grant."""
        return self.whole.verify(self.first + replica, stream)


def halves(balloon: Balloon, variants: VariantsMark) -> tuple[Balloon, Balloon]:
    """The two equal, disjoint parts of a duet's balloon."""
    spec, placement = variants.first.balloon, balloon.grant.placement
    each = len(placement.replicas) // 2
    first, second = (
        GrantPart(
            balloon.grant, replace(placement, spec=spec, replicas=placement.replicas[start : start + each]), start
        )
        for start in (0, each)
    )
    return Balloon(spec, first), Balloon(spec, second)


@dataclass(frozen=True)
class Contest:
    """Two variants of a test on a node. `balloon` is what both run in, None when each has a balloon of its own."""

    bench: Bench
    variants: VariantsMark
    balloon: Balloon | None

    def measure(self, workload: Workload, caller: Caller, plan: RunPlan, settled: Settled) -> Measurement:
        """Pairs of runs until there are enough; the second variant's measurement, with both as its `variants`."""
        subjects = self._subjects(workload, caller)
        replicas = self.variants.first.balloon.replicas
        tracker = tracker_of(subjects[0], 2 * replicas if isinstance(replicas, int) else 2, plan.most)

        def one_pair(number: int) -> None:
            if self.variants.duet:
                self._side_by_side(number, subjects, tracker)
                return
            for subject in subjects[:: _direction(turns(number))]:
                with self._place(subject) as balloon, loaded(subject, balloon) as engines:
                    record_run(number, [engines], tracker)

        for subject in subjects:
            subject.open()
        repeat_until_settled(subjects, plan, one_pair, lambda: settled(_paired(subjects)), tracker)
        measurement = _paired(subjects)
        caller.measured(measurement)
        return measurement

    def _side_by_side(self, number: int, subjects: Sequence[Subject], tracker: Tracker) -> None:
        """One pair of a duet: each subject in its half of the balloon, loaded at the same time."""
        assert self.balloon is not None
        places = halves(self.balloon, self.variants)[:: _direction(halves_taken(number))]
        sides, order = list(zip(subjects, places, strict=True)), _direction(started_in_order(number))
        with loaded_together(sides[::order]) as engines:
            record_run(number, engines[::order], tracker)

    def _place(self, subject: Subject) -> AbstractContextManager[Balloon]:
        return self.bench.balloon(subject.spec) if self.balloon is None else contextlib.nullcontext(self.balloon)

    def _subjects(self, workload: Workload, caller: Caller) -> list[Subject]:
        mark = self.variants
        names = [mark.first.name, mark.second.name]
        return [self._subject(variant, names, workload, caller) for variant in (mark.first, mark.second)]

    def _subject(self, variant: Variant, names: list[str], workload: Workload, caller: Caller) -> Subject:
        asked = variant.llm
        choice = self.bench.model(asked.model, asked.dtype, asked.weights, own=variant.own)
        reference = self.bench.reference_load(choice, judged=caller.judged, pairs=True)
        facts = {
            "name": variant.name,
            "of": names,
            "mode": "duet" if self.variants.duet else "turns",
            "arguments": dict(variant.own),
        }
        options = EngineOptions(variant.python, variant.environment, reference is ReferenceLoad.EACH_RUN)
        return Subject(self.bench, variant.balloon, choice, workload, caller, options, reference, facts)


def _direction(order: str) -> int:
    """The step through a pair in the order of the last two of these letters."""
    return -1 if order.endswith("BA") else 1


def _paired(subjects: list[Subject]) -> Measurement:
    measured = {str(subject.variant["name"]): subject.recorded() for subject in subjects}
    return replace(list(measured.values())[-1], variants=measured)
