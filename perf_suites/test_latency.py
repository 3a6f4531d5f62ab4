"""One replica: how long until the first token, and from token to token."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.mark.llm(model="smollm2")
@pytest.mark.gate("ttft", "itl")
@pytest.mark.balloon(cpus="all")
def test_chat_latency(llm: Any, baseline: Any) -> None:
    measurement = llm.measure("What happens at KubeCon?", max_new_tokens=32, requests=2)
    baseline.check(measurement)
