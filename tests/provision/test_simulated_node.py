"""A simulated node gives real placements and runs no process."""

from __future__ import annotations

import pytest

from pytest_nriperf.balloons import BalloonSpec, place
from pytest_nriperf.errors import PlacementError, ProvisionError, SettingsError, UsageError
from pytest_nriperf.provision import provisioner_for
from pytest_nriperf.provision.simulated import SimulatedProvisioner
from pytest_nriperf.seams import Launch, WorkerStream
from pytest_nriperf.settings import Settings
from pytest_nriperf.testing import FakeStream

SPEC = BalloonSpec(cpus=4, hyperthreads="hidden", replicas=2)


def test_the_placement_is_that_of_a_real_node_of_this_shape() -> None:
    node = SimulatedProvisioner("sim:2s8c2t-snc2")
    with node.session([SPEC]), node.provision(SPEC) as grant:
        assert grant.placement == place(SPEC, node.topology(), allowed=node.topology().online)
        assert grant.mechanism == "simulated"


def test_it_says_that_it_is_simulated_and_has_no_files() -> None:
    told = SimulatedProvisioner("sim:1s4c2t").describe()
    assert told.simulated
    assert told.name == "sim:1s4c2t"
    assert told.read("/proc/cpuinfo") is None


def test_reserved_cpus_are_not_given_out() -> None:
    node = provisioner_for("sim:1s4c2t", Settings(reserved=frozenset({0, 4})))
    with node.provision(BalloonSpec()) as grant:
        assert grant.placement.allocated == node.topology().online - {0, 4}


def test_a_balloon_that_does_not_fit_is_refused_as_on_a_real_node() -> None:
    node = SimulatedProvisioner("sim:1s4c2t")
    with pytest.raises(PlacementError), node.provision(BalloonSpec(cpus=16)):
        pass


def test_a_process_cannot_be_started_on_it() -> None:
    node = SimulatedProvisioner("sim:1s4c2t")
    stream: WorkerStream = FakeStream()
    with node.provision(SPEC) as grant:
        with pytest.raises(ProvisionError, match="no process can run on a simulated node"):
            grant.start_worker(0, Launch(b""))
        assert grant.verify(0, stream)["simulated"] is True


def test_a_shape_that_cannot_be_is_refused_with_the_form() -> None:
    with pytest.raises(UsageError, match="write sim:SOCKETSsCORESc"):
        provisioner_for("sim:2x4", Settings())
    with pytest.raises(SettingsError):
        provisioner_for("", Settings())
