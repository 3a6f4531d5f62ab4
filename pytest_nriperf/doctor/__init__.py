"""What on a node will spoil a measurement, and how to mend it: a list of pure checks over the node's files.

A check is added by adding it to the list of its subject; `examine` runs all of them.
"""

from __future__ import annotations

from pytest_nriperf.doctor.check import LEVELS, Check, Examined, Finding, examine_with
from pytest_nriperf.doctor.counters import COUNTER_CHECKS
from pytest_nriperf.doctor.memory import MEMORY_CHECKS
from pytest_nriperf.doctor.neighbours import NEIGHBOUR_CHECKS
from pytest_nriperf.doctor.processor import PROCESSOR_CHECKS
from pytest_nriperf.doctor.rights import RIGHTS_CHECKS

__all__ = ["CHECKS", "LEVELS", "Check", "Examined", "Finding", "examine"]

CHECKS: tuple[Check, ...] = (*PROCESSOR_CHECKS, *NEIGHBOUR_CHECKS, *MEMORY_CHECKS, *RIGHTS_CHECKS, *COUNTER_CHECKS)


def examine(node: Examined) -> list[Finding]:
    """Findings of all checks, worst first, in the order of the list within a level."""
    return examine_with(CHECKS, node)
