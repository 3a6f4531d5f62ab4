"""Hooks of ours: where a suite (its conftest.py) or another plugin brings its own node or engine.

The first implementation that returns something wins; without one, ours are used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_nriperf.seams import EngineOptions, Generator, ModelChoice, Provisioner
    from pytest_nriperf.settings import Settings


@pytest.hookspec(firstresult=True)
def pytest_nriperf_provisioner(node: str, settings: Settings) -> Provisioner | None:
    """The provisioner of a node that `--nri-node` names."""


@pytest.hookspec(firstresult=True)
def pytest_nriperf_generator(choice: ModelChoice, node: str, options: EngineOptions) -> Generator | None:
    """Engines for one run of the chosen model on the node; an implementation may leave arguments out."""
