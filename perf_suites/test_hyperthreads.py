"""The same CPUs as hyperthread pairs, spread over cores, or reserved in pairs with one of each pair in use."""

from __future__ import annotations

from typing import Any

import pytest


def kind(hyperthreads: str) -> Any:
    return pytest.param(hyperthreads, marks=pytest.mark.balloon(hyperthreads=hyperthreads), id=hyperthreads)


@pytest.mark.requires_node(threads_per_core=2, min_cores=4)
@pytest.mark.llm(model="smollm2")
@pytest.mark.gate("itl")
@pytest.mark.balloon(cpus="50%")
@pytest.mark.parametrize("hyperthreads", [kind("spread"), kind("paired"), kind("hidden")])
def test_placement_of_hyperthreads(llm: Any, baseline: Any, hyperthreads: str) -> None:
    measurement = llm.measure("What happens at KubeCon?", max_new_tokens=32, requests=2)
    assert measurement.runs, f"nothing was measured with {hyperthreads} hyperthreads"
    baseline.check(measurement)
