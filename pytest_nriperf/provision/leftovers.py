"""What sessions that were killed have left of a node's pods, ConfigMaps and leases, in whatever namespace.

The node's lease names the namespaces of its holders. Who may list leases in all namespaces also finds what was left
under another `lease_namespace`, or lost its lease to somebody's `kubectl delete`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from pytest_nriperf.errors import ProvisionError
from pytest_nriperf.provision import manifests
from pytest_nriperf.provision.api_errors import ApiFailure
from pytest_nriperf.provision.cluster import CONFIG_MAPS, LEASES, PODS, Cluster, Resource
from pytest_nriperf.provision.lease import NodeLease, lease_name, namespaces_of
from pytest_nriperf.provision.pods import Patience, delete_all, delete_files

Json = dict[str, Any]


def clean_up(cluster: Cluster, node: str, lease: NodeLease, namespace: str, patience: Patience) -> None:
    """Take away whatever of ours is on a node that `lease` holds: it belongs to sessions that are gone. `namespace` is
    that of our pods. Raises NodeBusyError where a session holds the node by a lease in another namespace, and
    ProvisionError where we may not take something away."""
    with contextlib.ExitStack() as others:
        leases = [lease]
        known = _in_all_namespaces(cluster, LEASES, node)
        elsewhere = {_place(entry) for entry in known or ()} - {lease.namespace}
        leases += [others.enter_context(lease.beside(name)) for name in sorted(elsewhere)]
        namespaces = {namespace}.union(*(each.inherited for each in leases))
        if known is not None:
            namespaces |= {_place(entry) for _, entry in _anywhere(cluster, node)}
        for name in sorted(namespaces):
            _clean(cluster, lease, node, name, patience)
        for each in leases:
            each.cleaned()


def left_behind(cluster: Cluster, node: str, lease_namespace: str, namespace: str) -> list[str]:
    """Pods and ConfigMaps of ours for a node, and its leases outside `lease_namespace`, as `kind namespace/name`.
    Nothing is touched."""
    own = cluster.get(LEASES, lease_name(node), lease_namespace)
    known = _in_all_namespaces(cluster, LEASES, node)
    found = [(LEASES, entry) for entry in known or () if _place(entry) != lease_namespace]
    namespaces = {namespace} | (namespaces_of(own) if own else frozenset())
    found += _inside(cluster, node, namespaces) if known is None else _anywhere(cluster, node)
    return sorted({f"{kind.plural} {_place(entry)}/{entry['metadata']['name']}" for kind, entry in found})


def _place(entry: Json) -> str:
    return str(entry["metadata"]["namespace"])


def _in_all_namespaces(cluster: Cluster, resource: Resource, node: str) -> list[Json] | None:
    """Objects of ours for a node; None where we may not look everywhere."""
    try:
        return cluster.find(resource, labels=manifests.ours(node=node))
    except ApiFailure as error:
        if error.status != 403:
            raise
        return None


def _anywhere(cluster: Cluster, node: str) -> Iterator[tuple[Resource, Json]]:
    """Pods and ConfigMaps of ours for a node, as far as we may see them."""
    for resource in (PODS, CONFIG_MAPS):
        yield from ((resource, entry) for entry in _in_all_namespaces(cluster, resource, node) or ())


def _inside(cluster: Cluster, node: str, namespaces: Iterable[str]) -> Iterator[tuple[Resource, Json]]:
    for namespace in sorted(namespaces):
        for resource in (PODS, CONFIG_MAPS):
            found = cluster.find(resource, namespace, labels=manifests.ours(node=node))
            yield from ((resource, entry) for entry in found)


def _clean(cluster: Cluster, lease: NodeLease, node: str, namespace: str, patience: Patience) -> None:
    selector = manifests.ours(node=node)
    try:
        delete_all(cluster, namespace, selector, patience)
        delete_files(cluster, namespace, selector)
    except ApiFailure as error:
        if error.status != 403:
            raise
        raise ProvisionError(
            f"node {node}: a session that was killed may have left pods in namespace {namespace}, and we may not take "
            f"them away ({error.fact})",
            f"let somebody do it who may: kubectl delete pods,configmaps -n {namespace} -l {selector}; then forget it: "
            f"kubectl delete lease {lease.name} -n {lease.namespace}",
        ) from error
