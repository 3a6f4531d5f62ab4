"""Real engines through the archive, in worker processes."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from pytest_nriperf.generate.models import parse_model
from pytest_nriperf.generate.process import WorkerGenerator
from pytest_nriperf.seams import Prompt, Work
from tests.generate.grants import plain_grant
from tests.generate.tiny_models import save_in_hub_cache

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_a_cached_hub_id_is_measured_with_requests_in_flight(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    save_in_hub_cache(tmp_path, "org/tiny", COMMIT)
    environment = {"HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hub")}
    with (
        plain_grant() as grant,
        contextlib.closing(WorkerGenerator(parse_model("org/tiny?threads=1"), environment=environment)) as generator,
    ):
        infos = generator.load(grant)
        assert {info.model["revision"] for info in infos} == {COMMIT}
        assert {info.model["name"] for info in infos} == {"org/tiny"}
        work = Work((Prompt("a", "what happens"), Prompt("b", tokens=9)), 6, requests=4, concurrency=2)
        data = generator.measure(work, lambda _: None)
        assert {row.status for row in data.requests} == {"ok"}
        assert {row.output_tokens for row in data.requests} == {6}
        assert sum(row.phase == "measure" for row in data.requests) == 4
        # Before and after the run. A machine that is too busy, or has too large caches, gives no figure and says so.
        loads = [row for row in data.counters if row.source == "reference"]
        assert len({row.t_ns for row in loads}) == 2 or data.warnings
        assert sum(row.name == "memory_bandwidth" for row in loads) == 2 or "no memory bandwidth" in str(data.warnings)
        long = generator.measure(Work((Prompt("c", tokens=125),), 3, requests=1), lambda _: None)
        assert {row.prompt_tokens for row in long.requests} == {125}
