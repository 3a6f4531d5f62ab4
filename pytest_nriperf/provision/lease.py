"""One measurement on a node at a time: a Lease a node, renewed while it is held, taken over when its holder is gone."""

from __future__ import annotations

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

from pytest_nriperf.errors import NodeBusyError
from pytest_nriperf.provision.api_errors import ApiFailure
from pytest_nriperf.provision.cluster import LEASES, Cluster
from pytest_nriperf.provision.manifests import MANAGED_BY, NODE, SESSION, node_label

Json = dict[str, Any]

DURATION_S = 30
HOLDER = "nriperf/holder"
# A renewal that old is stale whatever two hosts' clocks say.
_SURELY_STALE_S = 300.0


class NodeLease:
    """Held inside `with`. `lost` says why it is no longer ours, empty while it is."""

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
        self._namespace = namespace
        self._session = session
        self._duration_s = duration_s
        self._held: Json = {}
        self._stop = threading.Event()
        self._renewer: threading.Thread | None = None
        self.lost = ""
        self._pods_in = pods_in
        # Where a holder that is gone had its pods.
        self.inherited = ""

    @property
    def name(self) -> str:
        """The Lease's name."""
        return f"nriperf-{self._node}"

    def __enter__(self) -> NodeLease:
        self._held = self._acquire()
        self._renewer = threading.Thread(target=self._renew, name="nriperf-lease", daemon=True)
        self._renewer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._renewer is not None:
            self._renewer.join()
        if not self.lost:
            self._cluster.delete(LEASES, self.name, self._namespace, uid=self._held["metadata"]["uid"])

    def _acquire(self) -> Json:
        for _ in range(20):
            found = self._cluster.get(LEASES, self.name, self._namespace)
            try:
                if found is None:
                    return self._cluster.create(LEASES, self._body())
                if self._is_ours(found):
                    return found
                if not self._stale(found):
                    raise self._busy(found)
                taken = self._cluster.replace(LEASES, self._body(found))
                self.inherited = str(_holder(found).get("namespace", ""))
                return taken
            except ApiFailure as error:
                # Somebody else was quicker: look again.
                if error.reason not in ("AlreadyExists", "Conflict"):
                    raise
                time.sleep(0.1)
        raise NodeBusyError(f"node {self._node}: its lease changes hands all the time", "try again")

    def _is_ours(self, lease: Json) -> bool:
        return bool((lease["metadata"].get("labels") or {}).get(SESSION) == self._session)

    def _body(self, before: Json | None = None) -> Json:
        moment = _micro_time()
        spec = (before or {}).get("spec") or {}
        metadata: Json = {
            "name": self.name,
            "namespace": self._namespace,
            "labels": {**MANAGED_BY, SESSION: self._session, NODE: node_label(self._node)},
            "annotations": {HOLDER: json.dumps({**_this_process(), "namespace": self._pods_in})},
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

    def _stale(self, lease: Json) -> bool:
        """Whether its holder is gone: a dead process of this machine, or nobody renews it."""
        if _is_dead(lease):
            return True
        spec = lease.get("spec") or {}
        duration_s = float(spec.get("leaseDurationSeconds") or self._duration_s)
        age_s = time.time() - _seconds(spec.get("renewTime"))
        if age_s > duration_s + _SURELY_STALE_S:
            return True
        if age_s <= duration_s:
            return False
        # Old by our clock, which may be wrong: a living holder renews it in a third of the time.
        time.sleep(duration_s / 2)
        again = self._cluster.get(LEASES, self.name, self._namespace)
        return again is not None and again["spec"].get("renewTime") == spec.get("renewTime")

    def _busy(self, lease: Json) -> NodeBusyError:
        spec = lease.get("spec") or {}
        duration = spec.get("leaseDurationSeconds")
        return NodeBusyError(
            f"node {self._node} is being measured by {spec.get('holderIdentity')} since {spec.get('acquireTime')}",
            f"wait until it ends; if it was killed, its lease ends {duration} s after the last renewal "
            f"({spec.get('renewTime')}), or: kubectl delete lease {self.name} -n {self._namespace}",
        )

    def _renew(self) -> None:
        pause = self._duration_s / 3
        last = time.monotonic()
        while not self._stop.wait(pause):
            body = {**self._held, "spec": {**self._held["spec"], "renewTime": _micro_time()}}
            try:
                self._held = self._cluster.replace(LEASES, body)
                last = time.monotonic()
            except ApiFailure as error:
                if error.status in (404, 409):
                    found = self._cluster.get(LEASES, self.name, self._namespace) if error.status == 409 else None
                    if found is not None and self._is_ours(found):
                        self._held = found
                        continue
                    self.lost = f"the lease of node {self._node} was taken over or deleted while we measured"
                    return
                if time.monotonic() - last > self._duration_s:
                    self.lost = f"the lease of node {self._node} could not be renewed: {error.fact}"
                    return


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
