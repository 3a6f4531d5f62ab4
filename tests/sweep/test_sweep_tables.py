"""Tables, curves and takeaways say what the rows carry, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_nriperf.simulate.llm import ModelSize
from pytest_nriperf.simulate.machine import speeds
from pytest_nriperf.sweep.curves import curves, knee
from pytest_nriperf.sweep.rows import Row, ordered, pooled, spread_of, varying
from pytest_nriperf.sweep.tables import wisdom
from pytest_nriperf.sweep.takeaways import takeaways
from tests.simulate.servers import balloons, server


def measured(replicas: int, cpus: int, kind: str, *off: str, runs: int = 3, noise: float = 0.005, snc: int = 2) -> Row:
    machine = server(*off, snc=snc)
    steps = [
        float(speed.step_s(ModelSize(), np.array([64.0]))[0])
        for speed in speeds(machine, ModelSize(), balloons(machine, replicas, cpus, kind))
    ]
    random = np.random.default_rng([replicas, cpus, len(kind)])
    errors = np.exp(random.normal(0, noise, runs))
    return Row(
        {"replicas": replicas, "cpus": cpus, "hyperthreads": kind},
        {
            "tpot": tuple((np.median(steps) * errors).tolist()),
            "throughput": tuple((sum(1 / step for step in steps) / errors).tolist()),
        },
        replicas * cpus,
        replicas * cpus // (2 if kind == "hidden" else 1),
        256,
        {"node": "sim", "snc": snc},
        simulated=True,
    )


def sweep(*off: str, runs: int = 3) -> list[Row]:
    cells = [(1, 256), (1, 128), (1, 64), (4, 32), (4, 64), (8, 8), (8, 16), (8, 24), (8, 32), (16, 8), (16, 16)]
    cells += [(8, 20), (8, 28), (12, 16), (16, 12), (10, 20), (16, 4), (2, 64), (4, 16)]
    rows = [measured(r, c, kind, *off, runs=runs) for r, c in cells for kind in ("paired", "hidden")]
    return rows + [measured(r, c, "spread", *off, runs=runs) for r, c in cells if c <= 128]


def test_the_headline_of_the_talk_is_computed_with_its_interval() -> None:
    rows = [measured(8, 16, "hidden"), measured(1, 256, "paired")]
    said = takeaways(rows)[0]
    assert "8 replicas x 16 CPUs hidden: 2.85x node throughput at 0.36x stream speed, 128 of 256 CPUs" in said.text
    assert said.low is not None
    assert said.high is not None
    assert said.low < said.ratio < said.high
    assert str(said).startswith("SIMULATED: ")


def test_spreading_above_half_load_is_told_as_a_loss_and_hiding_as_a_gain() -> None:
    texts = [item.text for item in takeaways(sweep())]
    assert any(text.startswith("above half load, spread gives 0.6") for text in texts), texts
    assert any("hidden gives 1.10x the node throughput of paired" in text for text in texts), texts


def test_with_ideal_hyperthreads_no_gain_of_hiding_is_told() -> None:
    assert not [item for item in takeaways(sweep("hyperthreads")) if "hidden gives" in item.text]


def test_what_was_seen_once_is_told_as_seen_once() -> None:
    said = takeaways(sweep(runs=1))
    assert said[0].low is None
    assert "not repeated" in said[0].confidence


def test_noise_larger_than_the_difference_leaves_nothing_to_tell() -> None:
    loud = [
        Row({"replicas": 1, "cpus": 8}, {"tpot": (0.1, 0.15), "throughput": (10.0, 7.0)}, 8),
        Row({"replicas": 2, "cpus": 4}, {"tpot": (0.12, 0.18), "throughput": (11.0, 7.5)}, 8),
    ]
    assert takeaways(loud) == []


def test_a_table_marks_the_best_and_says_where_it_was_found() -> None:
    table = wisdom(sweep(), "throughput")[0]
    assert (table.row_axis, table.column_axis) == ("replicas", "hyperthreads")
    assert table.columns == ("hidden", "paired", "spread")
    best = [entry for line in table.entries for entry in line if entry and entry.best]
    assert len(best) == 1
    assert best[0].value == max(entry.value for line in table.entries for entry in line if entry)
    assert best[0].at.startswith("cpus=")
    assert best[0].low <= best[0].value <= best[0].high
    assert best[0].runs == 3


def test_every_place_has_its_own_table() -> None:
    rows = [measured(r, c, "hidden", snc=snc) for snc in (1, 2) for r, c in ((1, 8), (2, 8), (1, 16))]
    tables = wisdom(rows, "tpot")
    assert [table.fixed for table in tables] == [(("snc", 1),), (("snc", 2),)]
    assert tables[0].title == "tpot by replicas and cpus, snc=1"


def test_a_table_of_one_axis_has_one_column() -> None:
    table = wisdom([measured(r, 8, "hidden") for r in (1, 2, 4)], "throughput")[0]
    assert (table.rows, table.columns) == ((1, 2, 4), ("best",))


def test_rows_of_several_sessions_are_pooled() -> None:
    one = measured(1, 8, "hidden")
    other = Row(one.cell, one.metrics, one.cpus, where={**one.where, "session": "b"})
    joined = pooled([one, other])
    assert len(joined) == 1
    assert len(joined[0].runs("tpot")) == 6


def test_the_knee_is_where_more_brings_nothing() -> None:
    rows = [measured(1, cpus, "hidden") for cpus in range(4, 64, 4)]
    curve = curves(rows, "throughput", "cpus")[0]
    assert 24 <= curve.knee <= 32
    assert curve.fall < 1
    assert knee([1, 2, 3], [1.0, 2.0, 3.0]) == (3.0, 1.0)


def test_curves_hold_the_other_axes_and_skip_words_on_their_axis() -> None:
    rows = [measured(r, c, "hidden") for r in (1, 2) for c in (8, 16, 32)]
    assert [curve.name for curve in curves(rows, "tpot", "cpus")] == ["replicas=1", "replicas=2"]
    assert curves(rows, "tpot", "hyperthreads") == []


def test_axes_that_do_not_vary_are_not_axes() -> None:
    assert list(varying([measured(1, 8, "hidden"), measured(2, 8, "hidden")])) == ["replicas"]
    assert ordered(["numa", 8, "socket", 2]) == [2, 8, "numa", "socket"]


def test_the_spread_is_that_of_the_runs_inside_cells() -> None:
    random = np.random.default_rng(5)
    rows = [Row({"cpus": c}, {"tpot": tuple(np.exp(random.normal(c, 0.03, 5)).tolist())}, c) for c in range(1, 41)]
    spread = spread_of(rows, "tpot")
    assert spread.degrees == 160
    assert spread.deviation == pytest.approx(0.03, rel=0.15)
