"""The search finds the front with few measurements, and spends its limit exactly."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_nriperf.sweep.adaptive import FrontSearch, Replica, placement_features, predict
from pytest_nriperf.sweep.front import shortfall
from pytest_nriperf.sweep.rows import Floats


def landscape() -> tuple[Floats, Floats]:
    """A made-up node: speed saturates with the CPUs of all replicas, too many replicas disturb each other."""
    grid = [(r, c) for r in (1, 2, 4, 8, 16) for c in range(2, 66, 2) if r * c <= 128]
    replicas, cpus = np.array(grid, dtype=float).T
    node = np.minimum(replicas * cpus, 40.0) / (1 + 0.002 * replicas * cpus)
    points = np.log(np.column_stack([replicas / node, 1 / node, replicas * cpus]))
    return np.log2(np.column_stack([replicas, cpus])), points


def searched(seed: int, limit: int) -> FrontSearch:
    features, points = landscape()
    search = FrontSearch(features, np.exp(points[:, 2]), limit, seed)
    noise = np.random.default_rng(seed)
    while (cell := search.suggest()) is not None:
        error = noise.normal(0, 0.01)
        search.tell(cell, float(np.exp(points[cell, 0] + error)), float(np.exp(-points[cell, 1] - error)))
    return search


def test_a_quarter_of_the_cells_gives_nearly_the_whole_front() -> None:
    _, points = landscape()
    limit = len(points) // 4
    ours = np.median([shortfall(points, list(searched(seed, limit).seen)) for seed in range(5)])
    chance = np.random.default_rng(0)
    random = np.median([shortfall(points, chance.choice(len(points), limit, replace=False)) for _ in range(20)])
    assert ours < 0.03
    assert ours < random / 3


def test_the_limit_holds_with_repeats_of_cells_near_the_front() -> None:
    search = searched(0, 30)
    assert sum(map(len, search.seen.values())) == 30
    assert len(search.seen) == search.new_cells == 24
    assert max(map(len, search.seen.values())) > 1


def test_a_cell_that_cannot_be_measured_is_not_suggested_again() -> None:
    features, points = landscape()
    search = FrontSearch(features, np.exp(points[:, 2]), 10, 0)
    first = search.suggest()
    assert first is not None
    search.drop(first)
    assert search.suggest() != first


def test_a_search_over_fewer_cells_than_its_limit_measures_all_and_ends() -> None:
    search = FrontSearch(np.array([[0.0], [1.0], [2.0]]), np.array([1.0, 2.0, 4.0]), 10, 0)
    count = 0
    while (cell := search.suggest()) is not None:
        search.tell(cell, 1.0 / (cell + 1), float(cell + 1))
        count += 1
    assert set(search.seen) == {0, 1, 2}
    assert count <= 10


def test_the_same_seed_measures_the_same_cells() -> None:
    assert list(searched(3, 20).seen) == list(searched(3, 20).seen)


def test_the_model_is_sure_where_it_measured_and_unsure_far_away() -> None:
    known = np.linspace(0, 1, 8)[:, None]
    values = np.sin(6 * known)
    mean, deviation = predict(known, values, np.array([[0.5], [3.0]]))
    assert mean[0, 0] == pytest.approx(np.sin(3.0), abs=0.1)
    assert deviation[1, 0] > 3 * deviation[0, 0]


def test_features_count_shared_cores_crossing_reads_and_crowded_nodes() -> None:
    def place(cpu: int) -> tuple[int, int, int]:
        return cpu % 4, cpu % 4 // 2, cpu % 4 // 2

    first, sibling, across = (Replica.of(cpus, place) for cpus in ([0, 1], [4, 5], [1, 2]))
    assert placement_features([first]) == [1, 1, 0, 0, 1, 0, 0]
    assert placement_features([first, sibling])[-1] == 1
    assert placement_features([first, sibling])[3:5] == [1, 2]
    assert placement_features([across])[3:6] == [-1, 0, 0.5]
