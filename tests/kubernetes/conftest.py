"""The double as fixtures. A cluster is made anew for each test: it starts in well under a second."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest

from pytest_nriperf.topology import Topology, simulated_topology
from tests.kubernetes.double.cluster import Cluster

SHAPE = "sim:2s4c2t-snc2"


@pytest.fixture
def node_topology() -> Topology:
    """2 sockets x SNC-2 x 2 cores x 2 threads."""
    return simulated_topology(SHAPE)


@pytest.fixture
def cluster(node_topology: Topology) -> Iterator[Cluster]:
    """A cluster with one node, `xeon2`, on which the balloons policy runs."""
    with Cluster() as made:
        made.add_node("xeon2", node_topology)
        yield made


@pytest.fixture
def official(cluster: Cluster) -> Iterator[Any]:
    """The official client's ApiClient, as its administrator."""
    from kubernetes import config

    with config.new_client_from_config(str(cluster.kubeconfig())) as made:
        yield made
        made.rest_client.pool_manager.clear()
    # Watches that are left early and refused upgrades keep their socket until the collector comes.
    gc.collect()
