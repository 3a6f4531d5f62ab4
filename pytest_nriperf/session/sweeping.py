"""Sweeps in pytest: the `sweep` mark's cells become items, in an order of their own; what cannot exist is left out."""

from __future__ import annotations

import pytest


def sweep_marks(definition: pytest.Item) -> list[dict[str, object]]:
    """Arguments of the sweep marks that concern a test function, the closest first."""
    return [dict(mark.kwargs) for mark in definition.iter_markers("sweep")]


def parametrize_cells(metafunc: pytest.Metafunc) -> None:
    """Make one item of each cell of the function's sweep."""
