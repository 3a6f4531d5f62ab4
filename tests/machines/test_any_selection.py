"""A machine of any shape runs any selection of tests: those of provisioning hold on several NUMA nodes too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.machines.selection import ROOT, USER, Session
from tests.machines.shapes import SNC2


@pytest.mark.parametrize("user", [ROOT, USER])
def test_the_tests_of_provisioning_hold_on_several_numa_nodes(machine: Callable[..., Session], user: str) -> None:
    shape = replace(SNC2, name="2s2c2t-snc2-far", cores=2, node_mib=768, far=32)
    session = machine(shape, "tests/provision", user=user)
    reports = [report for per in session.reports.values() for report in per]
    failed = [f"{report['test']}\n{report['text']}" for report in reports if report["outcome"] == "failed"]
    assert not failed, "\n\n".join(failed)
    assert sum(report["outcome"] == "passed" for report in reports) > 40
