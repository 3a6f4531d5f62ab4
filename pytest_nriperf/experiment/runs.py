"""The runs of one measurement: a fresh engine process per replica each time, recorded before anything is judged."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pytest_nriperf.collect.sampler import Sampler
from pytest_nriperf.errors import WorkerError
from pytest_nriperf.experiment.bench import Balloon, Bench
from pytest_nriperf.experiment.progress import Tracker
from pytest_nriperf.experiment.workload import Workload
from pytest_nriperf.metrics import Measurement
from pytest_nriperf.recording import finished_runs, open_recording, write_document, write_run
from pytest_nriperf.seams import (
    ClockAnchor,
    Completion,
    Generator,
    ModelChoice,
    Prompt,
    RequestRow,
    RunData,
    Target,
    TargetReplica,
    TokenEvents,
    WorkerInfo,
)
from pytest_nriperf.settings import RunPlan


@dataclass(frozen=True)
class Caller:
    """The test on whose behalf something is measured; `measured` hears of each finished measurement."""

    test: str
    function: str
    measured: Callable[[Measurement], None]
    gate: Mapping[str, Any] = field(default_factory=dict)
    cell: Mapping[str, Any] = field(default_factory=dict)


# Whether enough runs have been seen, asked after each run of an adaptive plan.
Settled = Callable[[Measurement], bool]


@dataclass
class Measuring:
    """One measurement on its way: what is asked, where it is written, what was seen so far."""

    bench: Bench
    balloon: Balloon
    choice: ModelChoice
    workload: Workload
    caller: Caller
    plan: RunPlan
    settled: Settled
    document: dict[str, Any] = field(default_factory=dict)

    def perform(self, kept: Generator | None = None, infos: list[WorkerInfo] | None = None) -> Measurement:
        """All runs, or one run in the engines that are already loaded (`kept`).

        A run that fails ends the measurement with its error; the runs before it stay readable.
        """
        plan = RunPlan(1, 1) if kept is not None else self.plan
        folder, done = self._folder()
        tracker = self._tracker(plan)
        for run in range(done + 1, plan.most + 1):
            if run > plan.least and self.settled(Measurement.from_recording(folder)):
                break
            tracker.begin(run)
            try:
                if kept is not None:
                    self._run(folder, run, kept, infos or [], tracker)
                else:
                    with contextlib.closing(self.bench.generator(self.choice)) as generator:
                        self._run(folder, run, generator, list(generator.load(self.balloon.grant)), tracker)
            except WorkerError as error:
                kept_runs = f"run {run} of {plan}; the {run - 1} finished runs are kept in {folder}"
                raise type(error)(f"{error.fact} ({kept_runs})", error.next_step) from error
        tracker.tell("done")
        measurement = Measurement.from_recording(folder)
        self.caller.measured(measurement)
        return measurement

    def _folder(self) -> tuple[Path, int]:
        """Where to write, and how many runs a resumed session has there already."""
        self.document = self._first_document()
        while True:
            folder = self.bench.recording_folder(self.caller.test)
            done = len(finished_runs(folder))
            if not done:
                write_document(folder, self.document)
                return folder, 0
            recorded = dict(open_recording(folder).document)
            if recorded.get("resume_key") == self.document["resume_key"]:
                self.document = recorded
                return folder, done

    def _run(self, folder: Path, run: int, generator: Generator, infos: list[WorkerInfo], tracker: Tracker) -> None:
        """One run in loaded engines: verify, measure under the collectors, verify again, write."""
        verified = self._verify(infos)
        began_ns = time.perf_counter_ns()
        sampler = Sampler(self.bench.collectors, self._target(infos), hz=self.bench.settings.sample_hz)
        with sampler:
            data = self._measure(generator, tracker)
        self._verify(infos)
        data.counters.extend(sampler.rows)
        tracker.tell("writing")
        write_run(folder, run, requests=data.requests, tokens=data.tokens, counters=data.counters)
        if not self.document["runs"]:
            self._describe_engine(infos)
        self.document["runs"][str(run)] = {
            "began_ns": began_ns,
            "anchors": {
                str(replica): [list(anchor) for anchor in pair] for replica, pair in sorted(data.anchors.items())
            },
            "verified": verified,
            "load_ns": [info.load_ns for info in infos],
            "cost": {**data.cost, **sampler.cost},
            "warnings": [*data.warnings, *sampler.warnings],
        }
        write_document(folder, self.document)
        if not any(row.status == "ok" and row.phase == "measure" for row in data.requests):
            errors = sorted({row.error for row in data.requests if row.error})
            raise WorkerError(f"every request of the run failed: {'; '.join(errors) or 'no reason given'}")

    def _measure(self, generator: Generator, tracker: Tracker) -> RunData:
        if self.workload.scenario is None:
            return generator.measure(self.workload.work, tracker.progress)
        return _drive(generator, self.workload, self.balloon.replicas)

    def _verify(self, infos: list[WorkerInfo]) -> list[Mapping[str, Any]]:
        return [self.balloon.grant.verify(info.replica, info.stream) for info in infos if info.stream is not None]

    def _target(self, infos: list[WorkerInfo]) -> Target:
        topology = self.bench.topology
        granted = self.balloon.grant.placement.replicas
        return Target(
            replicas=tuple(
                TargetReplica(info.replica, info.pid, granted[info.replica].allocated, granted[info.replica].visible)
                for info in infos
            ),
            socket_of_cpu={cpu: topology.cpu(cpu).socket for cpu in topology.online},
            node_of_cpu={cpu: topology.cpu(cpu).node for cpu in topology.online},
        )

    def _tracker(self, plan: RunPlan) -> Tracker:
        work, replicas = self.workload.work, self.balloon.replicas
        expected = replicas * (work.warmup + work.requests) * work.max_new_tokens
        return Tracker(self.caller.test, plan.most, replicas, expected, self.bench.show)

    def _first_document(self) -> dict[str, Any]:
        placement = self.balloon.grant.placement
        asked = [
            self.balloon.spec.canonical(),
            self.choice.text,
            self.workload.name,
            self.bench.baseline_name(self.choice),
        ]
        return {
            "test": self.caller.test,
            "function": self.caller.function,
            "cell": dict(self.caller.cell),
            "gate": dict(self.caller.gate),
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "resume_key": hashlib.sha256("\n".join(asked).encode()).hexdigest()[:16],
            "suite": dict(self.bench.suite),
            "node": self.bench.name,
            "baseline_node": self.bench.baseline_name(self.choice),
            "simulated": self.bench.simulated or self.choice.kind == "sim",
            "balloon": {
                "asked": self.balloon.spec.as_dict(),
                "canonical": self.balloon.spec.canonical(),
                "granted": placement.as_dict(),
                "sizes": placement.sizes_text,
                "mechanism": self.balloon.grant.mechanism,
            },
            "model": {"choice": self.choice.text, "weights": self.choice.weights},
            "workload": self.workload.name,
            "parameters": self.workload.as_dict(),
            "runs": {},
            "warnings": [],
        }

    def _describe_engine(self, infos: list[WorkerInfo]) -> None:
        first = infos[0]
        self.document["model"] |= dict(first.model)
        self.document["versions"] = dict(first.versions)
        self.document["threads"] = [info.threads for info in infos]
        self.document["fingerprint"] = self.bench.fingerprint.with_question(
            balloon=self.balloon.spec.canonical(),
            workload=self.workload.name,
            model={**first.model, "name": self.choice.text},
            versions=first.versions,
        ).as_dict()


def _drive(generator: Generator, workload: Workload, replicas: int) -> RunData:
    """Let the scenario drive each replica in a thread of its own, all measured parts beginning together."""
    data = RunData(requests=[], tokens=TokenEvents())
    together = threading.Barrier(replicas)
    failures: list[BaseException] = []
    found: dict[int, list[tuple[str, Completion]]] = {replica: [] for replica in range(replicas)}

    def drive(replica: int) -> None:
        phase = "warmup"

        def generate(prompt: str, max_new_tokens: int | None = None) -> Completion:
            wanted = max_new_tokens or workload.work.max_new_tokens
            completion = generator.generate(Prompt("scenario", text=prompt), wanted, replica)
            found[replica].append((phase, completion))
            return completion

        try:
            assert workload.scenario is not None
            for _ in range(workload.work.warmup):
                workload.scenario(generate)
            together.wait(workload.work.timeout_s)
            phase = "measure"
            for _ in range(workload.work.requests):
                workload.scenario(generate)
        except BaseException as error:  # noqa: BLE001 - raised again below, in the caller's thread
            failures.append(error)
            together.abort()

    threads = [threading.Thread(target=drive, args=(replica,), daemon=True) for replica in range(replicas)]
    before = {replica: ClockAnchor.now() for replica in range(replicas)}
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise next((error for error in failures if not isinstance(error, threading.BrokenBarrierError)), failures[0])
    for replica, completions in found.items():
        for request, (phase, completion) in enumerate(completions):
            data.requests.append(RequestRow.from_completion(replica, request, phase, "scenario", completion))
            data.tokens.add(replica, request, completion.stamps_ns, completion.tokens)
        data.anchors[replica] = (before[replica], ClockAnchor.now())
    return data
