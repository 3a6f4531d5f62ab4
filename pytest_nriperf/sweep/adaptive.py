"""What to measure next when only the front matters: strategy `front`.

The model: log TPOT and log throughput are Gaussian processes over the features of a cell (linear trend, Matern 5/2
kernel; Rasmussen, Williams, Gaussian Processes for Machine Learning, 2006, chapters 2 and 4); the CPUs of a cell are
known. The next cell is the one with the greatest expected gain of hypervolume (Emmerich, Giannakoglou, Naujoks,
2006), estimated on quasi-random points. The last part of the measurements repeats cells whose place is uncertain.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pytest_nriperf.sweep.front import REFERENCE, undominated
from pytest_nriperf.sweep.rows import Floats

REPEAT_SHARE = 0.2
BOX_POINTS = 2048
QUADRATURE = ((-1.2247, 1 / 6), (0.0, 2 / 3), (1.2247, 1 / 6))
LENGTHS = (0.7, 1.2, 2.0, 3.5, 6.0)
NOISES = (0.003, 0.01, 0.03)


@dataclass
class FrontSearch:
    """Chooses cells one after the other: `suggest()` what to measure, `tell()` what was seen, until None.

    `features` (cells x features) is what the model may know of a cell before it is measured; `cpus` are the
    allocated CPUs of each cell. `limit` is the number of measurements, repeats included.
    """

    features: Floats
    cpus: Floats
    limit: int
    seed: int = 0
    seen: dict[int, list[tuple[float, float]]] = field(default_factory=dict)
    _told: int = 0

    def __post_init__(self) -> None:
        scale = self.features.std(0)
        self._x = (self.features - self.features.mean(0))[:, scale > 0] / scale[scale > 0]
        self._cost = np.log(np.asarray(self.cpus, dtype=float))
        self._random = np.random.default_rng(self.seed)
        self._first = self._spread_out(min(self.limit, max(6, 2 * self._x.shape[1])))
        self._box = _quasi_random(BOX_POINTS)

    @property
    def new_cells(self) -> int:
        """How many different cells may be measured: the rest of the limit is for repeats."""
        if self.limit >= len(self.cpus):
            return len(self.cpus)
        return max(1, self.limit - round(self.limit * REPEAT_SHARE))

    def suggest(self) -> int | None:
        """The cell to measure next (its index), or None when the limit is reached."""
        if self._told >= min(self.limit, len(self.cpus) + self.limit - self.new_cells):
            return None
        if len(self.seen) >= min(self.new_cells, len(self.cpus)):
            return self._uncertain()
        unseen_first = [index for index in self._first if index not in self.seen]
        return unseen_first[0] if unseen_first else self._best_gain()

    def tell(self, cell: int, latency_s: float, throughput: float) -> None:
        """What a measurement of the cell gave: stream latency (TPOT) and tokens per second of the node."""
        self.seen.setdefault(cell, []).append((float(np.log(latency_s)), -float(np.log(throughput))))
        self._told += 1

    def drop(self, cell: int) -> None:
        """The cell could not be measured: it is not suggested again."""
        self.seen.setdefault(cell, [])
        self._told += 1

    def _values(self) -> tuple[NDArray[np.int_], Floats]:
        cells = [cell for cell, values in self.seen.items() if values]
        means = [np.mean(self.seen[cell], axis=0) for cell in cells]
        return np.array(cells, dtype=int), np.array(means, dtype=float).reshape(-1, 2)

    def _spread_out(self, count: int) -> list[int]:
        """First cells, far from each other: the next is always the one farthest from all chosen."""
        chosen = [int(self._random.integers(len(self._x)))]
        distance = np.full(len(self._x), np.inf)
        while len(chosen) < min(count, len(self._x)):
            distance = np.minimum(distance, np.linalg.norm(self._x - self._x[chosen[-1]], axis=1))
            chosen.append(int(np.argmax(distance)))
        return chosen

    def _best_gain(self) -> int:
        cells, values = self._values()
        candidates = np.setdiff1d(np.arange(len(self._x)), list(self.seen))
        if len(cells) < 3:
            return int(self._random.choice(candidates))
        mean, deviation = predict(self._x[cells], values, self._x[candidates])
        cost = self._cost[candidates]
        measured = np.column_stack([values, self._cost[cells]])
        gain = self._gain(measured, mean, deviation, cost)
        return int(candidates[np.argmax(gain)])

    def _gain(self, measured: Floats, mean: Floats, deviation: Floats, cost: Floats) -> Floats:
        """Expected gain of hypervolume of each candidate, in parts of the box.

        Latency and throughput of a cell err together (a slower stream is less throughput), so one dimension of
        quadrature does for both.
        """
        front = measured[undominated(measured)]
        likely = np.vstack([front, np.column_stack([mean, cost])])
        low = likely.min(0)
        span = np.maximum(front.max(0) - low, 1e-9) * REFERENCE
        box = low + self._box * span
        open_box = box[~(front[:, None, :] <= box[None, :, :]).all(2).any(0)]
        gain = np.zeros(len(cost))
        reachable = cost[:, None] <= open_box[None, :, 2]
        for z, weight in QUADRATURE:
            shifted = mean + z * deviation
            inside = reachable & (shifted[:, :1] <= open_box[None, :, 0]) & (shifted[:, 1:2] <= open_box[None, :, 1])
            gain += weight * inside.mean(1) * len(open_box) / len(box)
        total: Floats = gain + 1e-6 * deviation.sum(1)
        return total

    def _uncertain(self) -> int:
        """The measured cell whose place on the front the fewest runs decide: closest to the front first."""
        cells, values = self._values()
        points = np.column_stack([values, self._cost[cells]])
        runs = np.array([len(self.seen[cell]) for cell in cells])
        return int(cells[by_uncertainty(points, runs, self._random)[0]])


def by_uncertainty(points: Floats, runs: NDArray[np.int_], random: np.random.Generator) -> NDArray[np.int_]:
    """Rows of `points` (log latency, minus log throughput, log CPUs), what to measure once more first.

    Fewest runs first; of those the one that has to become least better to be undominated.
    """
    front = points[undominated(points)]
    short = np.array([_shortage(point, front) for point in points])
    return np.lexsort((random.random(len(points)), short, runs))


def predict(known: Floats, values: Floats, wanted: Floats) -> tuple[Floats, Floats]:
    """Mean and standard deviation of the values at `wanted` (both cells x outputs), by Gaussian processes.

    The length scale and the noise are those of the greatest marginal likelihood on a small grid.
    """
    trend, residuals = _trend(known, values)
    scale = np.maximum(residuals.std(0), 1e-6)
    target = residuals / scale
    distance = _distances(known, known)
    best = max(
        ((length, noise) for length in LENGTHS for noise in NOISES),
        key=lambda pair: _likelihood(distance, target, *pair),
    )
    factor = np.linalg.cholesky(_matern(distance, best[0]) + best[1] * np.eye(len(known)))
    cross = _matern(_distances(known, wanted), best[0])
    half = np.linalg.solve(factor, cross)
    mean = trend(wanted) + (half.T @ np.linalg.solve(factor, target)) * scale
    deviation = np.sqrt(np.maximum(1 - (half**2).sum(0), 1e-12))[:, None] * scale
    return mean, deviation


def _trend(known: Floats, values: Floats) -> tuple[Callable[[Floats], Floats], Floats]:
    """Ridge regression on the features: what the processes start from."""
    design = np.column_stack([np.ones(len(known)), known])
    penalty = 0.1 * np.eye(design.shape[1])
    penalty[0, 0] = 1e-9
    weights = np.linalg.solve(design.T @ design + penalty, design.T @ values)

    def trend(points: Floats) -> Floats:
        fitted: Floats = np.column_stack([np.ones(len(points)), points]) @ weights
        return fitted

    return trend, values - trend(known)


def _distances(one: Floats, other: Floats) -> Floats:
    distances: Floats = np.sqrt(np.maximum(((one[:, None, :] - other[None, :, :]) ** 2).sum(2), 0.0))
    return distances


def _matern(distance: Floats, length: float) -> Floats:
    ratio = np.sqrt(5.0) * distance / length
    kernel: Floats = (1 + ratio + ratio**2 / 3) * np.exp(-ratio)
    return kernel


def _likelihood(distance: Floats, target: Floats, length: float, noise: float) -> float:
    factor = np.linalg.cholesky(_matern(distance, length) + noise * np.eye(len(distance)))
    white = np.linalg.solve(factor, target)
    return float(-0.5 * (white**2).sum() - target.shape[1] * np.log(np.diag(factor)).sum())


def _shortage(point: Floats, front: Floats) -> float:
    cheaper = front[front[:, 2] <= point[2]]
    behind = np.minimum(point[0] - cheaper[:, 0], point[1] - cheaper[:, 1])
    return max(0.0, float(behind.max(initial=0.0)))


def _quasi_random(count: int) -> Floats:
    """Points of the unit cube by the additive recurrence of Roberts (2018): even, and no library needed."""
    root = 1.2207440846057596
    steps = np.array([1 / root, 1 / root**2, 1 / root**3])
    points: Floats = (0.5 + np.arange(1, count + 1)[:, None] * steps) % 1.0
    return points


@dataclass(frozen=True)
class Replica:
    """What a planned replica occupies: threads that it runs, its cores, and how many of them each NUMA node and each
    socket holds."""

    threads: int
    cores: frozenset[int]
    per_node: Mapping[int, int]
    per_socket: Mapping[int, int]

    @classmethod
    def of(cls, visible: Iterable[int], place: Callable[[int], tuple[int, int, int]]) -> Replica:
        """From the CPUs that it sees; `place(cpu)` gives (core, NUMA node, socket)."""
        places = [place(cpu) for cpu in visible]
        cores = {core: (node, socket) for core, node, socket in places}
        return cls(
            threads=len(places),
            cores=frozenset(cores),
            per_node=Counter(node for node, _ in cores.values()),
            per_socket=Counter(socket for _, socket in cores.values()),
        )


def placement_features(replicas: Sequence[Replica]) -> list[float]:
    """What a placement says of speed before it is measured, from counts alone (logs to base 2, and shares).

    Threads and cores a replica; replicas; how many replicas' memory the busiest NUMA node serves, when a replica's
    lies where its cores are; the cores on that node; the share of reads that cross sockets; the share of replicas
    whose cores others use too.
    """
    owners: Counter[int] = Counter()
    served: dict[int, float] = {}
    crowd: Counter[int] = Counter()
    for replica in replicas:
        owners.update(replica.cores)
        crowd.update(replica.per_node)
        for node, count in replica.per_node.items():
            served[node] = served.get(node, 0.0) + count / len(replica.cores)
    crossing = [1 - sum((count / len(each.cores)) ** 2 for count in each.per_socket.values()) for each in replicas]
    shared = sum(any(owners[core] > 1 for core in replica.cores) for replica in replicas) / len(replicas)
    return [
        _log_mean(replica.threads for replica in replicas),
        _log_mean(len(replica.cores) for replica in replicas),
        float(np.log2(len(replicas))),
        float(np.log2(max(served.values()))),
        float(np.log2(max(crowd.values()))),
        sum(crossing) / len(crossing),
        shared,
    ]


def _log_mean(counts: Iterable[int]) -> float:
    values = list(counts)
    return float(np.log2(sum(values) / len(values)))
