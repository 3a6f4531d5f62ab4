"""The front keeps ties, its probability follows the noise, its volume is exact."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_nriperf.sweep.front import hypervolume, pareto, shortfall, undominated
from pytest_nriperf.sweep.rows import Row

Point = tuple[float, float, float]
POINTS = st.lists(st.tuples(*[st.integers(0, 5).map(float)] * 3), min_size=1, max_size=25)


def row(name: str, tpot: list[float], throughput: list[float], cpus: int) -> Row:
    return Row({"name": name}, {"tpot": tuple(tpot), "throughput": tuple(throughput)}, cpus)


def on_front(rows: list[Row]) -> set[str]:
    return {cell.row.cell["name"] for cell in pareto(rows) if cell.on_front}


@settings(max_examples=100, deadline=None)
@given(POINTS)
def test_undominated_is_the_definition(points: list[Point]) -> None:
    def dominated(own: Point) -> bool:
        return any(all(a <= b for a, b in zip(other, own, strict=True)) and other != own for other in points)

    assert undominated(np.array(points)).tolist() == [not dominated(own) for own in points]


@settings(max_examples=60, deadline=None)
@given(POINTS)
def test_the_volume_counts_the_unit_cubes_that_are_dominated(points: list[Point]) -> None:
    cubes = sum(
        any(x >= a and y >= b and z >= c for a, b, c in points) for x in range(6) for y in range(6) for z in range(6)
    )
    assert hypervolume(np.array(points), 6.0) == pytest.approx(cubes)


def test_equal_cells_all_stay_on_the_front() -> None:
    same = {"tpot": [0.1], "throughput": [10.0], "cpus": 8}
    assert on_front([row("a", **same), row("b", **same), row("c", [0.2], [9.0], 8)]) == {"a", "b"}  # type: ignore[arg-type]


def test_a_slow_cell_stays_when_it_costs_fewer_cpus() -> None:
    assert on_front([row("big", [0.1], [10.0], 64), row("small", [0.2], [5.0], 8)]) == {"big", "small"}


def test_a_cell_without_a_value_is_not_judged() -> None:
    assert on_front([row("a", [0.1], [10.0], 8), row("failed", [], [], 4)]) == {"a"}


def test_without_repeats_no_probability_is_claimed() -> None:
    assert [cell.probability for cell in pareto([row("a", [0.1], [10.0], 8)])] == [None]


def test_near_ties_are_uncertain_and_clear_cells_are_not() -> None:
    rows = [
        row("a", [0.100, 0.104], [10.0, 9.6], 8),
        row("near", [0.102, 0.103], [9.75, 9.7], 8),
        row("far", [0.2, 0.201], [5.0, 5.01], 8),
    ]
    chance = {cell.row.cell["name"]: cell.probability for cell in pareto(rows)}
    assert chance["far"] == 0
    assert 0.05 < (chance["near"] or 0) < (chance["a"] or 0) < 1


def test_the_shortfall_is_none_with_the_whole_front_and_all_without_reach() -> None:
    points = np.array([[0.0, 1.0, 0.5], [1.0, 0.0, 0.5], [2.0, 2.0, 2.0]])
    assert shortfall(points, [0, 1]) == pytest.approx(0)
    assert shortfall(points, [2]) == pytest.approx(1)
