"""Replicas side by side: what the whole node gives, and what each stream pays for it."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.mark.requires_node(min_cores=2)
@pytest.mark.llm(model="smollm2")
@pytest.mark.gate("throughput", "itl")
@pytest.mark.balloon(cpus="50%", replicas=2)
def test_two_replicas(llm: Any, baseline: Any) -> None:
    measurement = llm.measure("What happens at KubeCon?", max_new_tokens=32, requests=2)
    baseline.check(measurement)
