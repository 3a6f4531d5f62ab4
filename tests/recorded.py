"""Recordings on disk whose inter-token latencies are known: what commands and reports are tried on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_nriperf.recording import write_document, write_json, write_run
from pytest_nriperf.seams import RequestRow, TokenEvents

TOKENS = 12


def record_session(
    out: Path,
    name: str,
    itl_ms: Sequence[float],
    *,
    test: str = "suites/test_chat.py::test_chat",
    day: int = 1,
    **document: Any,
) -> Path:
    """One session with one recorded test: run i has constant gaps of itl_ms[i]. Returns the session's folder."""
    session = out / name
    folder = session / test.rpartition("::")[2].replace("[", "-").rstrip("]")
    folder.mkdir(parents=True)
    write_json(session / "session.json", {"format": 1, "session": name, "finished": True})
    write_document(folder, {**described(test, day), **document})
    for run, gap in enumerate(itl_ms):
        write_run(folder, run, *run_of(gap))
    return session


def described(test: str, day: int) -> Mapping[str, Any]:
    """A recording's document as an experiment leaves it."""
    return {
        "test": test,
        "function": test.rpartition("::")[2].partition("[")[0],
        "time": f"2026-11-{day:02}T00:00:00+00:00",
        "node": "local",
        "baseline_node": "local-12345678",
        "simulated": False,
        "suite": {"commit": "abc123"},
        "balloon": {"canonical": "cpus=1"},
        "model": {"choice": "dummy:tiny"},
        "workload": "new_tokens=12",
        "parameters": {"concurrency": 1},
        "fingerprint": {
            "identity": {"cpu": "x"},
            "treatment": {"torch version": "2.12"},
            "state": {"governor": "performance"},
        },
        "runs": {},
        "gate": {"metrics": ["itl"], "tolerance": 0.05, "floor": 0.02, "alpha": 0.05},
        "warnings": [],
    }


def run_of(gap_ms: float, first: float = 1.0) -> tuple[list[RequestRow], TokenEvents]:
    """Two requests of one replica with constant gaps; the first token comes after `first` gaps."""
    rows, tokens, start = [], TokenEvents(), 1_000_000_000
    for number in range(2):
        gap = round(gap_ms * 1e6)
        stamps = [start + round(gap * first) + gap * step for step in range(TOKENS)]
        tokens.add(0, number, [start, *stamps], [0, *[1] * TOKENS])
        rows.append(
            RequestRow(0, number, "measure", "p", None, start, stamps[0], stamps[-1], stamps[-1] + 1, 4, TOKENS)
        )
        start = stamps[-1] + 1000
    return rows, tokens
