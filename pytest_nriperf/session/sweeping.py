"""Sweeps in pytest: cells become items, in random blocks or as the search for the front chooses them.

`parametrize_cells` makes the items of a marked test; `Sweeping` is the pytest plugin that orders them, steers which
comes next, keeps to the budget and tells the table of wisdom. Registered only when a sweep was collected.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest

from pytest_nriperf.balloons import BalloonSpec, place
from pytest_nriperf.errors import NriperfError, PlacementError, SpecError, UsageError
from pytest_nriperf.marks import balloon_spec
from pytest_nriperf.metrics import Measurement
from pytest_nriperf.provision import provisioner_for
from pytest_nriperf.report.contents import make_row
from pytest_nriperf.report.tables import wisdom_table
from pytest_nriperf.seams import NodeDescription
from pytest_nriperf.session.collecting import cell_of
from pytest_nriperf.session.config import session_settings
from pytest_nriperf.sweep.axes import (
    Cell,
    LeftOut,
    SweepRequest,
    existing,
    expected_seconds,
    fits_budget,
    make_cells,
    order,
    parse_overrides,
    sweep_request,
)
from pytest_nriperf.sweep.rows import Row, pooled
from pytest_nriperf.sweep.tables import wisdom
from pytest_nriperf.sweep.takeaways import takeaways
from pytest_nriperf.topology import Topology
from pytest_nriperf.units import format_seconds, parse_seconds

SWEEPS: pytest.StashKey[dict[str, Sweep]] = pytest.StashKey()
LEAST_CELLS = 8


@dataclass
class Sweep:
    """One test's sweep: what was asked, what exists, what was left out, and how far it is."""

    function: str
    request: SweepRequest
    cells: int
    left_out: list[LeftOut]
    features: dict[str, list[float]] = field(default_factory=dict)
    cpus: dict[str, int] = field(default_factory=dict)
    durations: list[float] = field(default_factory=list)
    search: Any = None
    order: list[str] = field(default_factory=list)
    planned: int = 0

    def words(self) -> Iterator[str]:
        """The plan in lines."""
        kind = f"random order, seed {self.request.seed}"
        if self.request.strategy == "front":
            kind = f"at most {self.planned} measurements, chosen for the front as they come in"
        elif self.request.repeats > 1:
            kind += f", {self.request.repeats} blocks"
        yield f"sweep {self.function}: {self.cells} cells; {kind}"
        yield from (f"  {entry}" for entry in self.left_out)


def parametrize_cells(metafunc: pytest.Metafunc) -> None:
    """An item for each cell that exists on the node; a mistake in the mark is a usage error that names it."""
    config = metafunc.config
    try:
        sweep, cells = _planned(metafunc)
    except UsageError as error:
        raise pytest.UsageError(f"{metafunc.definition.nodeid}: {error}") from None
    own = list(cells[0].own) if cells else []
    metafunc.parametrize(
        ["nri_cell", *own],
        [(cell, *(cell.own[name] for name in own)) for cell in cells],
        indirect=["nri_cell"],
        ids=[cell.id for cell in cells],
        scope="function",
    )
    config.stash.setdefault(SWEEPS, {})[sweep.function] = sweep
    if not config.pluginmanager.has_plugin("nriperf-sweep"):
        config.pluginmanager.register(Sweeping(config), "nriperf-sweep")


def _planned(metafunc: pytest.Metafunc) -> tuple[Sweep, list[Cell]]:
    config = metafunc.config
    marks = list(metafunc.definition.iter_markers("sweep"))
    if len(marks) > 1 or marks[0].args:
        raise SpecError("sweep: give one mark with named axes", "write sweep(replicas=[1, 2], cpus=[4, 8])")
    overrides = parse_overrides([*(config.getini("nri_set") or []), *(config.getoption("nri_set") or [])])
    request = sweep_request(marks[0].kwargs, overrides)
    cells = make_cells(request.axes)
    for axis in cells[0].own:
        if axis not in metafunc.fixturenames:
            raise SpecError(
                f"sweep: {axis!r} is no argument of a balloon or a model, nor of the test",
                f"add {axis} to the arguments of {metafunc.function.__name__}, or mend the name",
            )
    if "nri_cell" not in metafunc.fixturenames:
        raise SpecError("sweep: the test uses neither a balloon nor a model", "give it the llm or balloon fixture")
    asked = [(mark.args, mark.kwargs) for mark in metafunc.definition.iter_markers("balloon")]
    sweep = Sweep(metafunc.definition.nodeid, request, 0, [])
    node = _known_node(config)
    if node is not None:
        cells, sweep.left_out = existing(cells, _Existence(node, asked, sweep).impossible)
    sweep.cells = len(cells)
    return sweep, cells


def _known_node(config: pytest.Config) -> tuple[Topology, NodeDescription] | None:
    """Topology and description of the node, where reading them starts nothing; else cells are found out as they run."""
    settings = session_settings(config)
    if len(settings.nodes_named) != 1:
        return None
    node = settings.nodes_named[0]
    if node != "local" and not node.startswith("sim:"):
        return None
    own = config.hook.pytest_nriperf_provisioner(node=node, settings=settings)
    provisioner = own or provisioner_for(node, settings)
    return provisioner.topology(), provisioner.describe()


@dataclass
class _Existence:
    """Which cells exist on a node; remembers what a placement says of those that do, for the search."""

    node: tuple[Topology, NodeDescription]
    asked: Sequence[Any]
    sweep: Sweep

    def impossible(self, cell: Cell) -> tuple[str, str] | None:
        """(reason, fact) when the cell's balloons cannot be on the node as it is booted."""
        topology, node = self.node
        spec = balloon_spec([((), cell.balloon), *self.asked])
        boot = spec.boot_needed(topology)
        if boot:
            return boot, ""
        room = len((node.allowed & topology.online) - node.reserved)
        if _needs(spec) > room:
            return "more CPUs than the node has", f"{_needs(spec)} of {room}"
        try:
            placement = place(spec, topology, allowed=node.allowed, reserved=node.reserved)
        except PlacementError as error:
            return "the balloons do not fit", error.fact
        except SpecError as error:
            return "sizes that do not divide", error.fact
        if self.sweep.request.strategy == "front":
            from pytest_nriperf.sweep.adaptive import Replica, placement_features

            replicas = [Replica.of(each.visible, self._where) for each in placement.replicas]
            self.sweep.features[cell.id] = placement_features(replicas)
        self.sweep.cpus[cell.id] = placement.cpus * len(placement.replicas)
        return None

    def _where(self, number: int) -> tuple[int, int, int]:
        cpu = self.node[0].cpu(number)
        return cpu.core, cpu.node, cpu.socket


def _needs(spec: BalloonSpec) -> int:
    """CPUs that are certainly needed; 0 where sizes are shares of the node."""
    return spec.cpus * spec.replicas if isinstance(spec.cpus, int) and isinstance(spec.replicas, int) else 0


class Sweeping:
    """Orders and steers the items of sweeps."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._place = 0
        self._started = time.monotonic()
        self._told = self._started
        self._newest: tuple[str, Row | None] = ("", None)
        self.rows: list[Row] = []

    @property
    def sweeps(self) -> dict[str, Sweep]:
        """By the id of the test function."""
        return self._config.stash.get(SWEEPS, {})

    @property
    def budget_s(self) -> float | None:
        """Seconds that the sweeps of this session may take."""
        text = self._config.getoption("nri_budget") or self._config.getini("nri_budget")
        return parse_seconds(text) if text else None

    def sweep_of(self, item: pytest.Item) -> Sweep | None:
        """The sweep that an item belongs to."""
        return self.sweeps.get(item.nodeid.partition("[")[0]) if cell_of(item) else None

    # ------------------------------------------------------------------------------------------- pytest hooks

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Order what was selected: blocks in random order, or the search's first choice first."""
        for sweep in self.sweeps.values():
            mine = [item for item in session.items if self.sweep_of(item) is sweep]
            by_cell = {_cell(item).id: item for item in mine}
            places = [index for index, item in enumerate(session.items) if self.sweep_of(item) is sweep]
            sweep.cells = len(by_cell)
            if not by_cell or len(by_cell) != len(mine):
                continue  # several nodes: each cell stands once a node, in pytest's own order
            if sweep.request.strategy == "front":
                ordered = self._searched(sweep, by_cell)
            else:
                chosen = order([_cell(item) for item in mine], sweep.request.seed, sweep.request.repeats)
                ordered = [by_cell[cell.id] for cell in chosen]
            sweep.planned = sweep.planned or len(ordered)
            for index in reversed(places[1:]):
                del session.items[index]
            session.items[places[0] : places[0] + 1] = ordered

    def pytest_report_collectionfinish(self) -> list[str]:
        """The plan, before anything runs."""
        return [line for sweep in self.sweeps.values() for line in sweep.words()]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self) -> bool | None:
        """With --nri-dry-run nothing runs: the plan was told."""
        if not self._config.getoption("nri_dry_run"):
            return None
        self._say(f"dry run: nothing was measured{self._cost()}")
        return True

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Measure how long a cell takes, then choose what comes next."""
        start = time.monotonic()
        result = yield
        self._place += 1
        sweep = self.sweep_of(item)
        if sweep is not None:
            sweep.durations.append(time.monotonic() - start)
            self._steer(item, sweep)
        return result

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Takeaways and tables of wisdom of what was measured."""
        rows = pooled(self.rows)
        if not rows:
            return
        terminalreporter.section("nriperf sweep")
        for item in takeaways(rows):
            terminalreporter.line(str(item))
        for metric in ("throughput", "tpot") if len(rows) > 1 else ():
            for found in wisdom(rows, metric):
                terminalreporter.line("")
                for line in wisdom_table(found).text().splitlines():
                    terminalreporter.line(line)
        for entry in self.left_out():
            terminalreporter.line(entry)

    # -------------------------------------------------------------------------------------------------- inside

    def measured(self, measurement: Measurement, topology: Topology) -> None:
        """Hear of a finished measurement of a cell."""
        row = make_row(measurement, topology)
        self.rows.append(row)
        self._newest = (str(measurement.document["test"]), row)

    def left_out(self) -> list[str]:
        """What was not measured, in words."""
        return [str(entry) for sweep in self.sweeps.values() for entry in sweep.left_out]

    def _searched(self, sweep: Sweep, by_cell: dict[str, pytest.Item]) -> list[pytest.Item]:
        """Items with the search's first choice in front."""
        import numpy as np

        from pytest_nriperf.sweep.adaptive import FrontSearch

        sweep.order = list(by_cell)
        known = [cell for cell in sweep.order if cell in sweep.features]
        if len(known) != len(sweep.order):
            raise pytest.UsageError(
                f"{sweep.function}: strategy='front' needs to know the node's topology before it runs; "
                "use one node that is local or sim:SHAPE, or strategy='full'"
            )
        limit = max(min(LEAST_CELLS, len(known)), round(sweep.request.share * len(known)))
        sweep.planned = limit
        features = np.array([sweep.features[cell] for cell in sweep.order])
        cpus = np.array([sweep.cpus[cell] for cell in sweep.order], dtype=float)
        sweep.search = FrontSearch(features, cpus, limit, sweep.request.seed)
        first = sweep.search.suggest()
        rest = [cell for index, cell in enumerate(sweep.order) if index != first]
        return [by_cell[cell] for cell in [sweep.order[first or 0], *rest]]

    def _steer(self, item: pytest.Item, sweep: Sweep) -> None:
        items = item.session.items
        coming = [each for each in items[self._place :] if self.sweep_of(each) is sweep]
        if not fits_budget(time.monotonic() - self._started, sweep.durations, self.budget_s):
            self._drop(items, coming, sweep, "the time budget was spent")
            return
        if sweep.search is not None:
            self._search(item, sweep, items, coming)
        self._tell(sweep, len(coming))

    def _search(self, item: pytest.Item, sweep: Sweep, items: list[pytest.Item], coming: Sequence[pytest.Item]) -> None:
        cell = sweep.order.index(_cell(item).id)
        test, row = self._newest
        if row is None or test != item.nodeid or not row.runs("tpot") or not row.runs("throughput"):
            sweep.search.drop(cell)
        else:
            sweep.search.tell(cell, row.value("tpot"), row.value("throughput"))
        self._newest = ("", None)
        choice = sweep.search.suggest()
        if choice is None:
            self._drop(items, coming, sweep, "by what was measured they cannot matter for the front")
            return
        wanted = sweep.order[choice]
        found = next((each for each in coming if _cell(each).id == wanted), None)
        if found is not None:
            items.remove(found)
        else:
            found = next(each for each in items[: self._place] if cell_of(each) and _cell(each).id == wanted)
        items.insert(self._place, found)

    def _drop(self, items: list[pytest.Item], coming: Sequence[pytest.Item], sweep: Sweep, reason: str) -> None:
        if not coming:
            return
        kept = [each for each in items[self._place :] if self.sweep_of(each) is not sweep]
        del items[self._place :]
        items.extend(kept)
        sweep.left_out.append(LeftOut(reason, len(coming)))
        self._config.hook.pytest_deselected(items=list(coming))

    def _tell(self, sweep: Sweep, coming: int) -> None:
        """The expected end, every tenth of the way and not more often than every ten seconds."""
        done = len(sweep.durations)
        left = min(coming, max(0, sweep.planned - done))
        now = time.monotonic()
        if not left or now - self._told < 10 or done % max(1, sweep.planned // 10):
            return
        self._told = now
        seconds = expected_seconds(sweep.durations, left) or 0.0
        end = datetime.now() + timedelta(seconds=seconds)
        self._say(f"sweep: {done} of {sweep.planned}, about {format_seconds(seconds)} left, ends about {end:%a %H:%M}")

    def _cost(self) -> str:
        planned = sum(sweep.planned for sweep in self.sweeps.values())
        budget = f", at most {format_seconds(self.budget_s)}" if self.budget_s else ""
        return f"; {planned} measurements would be made{budget}"

    def _say(self, text: str) -> None:
        reporter: Any = self._config.pluginmanager.get_plugin("terminalreporter")
        capture: Any = self._config.pluginmanager.get_plugin("capturemanager")
        if reporter is None or self._config.get_verbosity() < 0:
            return
        with capture.global_and_fixture_disabled():
            reporter.ensure_newline()
            reporter.write_line(text)


def _cell(item: pytest.Item) -> Cell:
    cell = cell_of(item)
    if cell is None:
        raise NriperfError(f"{item.nodeid} is no cell of a sweep")
    return cell
