"""A report gathers what the recordings hold: gaps, counters, cells, placements."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pytest_nriperf.errors import RecordingError
from pytest_nriperf.metrics import Measurement
from pytest_nriperf.report.contents import Gaps, gather
from tests.report.recordings import cells_of, record_session


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out")
    record_session(folder, cells_of(replicas=[1, 2], cpus=[4, 8]), runs=2, tokens=8, left_out=["3 cells left out: why"])
    return folder


def test_every_gap_of_measured_requests_is_a_dot_at_its_time(out: Path) -> None:
    contents = gather([out])
    assert len(contents.parts) == 4
    for index, source in enumerate(contents.sources):
        measurement = Measurement.from_recording(Path(source))
        chosen = contents.gaps.part == index
        mask = np.repeat(chosen, contents.gaps.count)
        assert np.sort(contents.gaps.gap_s[mask]) == pytest.approx(np.sort(measurement.icl.samples), rel=1e-6)
        stamps = measurement.tokens["t_ns"].to_numpy()
        first = min(
            Measurement.from_recording(Path(each)).requests["submit_ns"].to_numpy().min() for each in contents.sources
        )
        assert contents.gaps.times()[mask].max() == pytest.approx((stamps.max() - first) / 1e9, rel=1e-6)


def test_cells_become_rows_with_both_numbers_of_cpus(out: Path) -> None:
    rows = gather([out]).rows
    assert [row.cell for row in rows][:2] == [{"replicas": "1", "cpus": "4"}, {"replicas": "1", "cpus": "8"}]
    assert [(row.cpus, row.node_cpus, len(row.runs("tpot"))) for row in rows][3] == (16, 256, 2)
    assert rows[0].where["snc"] == 2


def test_two_nights_of_the_same_cells_are_joined(tmp_path: Path) -> None:
    for _ in range(2):
        record_session(tmp_path, cells_of(replicas=[1], cpus=[4]), tokens=4)
    contents = gather([tmp_path])
    assert len(contents.parts) == 2
    assert len(contents.rows) == 1
    assert len(contents.rows[0].runs("tpot")) == 2


def test_what_was_left_out_and_the_counters_come_along(out: Path) -> None:
    contents = gather([out])
    assert contents.left_out == ("3 cells left out: why",)
    assert {strip.scope for strip in contents.strips} == {f"NUMA node {node}" for node in range(4)}
    assert contents.simulated


def test_a_folder_without_recordings_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="holds no recording"):
        gather([tmp_path])


def gaps(count: int, each: int) -> Gaps:
    random = np.random.default_rng(0)
    values = np.exp(random.normal(-3, 0.05, count * each)).astype(np.float32)
    values[each * 7 + 3] = 2.0
    number = np.arange(count, dtype=np.int32)
    zero = np.zeros(count)
    return Gaps(number * 0, number * 0, number * 0, number, zero, zero, np.full(count, each, np.int32), values)


def test_thinning_keeps_the_strangest_request_and_tells_the_total() -> None:
    thin = gaps(100, 50).thinned(1000)
    assert 800 <= len(thin) <= 1000
    assert thin.total == 5000
    assert 7 in thin.request
    assert thin.gap_s.max() == 2.0
    assert len(thin.gap_s) == thin.count.sum()


def test_few_dots_are_not_thinned() -> None:
    few = gaps(10, 5)
    assert few.thinned(1000) is few
