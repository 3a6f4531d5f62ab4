"""Memory that runs out: the kernel ends the engine, and that is what is said; nothing stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_nriperf.balloons import BalloonSpec
from pytest_nriperf.errors import MemoryFault
from pytest_nriperf.generate.models import parse_model
from pytest_nriperf.generate.process import WorkerGenerator
from pytest_nriperf.provision.local import LocalProvisioner
from tests import test_out_of_memory as sessions
from tests.machines.inside import kernel_view as kernel
from tests.machines.selection import ROOT, everything, for_machines
from tests.machines.shapes import SNC2
from tests.memory_group import memory_group


@for_machines(shape=lambda shape: shape == SNC2)
def test_a_model_that_is_larger_than_its_numa_node_is_told(fact: Callable[[str], None]) -> None:
    node = LocalProvisioner()
    with node.session([]), node.provision(BalloonSpec(cpus=2)) as grant:
        generator = WorkerGenerator(parse_model(f"sim:memory={SNC2.node_mib + 64}Mi"), silence_s=kernel.PATIENCE_S)
        try:
            with pytest.raises(MemoryFault) as caught:
                generator.load(grant)
        finally:
            generator.close()
    said = str(caught.value)
    fact(said)
    assert "ended while loading the model: killed by" in said
    assert "out of memory (no cgroup limit was reached: the machine, or the NUMA nodes that memory is bound to" in said
    assert "memory='any'" in said
    assert not kernel.groups_of_ours()


# Whole pytest sessions, which take minutes under emulation: part of the full matrix only.
@for_machines(ROOT, shape=lambda shape: everything() and shape == SNC2)
def test_a_session_whose_memory_is_limited_tells_the_limit_and_keeps_its_runs(tmp_path: Path) -> None:
    with memory_group(sessions.LIMIT) as group:
        sessions.test_an_engine_that_the_kernel_ends_while_it_generates_is_told_and_the_next_test_runs(
            group, tmp_path / "generating"
        )
        sessions.test_runs_that_were_finished_before_the_limit_was_reached_are_kept(group, tmp_path / "loading")
