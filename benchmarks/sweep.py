"""How near a search for the front comes to the full sweep, beside chance and a grid, and how fast the pure parts are.

On `sim:2s64c2t-snc2`, over replicas 1, 2, 4 .. 18, CPUs 4 .. 256 by 2 and three uses of hyperthreads, with real
placement. Measured values have noise; the front is judged by noise-free values. Shortfall: the share of the full
sweep's hypervolume that is missing (log TPOT, log throughput, log CPUs, scaled to the full front, corner 1.1).
Goals: at most 3 % with at most 15 % of the cells, and at least 3 times nearer than chance.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from pytest_nriperf.balloons import BalloonSpec, place
from pytest_nriperf.errors import NriperfError
from pytest_nriperf.simulate.llm import ModelSize
from pytest_nriperf.simulate.machine import loads_of, machine_of, speeds
from pytest_nriperf.sweep.adaptive import FrontSearch, Replica, placement_features
from pytest_nriperf.sweep.axes import make_cells
from pytest_nriperf.sweep.front import shortfall, undominated
from pytest_nriperf.sweep.rows import Floats
from pytest_nriperf.topology import simulated_topology

SHAPE = "sim:2s64c2t-snc2"
AXES = {
    "replicas": [1, *range(2, 19, 2)],
    "cpus": list(range(4, 257, 2)),
    "hyperthreads": ["spread", "paired", "hidden"],
}
NOISE = 0.01
CONTEXT = np.array([80.0])


def space() -> tuple[Floats, Floats, Floats]:
    """Features, CPUs and noise-free points (log TPOT, -log throughput, log CPUs) of all cells that exist."""
    topology = simulated_topology(SHAPE)
    machine, size = machine_of(topology), ModelSize()
    features, cpus, points = [], [], []

    def where(cpu: int) -> tuple[int, int, int]:
        return machine.core_of[cpu], machine.node_of[cpu], machine.socket_of[cpu]

    for cell in make_cells(AXES):
        if cell.balloon["replicas"] * cell.balloon["cpus"] > len(topology.online):
            continue
        try:
            placement = place(BalloonSpec.from_arguments(cell.balloon), topology, allowed=topology.online)
        except NriperfError:
            continue
        steps = [float(each.step_s(size, CONTEXT)[0]) for each in speeds(machine, size, loads_of(placement, machine))]
        replicas = [Replica.of(each.visible, where) for each in placement.replicas]
        features.append(placement_features(replicas))
        cpus.append(float(placement.cpus * len(placement.replicas)))
        points.append((np.log(np.median(steps)), -np.log(sum(1 / step for step in steps)), np.log(cpus[-1])))
    return np.array(features), np.array(cpus), np.array(points)


def searched(features: Floats, cpus: Floats, points: Floats, limit: int, seed: int) -> list[int]:
    """Cells that the search measured, repeats counted against the limit."""
    noise = np.random.default_rng([seed, 1])
    search = FrontSearch(features, cpus, limit, seed)
    while (cell := search.suggest()) is not None:
        error = noise.normal(0, NOISE)
        search.tell(cell, float(np.exp(points[cell, 0] + error)), float(np.exp(-points[cell, 1] - error)))
    return list(search.seen)


def by_chance(count: int, limit: int, seed: int) -> list[int]:
    """As many cells at random."""
    return [int(cell) for cell in np.random.default_rng([seed, 2]).choice(count, limit, replace=False)]


def on_a_grid(count: int, limit: int, seed: int) -> list[int]:
    """Every n-th cell in the order of the axes, from a random start."""
    start = int(np.random.default_rng([seed, 3]).integers(count))
    return sorted({(start + round(index * count / limit)) % count for index in range(limit)})


def main() -> None:
    """Print the table of shortfalls."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--share", type=float, default=0.15)
    options = parser.parse_args()
    start = time.perf_counter()
    features, cpus, points = space()
    limit = int(options.share * len(points))
    placed = time.perf_counter() - start
    print(
        f"{len(points)} cells exist, {int(undominated(points).sum())} on the front; placed and timed in {placed:.1f} s"
    )
    choices: dict[str, Callable[[int], list[int]]] = {
        "search": lambda seed: searched(features, cpus, points, limit, seed),
        "chance": lambda seed: by_chance(len(points), limit, seed),
        "grid": lambda seed: on_a_grid(len(points), limit, seed),
    }
    print(f"{'choice':8} {'measured':>8} {'median':>8} {'p90':>8} {'worst':>8} {'s/search':>9}")
    medians = {}
    for name, choose in choices.items():
        start = time.perf_counter()
        gaps = [shortfall(points, choose(seed)) for seed in range(options.seeds)]
        seconds = (time.perf_counter() - start) / options.seeds
        medians[name] = float(np.median(gaps))
        figures = f"{medians[name]:8.2%} {np.quantile(gaps, 0.9):8.2%} {max(gaps):8.2%}"
        print(f"{name:8} {limit:8} {figures} {seconds:9.2f}")
    nearer = medians["chance"] / max(medians["search"], 1e-9)
    print(f"the search comes {nearer:.1f} times nearer than chance (goal: 3), {options.seeds} seeds")


if __name__ == "__main__":
    main()
