"""What collected tests ask for: their marks read, checked and counted, before anything is selected or run."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from pytest_nriperf.balloons import BalloonSpec
from pytest_nriperf.errors import UsageError
from pytest_nriperf.marks import (
    Arguments,
    VariantsMark,
    balloon_spec,
    check_requirements,
    gate_of,
    llm_request,
    variants_of,
)
from pytest_nriperf.session.config import OUR_MARKS, SWEEPS
from pytest_nriperf.sweep.axes import Cell
from pytest_nriperf.sweep.existence import Site

# Verdicts that are reckoned with for a test that judges without a gate: ttft, itl and throughput, or any others.
UNLISTED = 3


@dataclass(frozen=True)
class Collected:
    """What collection found before any selection: it fixes each verdict's share of the suite's alarm rate.

    `functions` are all that may own a baseline, by test file; `gated` the tests that ask for verdicts, by their id.
    """

    gated_metrics: int = 0
    balloons: Sequence[BalloonSpec] = ()
    swept: frozenset[str] = frozenset()
    functions: Mapping[str, Collection[str]] = field(default_factory=dict)
    gated: Mapping[str, str] = field(default_factory=dict)

    def needed(self, site: Site) -> list[BalloonSpec]:
        """The balloons that a node is held for: those that only cells need (`swept`) where they exist."""
        return [spec for spec in self.balloons if spec.canonical() not in self.swept or site.refusal(spec) is None]


def collected(items: Sequence[pytest.Item]) -> Collected:
    """Check our marks on all items; a mistake ends collection with a usage error that names test, mark and mend."""
    shares: dict[str, int] = {}
    balloons: dict[str, BalloonSpec] = {}
    others: set[str] = set()
    functions: dict[str, set[str]] = {}
    for item in items:
        _refuse_misspelt(item)
        try:
            shares[item.nodeid] = len(shares_of(item))
            llm_request(arguments_of(item, "llm"))
            check_requirements(arguments_of(item, "requires_node"))
            own = {spec.canonical(): spec for spec in balloons_of(item)}
        except UsageError as error:
            raise pytest.UsageError(f"{item.nodeid}: {error}") from None
        functions.setdefault(item.nodeid.partition("::")[0], set()).add(function_of(item))
        balloons |= own
        others |= own.keys() if cell_of(item) is None else set()
        if isinstance(item, pytest.Function) and item.get_closest_marker("requires_node"):
            item.fixturenames.insert(0, "nri_requirements")
    gated = {item.nodeid: function_of(item) for item in items if shares[item.nodeid]}
    swept = frozenset(balloons.keys() - others)
    return Collected(sum(shares.values()), tuple(balloons.values()), swept, functions, gated)


def shares_of(item: pytest.Item) -> tuple[str, ...]:
    """The verdicts for which the test gets a share of the suite's alarm rate: its gate's metrics.

    A test that asks for `baseline` without a gate gets UNLISTED of them, whatever metrics it will name (empty here).
    """
    named = gate_of(arguments_of(item, "gate")).metrics
    asks = "nri_baseline" in getattr(item, "fixturenames", ()) and judged_cell(item)
    return named or (("",) * UNLISTED if asks else ())


def _refuse_misspelt(item: pytest.Item) -> None:
    """A mark that is nearly one of ours would be ignored in silence, and another balloon be measured."""
    for mark in item.iter_markers():
        near = difflib.get_close_matches(mark.name, OUR_MARKS, 1, 0.8)
        if near and mark.name not in OUR_MARKS:
            raise pytest.UsageError(f"{item.nodeid}: unknown mark {mark.name!r}; did you mean {near[0]!r}?")


def arguments_of(item: pytest.Item, mark: str) -> list[Arguments]:
    """Arguments of all marks of that name on the item, the closest first; a sweep's cell is closest of all."""
    marked: list[Arguments] = [(each.args, each.kwargs) for each in item.iter_markers(mark)]
    cell = cell_of(item)
    if cell is not None and mark in ("balloon", "llm"):
        return [((), cell.balloon if mark == "balloon" else cell.llm), *marked]
    if mark == "gate" and not judged_cell(item):
        return []
    return marked


def judged_cell(item: pytest.Item) -> bool:
    """Whether the item may be judged: it is no cell of a sweep, or its sweep says `gate=True`."""
    sweeps = item.config.stash.get(SWEEPS, None)
    sweep = sweeps.of(item) if sweeps is not None and cell_of(item) is not None else None
    return sweep is None or sweep.request.gate


def function_id(item: pytest.Item) -> str:
    """The id of the test function that an item was made of."""
    parent = item.parent.nodeid if item.parent is not None else ""
    return f"{parent}::{getattr(item, 'originalname', None) or item.name}"


def cell_of(item: pytest.Item) -> Cell | None:
    """The cell of a sweep that the item is."""
    callspec = getattr(item, "callspec", None)
    cell = callspec.params.get("nri_cell") if callspec is not None else None
    return cell if isinstance(cell, Cell) else None


def cell_labels(item: pytest.Item) -> dict[str, str]:
    """What tells the item's recordings from those of other cells: the axes of its sweep, then its other parameters."""
    cell, callspec = cell_of(item), getattr(item, "callspec", None)
    if cell is None or callspec is None:
        return {}
    others = {
        name: str(value) if isinstance(value, str | int | float | bool) else str(callspec.indices[name])
        for name, value in callspec.params.items()
        if name not in ("nri_node", "nri_cell")
    }
    return {**others, **cell.labels}


def variants_on(item: pytest.Item) -> VariantsMark | None:
    """The variants of the test, None where it has none."""
    marks = arguments_of(item, "variants")
    return variants_of(marks, balloon=arguments_of(item, "balloon"), llm=arguments_of(item, "llm"))


def balloons_of(item: pytest.Item) -> tuple[BalloonSpec, ...]:
    """Every balloon that the test will need: one, or one a variant where these differ."""
    variants = variants_on(item)
    return (balloon_spec(arguments_of(item, "balloon")),) if variants is None else variants.balloons


def function_of(item: pytest.Item) -> str:
    """The test function with its own parameters, which names its baseline.

    The node stands elsewhere, and a cell in its balloon, model and workload: an axis added later orphans nothing.
    """
    name = item.nodeid.partition("::")[2].partition("[")[0]
    callspec = getattr(item, "callspec", None)
    if callspec is None:
        return name
    cell = cell_of(item)
    left_out = {"nri_node", "nri_cell", *(cell.labels if cell else ())}
    own = [
        f"{key}={value}" if isinstance(value, str | int | float | bool) else f"{key}#{callspec.indices[key]}"
        for key, value in sorted(callspec.params.items())
        if key not in left_out
    ]
    return f"{name}[{','.join(own)}]" if own else name
