"""Metrics: exactly the definitions, on any recording."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_nriperf.errors import SpecError
from pytest_nriperf.metrics import Measurement, parse_metric
from pytest_nriperf.recording import write_document, write_run
from pytest_nriperf.seams import RequestRow, TokenEvents


def test_one_request_by_hand(tmp_path: Path) -> None:
    tokens = TokenEvents()
    tokens.add(0, 0, [0, 10, 20], [0, 1, 1])
    tokens.add(0, 1, [110, 200, 300, 600], [0, 1, 1, 3])
    warm = RequestRow(0, 0, "warmup", "p", None, 0, 10, 20, 21, 4, 2)
    row = RequestRow(0, 1, "measure", "p", 60, 100, 200, 600, 600, 4, 5)
    write_document(tmp_path, {"test": "t"})
    write_run(tmp_path, 1, [warm, row], tokens)
    m = Measurement.from_recording(tmp_path)
    assert m.ttft.samples.tolist() == [100e-9]
    assert m.icl.samples.tolist() == [100e-9, 300e-9]
    assert m.itl.samples.tolist() == pytest.approx([100e-9] * 4)
    assert m.tpot.samples.tolist() == [100e-9]
    assert m.e2e.samples.tolist() == [540e-9]
    assert m.throughput.per_run == (5 / 500e-9,)
    assert (m.runs, m.measured, m.warmup, m.failures) == ((1,), 1, 1, 0)


def test_an_unknown_metric_is_refused_with_the_nearest() -> None:
    with pytest.raises(SpecError, match=r"ttft\.p95"):
        parse_metric("ttft.p59")
