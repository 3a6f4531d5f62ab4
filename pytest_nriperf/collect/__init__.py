"""Counters on the node's clock: PCM, /proc, perf events, resctrl, energy.

What is here travels into observers on other nodes: the standard library and each other only, Python 3.9.
"""

from __future__ import annotations

from pytest_nriperf.collect.select import choose

__all__ = ["choose"]
