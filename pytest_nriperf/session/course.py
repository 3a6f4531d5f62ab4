"""One sweep on its way on one node: which cell comes next, which is measured again, what is known so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from pytest_nriperf.session.collecting import cell_of
from pytest_nriperf.session.sweeping import Sweep
from pytest_nriperf.sweep.adaptive import REPEAT_SHARE, FrontSearch, by_uncertainty
from pytest_nriperf.sweep.axes import Cell, order
from pytest_nriperf.sweep.existence import Site, cell_features
from pytest_nriperf.sweep.front import objectives
from pytest_nriperf.sweep.rows import Row, pooled

# A front of fewer cells than this is not worth a search: they are all measured.
LEAST_CELLS = 8
# A full sweep of fewer cells is read whole, and repeated whole where that is wanted (--nri-runs, repeats=).
LEAST_REPEATED = 20


@dataclass
class Course:
    """The items of a sweep that are left to measure, in order, and those that are done with what they gave.

    With strategy `front` a search picks from `pending` and ends before all are measured; a full sweep measures all,
    then a fifth again where it decides most: near the front (unless the number of runs was given, or there are few).
    `repeating` says whether cells may be measured again that the mark does not name.
    """

    sweep: Sweep
    node: str
    pending: list[pytest.Item]
    seed: int
    repeating: bool = True
    done: dict[str, pytest.Item] = field(default_factory=dict)
    rows: dict[str, list[Row]] = field(default_factory=dict)
    repeats: int = 0
    search: FrontSearch | None = None

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(self.seed)
        self._queue: list[str] | None = None
        self._ids = [item.nodeid for item in self.pending]
        ranks = {cell.id: rank for rank, cell in enumerate(order(cells_of(self.pending), self.seed))}
        self.pending.sort(key=lambda item: ranks[_cell(item).id])

    @property
    def adaptive(self) -> bool:
        """Whether what comes next depends on what was seen."""
        return self.sweep.request.strategy == "front" and len(self._ids) > LEAST_CELLS

    @property
    def limit(self) -> int:
        """Cells that will be measured at most, repeats not counted."""
        if not self.adaptive:
            return len(self._ids)
        return max(1, self._measurements - round(self._measurements * REPEAT_SHARE))

    @property
    def left(self) -> int:
        """How many of the pending items will be measured."""
        return min(len(self.pending), max(0, self.limit - len(self.done)))

    @property
    def _measurements(self) -> int:
        return max(LEAST_CELLS, round(self.sweep.request.share * len(self._ids)))

    def start(self, site: Site) -> None:
        """Begin the search: the node is known."""
        if not self.adaptive or self.search is not None:
            return
        items = [*self.done.values(), *self.pending]
        cells = cells_of(items)
        placements = [site.placement(self.sweep.spec(cell)) for cell in cells]
        features, cpus = cell_features(cells, [each for each in placements if each is not None], site.topology)
        self._ids = [item.nodeid for item in items]
        self.search = FrontSearch(features, cpus, self._measurements, self.seed)
        for name in self.done:
            known: list[Row | None] = [*self.rows.get(name, [])]
            for row in known or [None]:
                self._tell(name, row)

    def took(self, item: pytest.Item, row: Row | None, *, again: bool) -> None:
        """An item was measured: `row` is what it gave, None when it gave nothing."""
        if not again:
            self.pending.remove(item)
            self.done[item.nodeid] = item
        self.repeats += again
        if row is not None:
            self.rows.setdefault(item.nodeid, []).append(row)
        if self.search is not None:
            self._tell(item.nodeid, row)

    def next(self) -> tuple[pytest.Item | None, bool]:
        """What to measure now, and whether it is measured again; (None, False) at the end."""
        if self.search is not None:
            return self._suggested()
        if self.pending:
            return self.pending[0], False
        if self._queue is None:
            self._queue = self._again()
        return (self.done[self._queue.pop(0)], True) if self._queue else (None, False)

    def _suggested(self) -> tuple[pytest.Item | None, bool]:
        assert self.search is not None
        choice = self.search.suggest()
        if choice is None:
            return None, False
        name = self._ids[choice]
        if name in self.done:
            # Where runs are counted by the user, the search ends instead of measuring again.
            return (self.done[name], True) if self.repeating else (None, False)
        return next(item for item in self.pending if item.nodeid == name), False

    def _tell(self, name: str, row: Row | None) -> None:
        assert self.search is not None
        index = self._ids.index(name)
        if row is None or not _complete(row):
            self.search.drop(index)
        else:
            self.search.tell(index, row.value("tpot"), row.value("throughput"))

    def _again(self) -> list[str]:
        """What of a full sweep to measure again: whole blocks where the mark asks for them, else cells near the front.

        In random order: what drifts falls on all of them alike.
        """
        blocks, items = self.sweep.request.repeats, list(self.done.values())
        if blocks > 1:
            again = order(cells_of(items), self.seed + 1, blocks - 1)
            return [item.nodeid for cell in again for item in items if _cell(item).id == cell.id][self.repeats :]
        known = {name: rows for name, rows in self.rows.items() if name in self.done and _complete(rows[0])}
        count = int(REPEAT_SHARE * len(known)) - self.repeats
        if not self.repeating or len(known) < LEAST_REPEATED or count < 1:
            return []
        points = objectives([pooled(rows)[0] for rows in known.values()])
        runs = np.array([len(rows) for rows in known.values()])
        chosen = by_uncertainty(points, runs, self._random)[:count]
        return [list(known)[index] for index in self._random.permutation(chosen)]


def _complete(row: Row) -> bool:
    return bool(row.runs("tpot") and row.runs("throughput"))


def _cell(item: pytest.Item) -> Cell:
    cell = cell_of(item)
    assert cell is not None
    return cell


def cells_of(items: Sequence[pytest.Item]) -> list[Cell]:
    """The cells of items of a sweep, each once."""
    cells: Mapping[str, Cell] = {_cell(item).id: _cell(item) for item in items}
    return list(cells.values())
