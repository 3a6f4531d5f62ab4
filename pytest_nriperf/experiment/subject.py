"""What is measured and where it is recorded: a model under a workload in balloons of one kind, on behalf of a test."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pytest_nriperf.balloons import BalloonSpec
from pytest_nriperf.baselines.conditions import run_facts
from pytest_nriperf.baselines.drift import disturbances
from pytest_nriperf.errors import WorkerError
from pytest_nriperf.experiment.bench import Balloon, Bench, ReferenceLoad
from pytest_nriperf.experiment.workload import Workload
from pytest_nriperf.metrics import Measurement
from pytest_nriperf.recording import counter_table, finished_runs, open_recording, write_document, write_run
from pytest_nriperf.seams import EngineOptions, ModelChoice, RunData, WorkerInfo
from pytest_nriperf.settings import RunPlan


@dataclass(frozen=True)
class Caller:
    """The test on whose behalf something is measured; `measured` hears of each finished measurement.

    `judged` says whether it asks for verdicts. `runs` overrides the session's number of runs; with `again` what is
    recorded of the test stays as it is.
    """

    test: str
    function: str
    measured: Callable[[Measurement], None]
    judged: bool = False
    gate: Mapping[str, Any] = field(default_factory=dict)
    cell: Mapping[str, Any] = field(default_factory=dict)
    runs: RunPlan | None = None
    again: bool = False


@dataclass
class Subject:
    """One recording on its way. `variant` is empty, or says which variant of its test it is and how they took turns."""

    bench: Bench
    spec: BalloonSpec
    choice: ModelChoice
    workload: Workload
    caller: Caller
    options: EngineOptions = field(default_factory=EngineOptions)
    reference: ReferenceLoad = ReferenceLoad.NEVER
    variant: Mapping[str, Any] = field(default_factory=dict)
    folder: Path = field(default_factory=Path)
    document: dict[str, Any] = field(default_factory=dict)

    def open(self) -> None:
        """Make the folder, or take up that of the same work in a resumed session."""
        self.document = self._first_document()
        name = f"{self.caller.test}[variant={self.variant['name']}]" if self.variant else self.caller.test
        while True:
            self.folder = self.bench.recording_folder(name)
            if not finished_runs(self.folder):
                self._write_document()
                return
            if self.caller.again:
                continue
            recorded = dict(open_recording(self.folder).document)
            if recorded.get("resume_key") == self.document["resume_key"]:
                self.document = recorded
                return

    def recorded(self) -> Measurement:
        """What is recorded so far."""
        return Measurement.from_recording(self.folder)

    def runs(self) -> tuple[int, ...]:
        """Numbers of the runs on disk, those that were repeated included."""
        return finished_runs(self.folder)

    def repeated(self) -> set[int]:
        """Numbers of the runs that were disturbed and made again."""
        return {int(run) for run, facts in self.document["runs"].items() if facts.get("repeated")}

    def disturbances(self, run: int) -> list[str]:
        """What was wrong with a run, in words."""
        return list(self.document["runs"][str(run)]["disturbances"])

    def repeat(self, run: int) -> None:
        """Let the next run take the place of this one, which stays on disk and is reported."""
        self.document["runs"][str(run)]["repeated"] = run + 1
        self._write_document()

    def write(
        self, run: int, balloon: Balloon, infos: Sequence[WorkerInfo], data: RunData, facts: Mapping[str, Any]
    ) -> None:
        """Write one run, then what is known of it. Raises WorkerError when none of its requests succeeded."""
        write_run(
            self.folder,
            run,
            requests=data.requests,
            tokens=data.tokens,
            counters=data.counters,
            durable=not self.bench.simulated,
        )
        if not self.document["runs"]:
            self._describe(balloon, infos)
        counted = run_facts(counter_table(run, data.counters)).get(run, {})
        disturbed = disturbances(counted, self.bench.settings.disturbances)
        self.document["runs"][str(run)] = {
            **facts,
            "anchors": {
                str(replica): [list(anchor) for anchor in pair] for replica, pair in sorted(data.anchors.items())
            },
            "load_ns": [info.load_ns for info in infos],
            "cost": data.cost,
            "disturbances": list(disturbed),
            "warnings": data.warnings,
        }
        self._write_document()
        if not any(row.status == "ok" and row.phase == "measure" for row in data.requests):
            errors = sorted({row.error for row in data.requests if row.error})
            raise WorkerError(f"every request of the run failed: {'; '.join(errors) or 'no reason given'}")

    def _write_document(self) -> None:
        # What a simulated node gives is made again in milliseconds, and forcing it to the disk takes longer.
        write_document(self.folder, self.document, durable=not self.bench.simulated)

    def _first_document(self) -> dict[str, Any]:
        asked = [
            self.spec.canonical(),
            self.choice.text,
            self.workload.name,
            self.bench.baseline_name(self.choice),
            *([repr(sorted(self.variant.items())), repr(self.options)] if self.variant else []),
        ]
        function = self.caller.function
        return {
            "test": self.caller.test,
            "function": f"{function}[variant={self.variant['name']}]" if self.variant else function,
            "cell": dict(self.caller.cell),
            **({"variant": dict(self.variant)} if self.variant else {}),
            "gate": dict(self.caller.gate),
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "resume_key": hashlib.sha256("\n".join(asked).encode()).hexdigest()[:16],
            "suite": dict(self.bench.suite),
            "node": self.bench.name,
            "baseline_node": self.bench.baseline_name(self.choice),
            "simulated": self.bench.simulated or self.choice.kind == "sim",
            "balloon": {"asked": self.spec.as_dict(), "canonical": self.spec.canonical()},
            "model": {"choice": self.choice.text, "weights": self.choice.weights},
            "engine": {"python": self.options.python, "environment": dict(self.options.environment)},
            "workload": self.workload.name,
            "parameters": self.workload.as_dict(),
            "runs": {},
            "warnings": [],
        }

    def _describe(self, balloon: Balloon, infos: Sequence[WorkerInfo]) -> None:
        """What only the first run tells: what was granted, and what the engine says of itself."""
        placement, first = balloon.grant.placement, infos[0]
        self.document["balloon"] |= {
            "granted": placement.as_dict(),
            "sizes": placement.sizes_text,
            "mechanism": balloon.grant.mechanism,
        }
        self.document["model"] |= dict(first.model)
        self.document["versions"] = dict(first.versions)
        self.document["threads"] = [info.threads for info in infos]
        self.document["fingerprint"] = self.bench.fingerprint.with_question(
            balloon=self.spec.canonical(),
            workload=self.workload.name,
            model={**first.model, "name": self.choice.text},
            versions=first.versions,
        ).as_dict()
