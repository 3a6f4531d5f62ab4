"""Sweeps in pytest, before anything runs: the cells of a marked test become items; what cannot exist is left out.

`parametrize_cells` is called for each marked test function while pytest collects. It reads the node's topology where
that starts nothing, else from the node's cache; what is run next, and when to end, is decided in `steering`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from pytest_nriperf.balloons import BalloonSpec
from pytest_nriperf.errors import EnvironmentFault, SpecError, UsageError
from pytest_nriperf.generate.archive import worker_archive
from pytest_nriperf.marks import Arguments, balloon_spec, llm_request
from pytest_nriperf.provision import provisioner_for
from pytest_nriperf.seams import NodeDescription, Provisioner, Recalling
from pytest_nriperf.session.collecting import function_id
from pytest_nriperf.session.config import PROVISIONERS, SWEEPS, session_settings
from pytest_nriperf.sweep.axes import (
    BALLOON_AXES,
    LLM_AXES,
    Cell,
    LeftOut,
    SweepRequest,
    existing,
    make_cells,
    parse_overrides,
    sweep_request,
)
from pytest_nriperf.sweep.existence import Refusal, Site
from pytest_nriperf.topology import Topology


@dataclass
class Sweep:
    """One test function's sweep. `left_out` by node; `marked` are its balloon marks, the closest first."""

    function: str
    request: SweepRequest
    marked: Sequence[Arguments]
    cells: Sequence[Cell]
    existing: dict[str, frozenset[str]] = field(default_factory=dict)
    left_out: dict[str, list[LeftOut]] = field(default_factory=dict)

    def spec(self, cell: Cell) -> BalloonSpec:
        """The balloon of a cell: its values win over the marks'."""
        return balloon_spec([((), cell.balloon), *self.marked])

    def told(self) -> list[str]:
        """What was left out, a line a reason; the node is named where there are several."""
        return [
            f"{f'{node}: ' if len(self.left_out) > 1 else ''}{entry}"
            for node, entries in self.left_out.items()
            for entry in entries
        ]

    def exists(self, cell: Cell, node: str) -> bool:
        """Whether the node can hold the cell; True where the node could not be read."""
        return node not in self.existing or cell.id in self.existing[node]


@dataclass
class Sweeps:
    """All sweeps that were collected, by the id of their function; `mistakes` are told after collection."""

    found: dict[str, Sweep] = field(default_factory=dict)
    mistakes: list[str] = field(default_factory=list)
    sites: dict[str, Site | None] = field(default_factory=dict)

    def of(self, item: pytest.Item) -> Sweep | None:
        """The sweep that an item belongs to."""
        return self.found.get(function_id(item))


def parametrize_cells(metafunc: pytest.Metafunc) -> None:
    """An item for each cell that exists on a node of the session."""
    sweeps = metafunc.config.stash.setdefault(SWEEPS, Sweeps())
    try:
        sweep = _planned(metafunc, sweeps)
    except UsageError as error:
        sweeps.mistakes.append(f"{metafunc.definition.nodeid}: {error}")
        return
    sweeps.found[sweep.function] = sweep
    nodes = session_settings(metafunc.config).nodes_named
    cells = [cell for cell in sweep.cells if any(sweep.exists(cell, node) for node in nodes)]
    own = [axis for axis in sweep.request.axes if axis in metafunc.fixturenames]
    if "nri_cell" not in metafunc.fixturenames:
        metafunc.fixturenames.append("nri_cell")
    metafunc.parametrize(["nri_cell", *own], list(_parameters(sweep, cells, own)), indirect=["nri_cell"])


def _parameters(sweep: Sweep, cells: Sequence[Cell], own: Sequence[str]) -> Iterator[Any]:
    for cell in cells:
        values = dict(cell.values)
        yield pytest.param(cell, *(values[axis] for axis in own), id=cell.id)
    if not cells:
        skip = pytest.mark.skip(reason="; ".join(sweep.told()))
        yield pytest.param(None, *(None for _ in own), id="no cell", marks=skip)


def provisioner_of(config: pytest.Config, node: str) -> Provisioner:
    """The provisioner of a node, one a session; making it starts nothing."""
    made = config.stash.setdefault(PROVISIONERS, {})
    if node not in made:
        settings = session_settings(config)
        own = config.hook.pytest_nriperf_provisioner(node=node, settings=settings)
        made[node] = own or provisioner_for(node, settings, worker_archive)
    return made[node]


def _planned(metafunc: pytest.Metafunc, sweeps: Sweeps) -> Sweep:
    definition, config = metafunc.definition, metafunc.config
    settings = session_settings(config)
    named: dict[str, Any] = {}
    for mark in reversed(list(definition.iter_markers("sweep"))):
        if mark.args:
            raise SpecError(f"sweep: {mark.args[0]!r} has no name", "write sweep(replicas=[1, 2], cpus=[4, 8])")
        named |= mark.kwargs
    request = sweep_request(named, parse_overrides(settings.axes))
    _check_axes(metafunc, request.axes)
    marked = [(mark.args, mark.kwargs) for mark in definition.iter_markers("balloon")]
    sweep = Sweep(definition.nodeid, request, marked, make_cells(request.axes))
    for node in settings.nodes_named:
        site = _site(config, node, sweeps)
        if site is not None:
            leave_out(sweep, node, site)
    return sweep


def leave_out(sweep: Sweep, node: str, site: Site) -> None:
    """Find out which cells the node can hold."""

    def impossible(cell: Cell) -> Refusal | None:
        try:
            return site.refusal(sweep.spec(cell))
        except SpecError as error:
            return "sizes that do not divide", error.fact

    kept, sweep.left_out[node] = existing(sweep.cells, impossible)
    sweep.existing[node] = frozenset(cell.id for cell in kept)


def _site(config: pytest.Config, node: str, sweeps: Sweeps) -> Site | None:
    """The node where reading it starts nothing, or as it was seen last; None: what exists is found out as it runs."""
    if node not in sweeps.sites:
        seen = _seen(config, node)
        sweeps.sites[node] = Site.of(*seen) if seen else None
    return sweeps.sites[node]


def name_of(config: pytest.Config, node: str) -> str:
    """The name that recordings have for a node, as far as it is known without starting something there."""
    seen = _seen(config, node)
    return seen[1].name if seen else node


def _seen(config: pytest.Config, node: str) -> tuple[Topology, NodeDescription] | None:
    provisioner = provisioner_of(config, node)
    try:
        if isinstance(provisioner, Recalling):
            return provisioner.recall()
        return provisioner.topology(), provisioner.describe()
    except EnvironmentFault:
        return None  # the first test that needs the node fails with the reason


def _check_axes(metafunc: pytest.Metafunc, axes: Mapping[str, Sequence[Any]]) -> None:
    """Every axis must reach the balloon, the model or the test, with values that one of these takes."""
    parametrized = {
        name.strip()
        for mark in metafunc.definition.iter_markers("parametrize")
        for name in (mark.args[0].split(",") if isinstance(mark.args[0], str) else mark.args[0])
    }
    for axis, values in axes.items():
        if axis in parametrized:
            raise SpecError(f"sweep: {axis!r} is parametrized too", "give its values in one of the two marks")
        if axis in BALLOON_AXES:
            # Whether a number of CPUs fits the hyperthreads of a cell is no mistake: such cells are left out.
            more = {"hyperthreads": "spread"} if axis == "cpus" else {}
            for value in values:
                BalloonSpec.from_arguments({axis: value, **more})
        elif axis in LLM_AXES:
            for value in values:
                llm_request([((), {axis: value})])
        elif axis not in metafunc.fixturenames:
            raise SpecError(
                f"sweep: {axis!r} is no argument of a balloon or a model, nor of the test",
                f"add {axis} to the arguments of {metafunc.function.__name__}, or mend the name",
            )
