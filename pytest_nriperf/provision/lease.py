"""One measurement on a node at a time: a Lease a node, renewed while it is held, taken over when its holder is gone."""

from __future__ import annotations

import contextlib
import datetime
import getpass
import json
import os
import socket
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from pytest_nriperf.errors import NodeBusyError, NriperfError
from pytest_nriperf.provision.api_errors import ApiFailure
from pytest_nriperf.provision.cluster import LEASES, Cluster
from pytest_nriperf.provision.manifests import MANAGED_BY, NODE, SESSION, node_label

Json = dict[str, Any]

DURATION_S = 30
HOLDER = "nriperf/holder"
# A renewal that old is stale whatever two hosts' clocks say.
_SURELY_STALE_S = 300.0


class NodeLease:
    """Held inside `with`. `lost` says why it is no longer ours, empty while it is.

    The lease is a journal too: it names the namespace of our pods (`pods_in`), and those of the holders before us that
    were killed (`inherited`) until `cleaned` says that nothing of theirs is left. What is not cleaned when we release
    it stays there, in a lease without a holder.
    """

    def __init__(
        self,
        cluster: Cluster,
        node: str,
        namespace: str,
        session: str,
        duration_s: int = DURATION_S,
        *,
        pods_in: str = "",
    ) -> None:
        self._cluster = cluster
        self._node = node
        self.namespace = namespace
        self._session = session
        self._duration_s = duration_s
        self._held: Json = {}
        self._stop = threading.Event()
        self._renewer: threading.Thread | None = None
        self.lost = ""
        self._pods_in = pods_in
        self.inherited: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """The Lease's name."""
        return lease_name(self._node)

    def __enter__(self) -> NodeLease:
        self._held = self._acquire()
        self._renewer = threading.Thread(target=self._keep_renewing, name="nriperf-lease", daemon=True)
        self._renewer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._renewer is not None:
            self._renewer.join()
        if not self.lost:
            self._release()

    def beside(self, namespace: str) -> NodeLease:
        """The same node's lease in another namespace, to be held by us too."""
        return NodeLease(self._cluster, self._node, namespace, self._session, self._duration_s, pods_in=self._pods_in)

    def cleaned(self) -> None:
        """Nothing is left of the holders before us."""
        self.inherited = frozenset()

    def why_lost(self) -> str:
        """Why the lease is no longer ours by the API server's own word, empty while it is or nobody can tell."""
        with contextlib.suppress(NriperfError):
            self._look(self._cluster.get(LEASES, self.name, self.namespace))
        return self.lost

    # ------------------------------------------------------------------------------------------------------- inside

    def _acquire(self) -> Json:
        for _ in range(20):
            found = self._cluster.get(LEASES, self.name, self.namespace)
            try:
                if found is None:
                    return self._cluster.create(LEASES, self._body())
                if self._is_ours(found):
                    return found
                if not self._is_free(found):
                    raise self._busy(found)
                self.inherited = namespaces_of(found)
                return self._cluster.replace(LEASES, self._body(found))
            except ApiFailure as error:
                # Somebody else was quicker, or has just released it: look again.
                moved = ("AlreadyExists",) if found is None else ("Conflict", "NotFound")
                if error.reason not in moved:
                    raise
                time.sleep(0.1)
        raise NodeBusyError(f"node {self._node}: its lease changes hands all the time", "try again")

    def _is_ours(self, lease: Json) -> bool:
        return bool((lease["metadata"].get("labels") or {}).get(SESSION) == self._session)

    def _body(self, before: Json | None = None) -> Json:
        moment = _micro_time()
        spec = (before or {}).get("spec") or {}
        namespaces = sorted({self._pods_in, *self.inherited} - {""})
        metadata: Json = {
            "name": self.name,
            "namespace": self.namespace,
            "labels": {**MANAGED_BY, SESSION: self._session, NODE: node_label(self._node)},
            "annotations": {HOLDER: json.dumps({**_this_process(), "namespaces": namespaces})},
        }
        if before is not None:
            metadata["resourceVersion"] = before["metadata"]["resourceVersion"]
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata,
            "spec": {
                "holderIdentity": f"{_user()}@{socket.gethostname()} process {os.getpid()}",
                "leaseDurationSeconds": self._duration_s,
                "acquireTime": moment,
                "renewTime": moment,
                "leaseTransitions": int(spec.get("leaseTransitions") or 0) + (before is not None),
            },
        }

    def _is_free(self, lease: Json) -> bool:
        """Whether nobody holds it any more. Waits for half its duration where only that can tell."""
        if surely_free(lease):
            return True
        if is_fresh(lease):
            return False
        spec = lease.get("spec") or {}
        # Old by our clock, which may be wrong: a living holder renews it in a third of the time.
        time.sleep(float(spec.get("leaseDurationSeconds") or DURATION_S) / 2)
        again = self._cluster.get(LEASES, self.name, self.namespace)
        return again is None or (again.get("spec") or {}).get("renewTime") == spec.get("renewTime")

    def _busy(self, lease: Json) -> NodeBusyError:
        spec = lease.get("spec") or {}
        duration = spec.get("leaseDurationSeconds") or self._duration_s
        return NodeBusyError(
            f"node {self._node} is being measured by {held_by(lease)}",
            f"wait until it ends; if it was killed, its lease ends {duration} s after the last renewal "
            f"({spec.get('renewTime')}), or: kubectl delete lease {self.name} -n {self.namespace}",
        )

    def _keep_renewing(self) -> None:
        """An API server that is away takes nothing from us: whose the lease is then, it says when it is back."""
        while not self.lost and not self._stop.wait(self._duration_s / 3):
            with contextlib.suppress(NriperfError):
                self._renew()

    def _renew(self) -> None:
        body = {**self._held, "spec": {**self._held["spec"], "renewTime": _micro_time()}}
        try:
            self._held = self._cluster.replace(LEASES, body)
        except ApiFailure as error:
            if error.status not in (404, 409):
                raise
            found = self._cluster.get(LEASES, self.name, self.namespace)
            self._look(found)
            self._held = found or {}

    def _look(self, found: Json | None) -> None:
        """Note what the stored lease says of its holder."""
        if found is None:
            self.lost = f"the lease of node {self._node} was deleted by somebody while we measured"
        elif not self._is_ours(found):
            self.lost = f"the lease of node {self._node} was taken over while we measured, by {held_by(found)}"

    def _release(self) -> None:
        """Ours only, and only as it was seen: whoever takes it over meanwhile keeps it."""
        found = self._cluster.get(LEASES, self.name, self.namespace)
        self._look(found)
        if found is None or self.lost:
            return
        metadata = found["metadata"]
        try:
            if self.inherited:
                spec = {key: value for key, value in found["spec"].items() if key != "holderIdentity"}
                self._cluster.replace(LEASES, {**found, "spec": spec})
            else:
                as_read = {"uid": metadata["uid"], "version": metadata["resourceVersion"]}
                self._cluster.delete(LEASES, self.name, self.namespace, **as_read)
        except ApiFailure as error:
            if error.reason not in ("Conflict", "NotFound"):
                raise


def lease_name(node: str) -> str:
    """What a node's lease is called.

    >>> lease_name("xeon1")
    'nriperf-xeon1'
    """
    return f"nriperf-{node}"


def held_by(lease: Json) -> str:
    """Who holds a lease and since when, in words.

    >>> held_by({"spec": {"holderIdentity": "ann@here process 7", "acquireTime": "2026-11-24T09:00:00.000001Z"}})
    'ann@here process 7 since 2026-11-24T09:00:00.000001Z'
    >>> held_by({"spec": {}})
    'nobody'
    """
    spec = lease.get("spec") or {}
    since = spec.get("acquireTime") or spec.get("renewTime")
    if not spec.get("holderIdentity"):
        return "nobody"
    return f"{spec['holderIdentity']} since {since}" if since else str(spec["holderIdentity"])


def surely_free(lease: Json) -> bool:
    """Whether a lease has no holder, or one that is gone whatever two hosts' clocks say."""
    spec = lease.get("spec") or {}
    if not spec.get("holderIdentity") or _is_dead(lease):
        return True
    duration_s = float(spec.get("leaseDurationSeconds") or DURATION_S)
    return time.time() - _seconds(spec.get("renewTime")) > duration_s + _SURELY_STALE_S


def is_fresh(lease: Json) -> bool:
    """Whether its holder has renewed it within its duration, by our clock."""
    spec = lease.get("spec") or {}
    duration_s = float(spec.get("leaseDurationSeconds") or DURATION_S)
    return not surely_free(lease) and time.time() - _seconds(spec.get("renewTime")) <= duration_s


def namespaces_of(lease: Json) -> frozenset[str]:
    """Where its holder had pods, and where those before it had, as long as nobody has cleaned up there."""
    names = _holder(lease).get("namespaces")
    return frozenset(map(str, names)) if isinstance(names, list) else frozenset()


def _user() -> str:
    """Who we are; containers often run as a number without a name."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return f"user {os.getuid()}"


def _micro_time() -> str:
    """Now, with six digits of fraction: the API takes nothing else."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _seconds(text: Any) -> float:
    try:
        return datetime.datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return 0.0


def _this_process() -> Json:
    return {"boot": _boot_id(), "pid": os.getpid(), "started": _started(os.getpid())}


def _is_dead(lease: Json) -> bool:
    """Whether the holder was a process of this very boot of this machine and is gone."""
    holder = _holder(lease)
    try:
        return bool(holder["boot"] == _boot_id() != "" and _started(int(holder["pid"])) != holder["started"])
    except (KeyError, ValueError, TypeError):
        return False


def _holder(lease: Json) -> Json:
    try:
        found = json.loads((lease["metadata"].get("annotations") or {})[HOLDER])
    except (KeyError, ValueError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _boot_id() -> str:
    """This boot and PID namespace: process numbers mean nothing outside of it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When a process started (ticks since boot), empty when there is none. Tells a reused number apart."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
