"""Recordings for the report's tests: sweeps on a simulated node, written as a session writes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_nriperf.balloons import BalloonSpec
from pytest_nriperf.generate.simulated import SimulatedGenerator
from pytest_nriperf.provision.simulated import SimulatedProvisioner
from pytest_nriperf.recording import write_document, write_run
from pytest_nriperf.seams import ModelChoice, Prompt, Work
from pytest_nriperf.sessions import Session
from pytest_nriperf.sweep.axes import Cell, make_cells

MODEL = ModelChoice("sim:", "sim")


def record_session(
    out: Path,
    cells: Iterable[Cell],
    *,
    shape: str = "sim:2s64c2t-snc2",
    runs: int = 1,
    tokens: int = 16,
    requests: int = 2,
    model: ModelChoice = MODEL,
    left_out: Sequence[str] = (),
    test: str = "perf/test_chat.py::test_chat",
    facts: Mapping[str, Any] | None = None,
    swept: bool = True,
) -> Path:
    """A session folder with a recording a cell."""
    node = SimulatedProvisioner(shape)
    work = Work((Prompt("kubecon", text="What happens at KubeCon?"),), tokens, requests=requests)
    facts = {"node": shape, "topology": node.topology().as_dict(), "left_out": list(left_out), **(facts or {})}
    with Session.start(out, **facts) as session:
        for cell in cells:
            record_cell(session, node, cell, work, runs, model, test if not swept else f"{test}[{cell.id}]", swept)
        session.finish()
        return session.folder


def record_cell(
    session: Session,
    node: SimulatedProvisioner,
    cell: Cell,
    work: Work,
    runs: int,
    model: ModelChoice,
    test: str,
    swept: bool,
) -> None:
    """One recording: its runs, each by engines of its own, and the document."""
    folder = session.recording(test)
    with node.provision(BalloonSpec.from_arguments(cell.balloon)) as grant:
        for run in range(1, runs + 1):
            generator = SimulatedGenerator(model, node.topology(), node.clock)
            generator.load(grant)
            data = generator.measure(work, lambda progress: None)
            write_run(folder, run, data.requests, data.tokens, data.counters)
        write_document(
            folder,
            {
                "session": session.folder.name,
                "test": test,
                "node": node.describe().name,
                "simulated": True,
                "time": "2026-11-24T02:00:00+00:00",
                "cell": cell.labels if swept else {},
                "balloon": {"granted": grant.placement.as_dict(), "mechanism": grant.mechanism},
                "model": {"choice": model.text, "name": model.text},
                "fingerprint": {
                    "identity": {"cpu": "simulated", "sockets": 2},
                    "treatment": {"kernel": "6.12.1", "torch": "2.13.0"},
                    "state": {"governor": "performance"},
                },
                "parameters": {"concurrency": work.concurrency, "max_new_tokens": work.max_new_tokens},
                "runs": {},
                "warnings": list(data.warnings),
            },
        )


def cells_of(**axes: Sequence[Any]) -> list[Cell]:
    """Cells that exist on 256 CPUs."""
    return [
        cell
        for cell in make_cells(axes)
        if cell.balloon.get("replicas", 1) * cell.balloon["cpus"] <= 256
        and not (cell.balloon.get("hyperthreads") == "spread" and cell.balloon["cpus"] > 128)
    ]
