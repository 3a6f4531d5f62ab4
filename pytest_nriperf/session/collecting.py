"""What collected tests ask for: their marks read, checked and counted, before anything is selected or run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
from pytest_nriperf.sweep.axes import Cell


@dataclass(frozen=True)
class Collected:
    """What collection found before any selection: it fixes each verdict's share of the suite's alarm rate."""

    gated_metrics: int = 0
    balloons: Sequence[BalloonSpec] = ()


def collected(items: Sequence[pytest.Item]) -> Collected:
    """Check our marks on all items; a mistake ends collection with a usage error that names test, mark and mend."""
    gated = 0
    balloons: dict[str, BalloonSpec] = {}
    for item in items:
        try:
            gated += len(gate_of(arguments_of(item, "gate")).metrics)
            llm_request(arguments_of(item, "llm"))
            check_requirements(arguments_of(item, "requires_node"))
            balloons |= {spec.canonical(): spec for spec in balloons_of(item)}
        except UsageError as error:
            raise pytest.UsageError(f"{item.nodeid}: {error}") from None
        if isinstance(item, pytest.Function) and item.get_closest_marker("requires_node"):
            item.fixturenames.insert(0, "nri_requirements")
    return Collected(gated, tuple(balloons.values()))


def arguments_of(item: pytest.Item, mark: str) -> list[Arguments]:
    """Arguments of all marks of that name on the item, the closest first; a sweep's cell is closest of all."""
    marked: list[Arguments] = [(each.args, each.kwargs) for each in item.iter_markers(mark)]
    cell = cell_of(item)
    if cell is not None and mark in ("balloon", "llm"):
        return [((), cell.balloon if mark == "balloon" else cell.llm), *marked]
    return marked


def cell_of(item: pytest.Item) -> Cell | None:
    """The cell of a sweep that the item is."""
    callspec = getattr(item, "callspec", None)
    cell = callspec.params.get("nri_cell") if callspec is not None else None
    return cell if isinstance(cell, Cell) else None


def variants_on(item: pytest.Item) -> VariantsMark | None:
    """The variants of the test, None where it has none."""
    marks = arguments_of(item, "variants")
    return variants_of(marks, balloon=arguments_of(item, "balloon"), llm=arguments_of(item, "llm"))


def balloons_of(item: pytest.Item) -> tuple[BalloonSpec, ...]:
    """Every balloon that the test will need: one, or one a variant where these differ."""
    variants = variants_on(item)
    return (balloon_spec(arguments_of(item, "balloon")),) if variants is None else variants.balloons


def function_of(item: pytest.Item) -> str:
    """The test function with its own parameters, which names its baseline: the node and the cell stand elsewhere."""
    name = item.nodeid.partition("::")[2].partition("[")[0]
    callspec = getattr(item, "callspec", None)
    if callspec is None:
        return name
    own = [
        f"{key}={value}" if isinstance(value, str | int | float | bool) else f"{key}#{callspec.indices[key]}"
        for key, value in sorted(callspec.params.items())
        if key not in ("nri_node", "nri_cell")
    ]
    return f"{name}[{','.join(own)}]" if own else name
