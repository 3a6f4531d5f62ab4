"""Performance regression testing of LLM inference on server CPUs, as pytest fixtures.

Public names resolve on first use (PEP 562): importing this package imports nothing else, since pytest
imports it in every run, also in those that use none of it.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "BalloonSpec": "pytest_nriperf.balloons",
    "Measurement": "pytest_nriperf.metrics",
    "NriperfError": "pytest_nriperf.errors",
    "Topology": "pytest_nriperf.topology",
    "place": "pytest_nriperf.balloons",
    "read_topology": "pytest_nriperf.topology",
}

__all__ = ["BalloonSpec", "Measurement", "NriperfError", "Topology", "__version__", "place", "read_topology"]


def __getattr__(name: str) -> Any:
    module = _PUBLIC.get(name)
    if module is None:
        raise AttributeError(f"module 'pytest_nriperf' has no attribute {name!r}")
    return getattr(import_module(module), name)


def __dir__() -> list[str]:
    return sorted(__all__)
