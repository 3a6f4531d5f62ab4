"""The double as fixtures. A cluster is made anew for each test: it starts in well under a second."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_nriperf.generate.archive import worker_archive
from pytest_nriperf.provision.cluster import NODES
from pytest_nriperf.provision.cluster import Cluster as Client
from pytest_nriperf.provision.kubernetes import KubernetesProvisioner
from pytest_nriperf.provision.pods import Patience
from pytest_nriperf.settings import NodeProfile
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


QUICK = Patience(start=15, image=0.6, schedule=0.4, balloon=1.5, silence=2, deletion=10)

Make = Callable[..., KubernetesProvisioner]


@pytest.fixture
def make(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes provisioners of `xeon2`: `make(policy="manage", token=..., node=..., archive=...)`, other words are the
    profile's."""
    made: list[tuple[KubernetesProvisioner, Client]] = []

    def build(
        *,
        token: str = "admin-token",
        node: str = "xeon2",
        lease_s: int = 30,
        archive: bytes | None = None,
        **words: Any,
    ) -> KubernetesProvisioner:
        monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig(token)))
        client = Client()
        found = client.get(NODES, node)
        assert found is not None
        profile = NodeProfile(name=node, **{"namespace": "perf", **words})

        def files() -> bytes:
            return worker_archive() if archive is None else archive

        provisioner = KubernetesProvisioner(
            node, profile, client, found, archive=files, patience=QUICK, lease_s=lease_s, cache=tmp_path / "cache"
        )
        made.append((provisioner, client))
        return provisioner

    yield build
    for provisioner, client in made:
        provisioner.close()
        client.close()
    gc.collect()
