"""The balloons plugin of a node: follows its effective BalloonsPolicy, answers the runtime, publishes zones."""

from __future__ import annotations

import threading
from collections.abc import Callable

from pytest_nriperf.topology import Topology
from tests.kubernetes.double.balloons_policy import Container, NoBalloon, Policy
from tests.kubernetes.double.kinds import NODES, POLICIES, ZONES, Json
from tests.kubernetes.double.policy_config import Rejected, read_config
from tests.kubernetes.double.store import Store, now

GROUP_LABEL = "config.nri/group"


class Plugin:
    """One node's plugin process and its connection to the container runtime."""

    def __init__(
        self, store: Store, node: str, topology: Topology, *, namespace: str = "kube-system", verdict_s: float = 0.01
    ) -> None:
        self.store = store
        self.node = node
        self.topology = topology
        self.namespace = namespace
        self.verdict_s = verdict_s
        # Zones follow that much later, after the verdict too: a real plugin publishes beside what it does.
        self.publish_s = 0.0
        self._published = 0
        self._told = 0
        self.policy: Policy | None = None
        self.repinned: Callable[[Container], None] = lambda container: None
        self._containers: list[Container] = []
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._seen: tuple[str, str, int] | None = None

    # ---------------------------------------------------------------------------------------------------- process

    @property
    def connected(self) -> bool:
        """Whether the runtime asks it."""
        return self._thread is not None and self.policy is not None

    def start(self) -> None:
        """Start the process."""
        self._stop = threading.Event()
        self._seen = None
        self.policy = None
        self._follow_once()
        self._thread = threading.Thread(target=self._follow, name=f"plugin-{self.node}", daemon=True)
        self._thread.start()

    def kill(self) -> None:
        """SIGKILL, or a lost connection: its verdict and its zones stay."""
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        self._thread = None
        with self._lock:
            self.policy = None

    def terminate(self) -> None:
        """SIGTERM: its verdict goes, its zones stay."""
        self.kill()
        for policy in self.store.all(POLICIES, self.namespace):
            self._write_status(policy["metadata"]["name"], None)

    def _follow(self) -> None:
        version = 0
        while not self._stop.is_set():
            changes, version = self.store.since(version, POLICIES, NODES, timeout_s=0.1)
            if changes:
                self._stop.wait(self.verdict_s)
                self._follow_once()

    def _follow_once(self) -> None:
        effective = self._effective()
        if effective is None:
            return
        metadata = effective["metadata"]
        key = (metadata["name"], metadata["uid"], metadata["generation"])
        if key == self._seen:
            return
        moved = self._seen is not None and self._seen[:2] != key[:2]
        before = self._seen[0] if self._seen is not None else ""
        first, self._seen = self._seen is None, key
        error = self._configure(effective["spec"], first=first)
        if moved or first:
            for policy in self.store.all(POLICIES, self.namespace):
                if (name := policy["metadata"]["name"]) != metadata["name"]:
                    # The one that it followed before is told so even when it is another object of that name.
                    self._write_status(name, None, always=name == before)
        verdict = {
            "status": "Failure" if error else "Success",
            "generation": key[2],
            "errors": error,
            "timestamp": now(),
        }
        self._write_status(metadata["name"], verdict)
        if error and first:
            self._stop.set()
            self._thread = None

    def _effective(self) -> Json | None:
        node = self.store.find(NODES, self.node)
        group = ((node or {}).get("metadata", {}).get("labels") or {}).get(GROUP_LABEL)
        own = self.store.find(POLICIES, f"node.{self.node}", self.namespace)
        return own or self.store.find(POLICIES, f"group.{group}" if group else "default", self.namespace)

    def _write_status(self, name: str, verdict: Json | None, *, always: bool = False) -> None:
        def change(policy: Json) -> None:
            nodes = (policy.get("status") or {}).get("nodes") or {}
            if verdict is not None:
                policy["status"] = {"nodes": {**nodes, self.node: verdict}}
            elif self.node in nodes or always:
                policy["status"] = {"nodes": {key: value for key, value in nodes.items() if key != self.node}}

        self.store.update(POLICIES, name, self.namespace, change)

    # ----------------------------------------------------------------------------------------------- configuration

    def _configure(self, spec: Json, *, first: bool) -> str:
        """Take a configuration into use; the error's text when it is rejected and the old one stays."""
        with self._lock:
            try:
                policy = Policy(read_config(spec, self.topology), self.topology)
            except Rejected as error:
                prefix = "failed to start with initial configuration: balloons: failed to create balloons policy: "
                return prefix + str(error) if first else str(error)
            self.policy = policy
            # Every cached container is assigned again, dead ones too: that is how ghosts come about.
            for container in self._containers:
                try:
                    policy.add(container)
                except NoBalloon:
                    continue
                self.repinned(container)
            self._publish()
            return ""

    # -------------------------------------------------------------------------------------------------- containers

    def create(self, container: Container) -> bool:
        """The runtime creates a container: pin it. False when nobody is connected. NoBalloon when it cannot be."""
        with self._lock:
            if not self.connected:
                # It runs unpinned until a plugin comes back and is told of all that runs.
                self._containers.append(container)
                return False
            assert self.policy is not None
            self.policy.add(container)
            self._containers.append(container)
            for other in self._containers:
                if other is not container and not other.stopped:
                    self.repinned(other)
            self._publish()
            return True

    def stop(self, container: Container) -> None:
        """The container ended: CPUs are free, but it stays in the cache until it is removed."""
        with self._lock:
            container.stopped = True
            if self.policy is not None and self.connected:
                self.policy.release(container)
                self._publish()

    def remove(self, container: Container) -> None:
        """The container is gone for good."""
        with self._lock:
            if container in self._containers:
                self._containers.remove(container)
            if self.policy is not None and self.connected:
                self.policy.drop_zone(container)
                self._publish()

    def _publish(self) -> None:
        assert self.policy is not None
        if not self.policy.config.publish:
            return
        self._published += 1
        arguments = (self._published, self.policy.zones())
        if not self.publish_s:
            self._tell(*arguments)
            return
        later = threading.Timer(self.publish_s, self._tell, arguments)
        later.daemon = True
        later.start()

    def _tell(self, number: int, zones: list[Json]) -> None:
        """Write zones, unless later ones are there."""
        with self._lock:
            if number < self._told:
                return
            self._told = number
            self._write_zones(zones)

    def _write_zones(self, zones: list[Json]) -> None:
        body: Json = {
            "metadata": {"name": self.node},
            "attributes": [{"name": "TopologyPolicy", "value": "balloons"}],
            "zones": zones,
        }

        def change(stored: Json) -> None:
            if stored["zones"] != zones:
                stored["zones"] = zones
                stored["metadata"]["generation"] += 1

        if self.store.update(ZONES, self.node, "", change) is None:
            self.store.create(ZONES, body)
