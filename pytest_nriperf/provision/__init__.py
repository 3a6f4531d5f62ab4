"""Nodes and balloons on them: the `Provisioner` seam's implementations."""

from __future__ import annotations

from collections.abc import Callable

from pytest_nriperf.seams import Provisioner
from pytest_nriperf.settings import Settings

__all__ = ["provisioner_for"]


def provisioner_for(node: str, settings: Settings, archive: Callable[[], bytes] = bytes) -> Provisioner:
    """The provisioner of a node as `--nri-node` names it. `archive` gives what workers will be started from:
    it can travel to a far node in advance."""
    if node == "local":
        from pytest_nriperf.provision.local import LocalProvisioner

        return LocalProvisioner(reserved=settings.reserved)
    if node.startswith("sim:"):
        from pytest_nriperf.provision.simulated import SimulatedProvisioner

        return SimulatedProvisioner(node, reserved=settings.reserved)
    from pytest_nriperf.provision.kubernetes import kubernetes_provisioner

    return kubernetes_provisioner(node, settings, archive)
