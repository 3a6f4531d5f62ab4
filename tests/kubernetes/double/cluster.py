"""The whole double: an API server with its controllers, and nodes."""

from __future__ import annotations

import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

import yaml

from pytest_nriperf.topology import Topology
from tests.kubernetes.double.access import Access
from tests.kubernetes.double.api import Api
from tests.kubernetes.double.balloons_policy import Container
from tests.kubernetes.double.faults import Faults
from tests.kubernetes.double.kinds import (
    CONFIG_MAPS,
    DAEMON_SETS,
    DEFINITIONS,
    EVENTS,
    KINDS,
    LEASES,
    NAMESPACES,
    NODES,
    PODS,
    POLICIES,
    ZONES,
    Json,
    Kind,
)
from tests.kubernetes.double.kubelet import Kubelet
from tests.kubernetes.double.plugin import Plugin
from tests.kubernetes.double.pod_runner import PodRunner
from tests.kubernetes.double.pod_status import condition
from tests.kubernetes.double.server import Server, make_certificate
from tests.kubernetes.double.store import Store, now
from tests.kubernetes.double.validation import fill, quantity

PLUGIN_NAME = "nri-resource-policy-balloons"


class Cluster:
    """Starts on `with`. Nodes are added before or after; `kubeconfig` is the file that clients use."""

    def __init__(self, *, kinds: tuple[Kind, ...] = KINDS, folder: Path | None = None) -> None:
        self.folder = folder or Path(tempfile.mkdtemp(prefix="k8s-"))
        self.store = Store()
        self.access = Access()
        self.faults = Faults()
        self.api = Api(self.store, self.access, kinds)
        self.nodes: dict[str, Kubelet] = {}
        self.plugins: dict[str, Plugin] = {}
        self.runners: dict[str, PodRunner] = {}
        self.static: dict[str, Container] = {}
        self._own = folder is None
        key, self.certificate = make_certificate(self.folder)
        self.server = Server(self.api, self, self.faults, key, self.certificate)
        for name in ("default", "kube-system", "kube-node-lease", "perf"):
            self.store.create(NAMESPACES, {"metadata": {"name": name}})
        for kind in kinds:
            if kind.custom:
                self.store.create(DEFINITIONS, {"metadata": {"name": kind.qualified}, "spec": {"group": kind.group}})
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Cluster:
        for target in (lambda: self.server.serve_forever(0.05), self._control):
            thread = threading.Thread(target=target, daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self.server.open = False
        self.server.shutdown()
        for kubelet in self.nodes.values():
            kubelet.close()
        for plugin in self.plugins.values():
            plugin.kill()
        self.server.drop_connections()
        self.server.server_close()
        for runner in list(self.runners.values()):
            runner.join(5)
        if self._own:
            shutil.rmtree(self.folder, ignore_errors=True)

    # ---------------------------------------------------------------------------------------------------- contents

    @property
    def address(self) -> str:
        """`https://127.0.0.1:PORT`."""
        return f"https://127.0.0.1:{self.server.server_address[1]}"

    def kubeconfig(self, token: str = "admin-token", *, namespace: str = "") -> Path:
        """A kubeconfig for a token's user; its context may name a namespace."""
        path = self.folder / f"kubeconfig-{token}"
        server = {"server": self.address, "certificate-authority": str(self.certificate)}
        inside = {"namespace": namespace} if namespace else {}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "double", "cluster": server}],
            "users": [{"name": "user", "user": {"token": token}}],
            "contexts": [{"name": "double", "context": {"cluster": "double", "user": "user", **inside}}],
            "current-context": "double",
        }
        path.write_text(yaml.safe_dump(document))
        return path

    def add_node(
        self, name: str, topology: Topology, *, plugin: bool = True, labels: dict[str, str] | None = None
    ) -> Kubelet:
        """A node with its kubelet; with the plugin's DaemonSet and pod unless it is left out."""
        size = str(len(topology.cpus))
        memory = f"{sum(node.memory_bytes or 0 for node in topology.nodes) // 1024 or 8 << 20}Ki"
        amounts = {"cpu": size, "memory": memory, "pods": "110"}
        info = {"kubeletVersion": "v1.36.2", "containerRuntimeVersion": "containerd://2.4.0", "kernelVersion": "6.12.0"}
        info |= {"architecture": "amd64", "operatingSystem": "linux", "osImage": "Debian", "kubeProxyVersion": ""}
        status: Json = {
            "capacity": amounts,
            "allocatable": amounts,
            "conditions": [condition("Ready", True, "KubeletReady")],
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}, {"type": "Hostname", "address": name}],
            "nodeInfo": {
                **info,
                "bootID": f"boot-{name}",
                "machineID": f"machine-{name}",
                "systemUUID": f"uuid-{name}",
            },
        }
        metadata = {"name": name, "labels": {"kubernetes.io/hostname": name, **(labels or {})}}
        self.store.create(NODES, {"metadata": metadata, "spec": {}, "status": status})
        if plugin:
            self.plugins[name] = Plugin(self.store, name, topology)
        kubelet = Kubelet(self.store, name, topology, self.plugins.get(name), self.folder / f"n{len(self.nodes)}")
        self.nodes[name] = kubelet
        if plugin:
            self._install_plugin(name)
        return kubelet

    def _install_plugin(self, node: str) -> None:
        labels = {"app.kubernetes.io/name": PLUGIN_NAME}
        if self.store.find(DAEMON_SETS, PLUGIN_NAME, "kube-system") is None:
            spec = {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}}}
            metadata = {"name": PLUGIN_NAME, "namespace": "kube-system", "labels": labels}
            self.store.create(DAEMON_SETS, {"metadata": metadata, "spec": spec, "status": {}})
        with self.store.changed:
            pod = self.store.create(PODS, _plugin_pod(node, labels))
            self.static[pod["metadata"]["uid"]] = self.nodes[node].container_of(pod)
        if self.store.find(POLICIES, "default", "kube-system") is None:
            self.put_policy("default", default_policy())
        self.plugins[node].start()

    def put_policy(self, name: str, spec: Json, metadata: Json | None = None) -> Json:
        """A BalloonsPolicy, as an administrator writes it."""
        with self.store.changed:
            old = self.store.find(POLICIES, name, "kube-system")
            body: Json = {"metadata": {**(metadata or {}), "name": name, "namespace": "kube-system"}, "spec": spec}
            body = self.api.schemas.completed(POLICIES, {**body, "kind": "BalloonsPolicy"})
            body["apiVersion"] = POLICIES.api_version
            if old is None:
                return self.store.create(POLICIES, body)
            old["metadata"]["generation"] += 1
            return self.store.replace(POLICIES, {**old, "spec": body["spec"]})

    def add_pod(self, name: str, node: str, *, namespace: str = "default", cpu: str = "1") -> Json:
        """Somebody else's pod, running without processes."""
        spec = {"name": "c", "image": "busybox:1", "resources": {"requests": {"cpu": cpu}}}
        body: Json = {
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"nodeName": node, "containers": [spec]},
        }
        fill(PODS, body)
        body["status"]["phase"] = "Running"
        with self.store.changed:
            stored = self.store.create(PODS, body)
            container = self.nodes[node].container_of(stored)
            self.static[stored["metadata"]["uid"]] = container
        if node in self.plugins:
            self.plugins[node].create(container)
        return stored

    def end_pod(self, name: str, namespace: str = "default") -> None:
        """Such a pod completes: its container is dead and not yet removed."""
        pod = self.store.get(PODS, name, namespace)

        def change(stored: Json) -> None:
            stored["status"]["phase"] = "Succeeded"

        self.store.update(PODS, name, namespace, change)
        self.plugins[pod["spec"]["nodeName"]].stop(self.static[pod["metadata"]["uid"]])

    def remove_pod(self, name: str, namespace: str = "default") -> None:
        """Such a pod and its dead container are gone."""
        pod = self.store.get(PODS, name, namespace)
        self.store.remove(PODS, name, namespace)
        self.plugins[pod["spec"]["nodeName"]].remove(self.static[pod["metadata"]["uid"]])

    def leftovers(self) -> list[str]:
        """Everything of ours that is still there."""
        found = []
        for kind, value in self.store.everything():
            metadata = value["metadata"]
            ours = metadata["name"].startswith("nriperf") or "nriperf" in str(metadata.get("labels", "")) + str(
                metadata.get("annotations", "")
            )
            if ours and kind not in (NAMESPACES, EVENTS):
                found.append(f"{kind.plural}/{metadata['name']}")
        return found

    # ------------------------------------------------------------------------------------------------- the runtime

    def _kubelet(self, pod: Json) -> Kubelet | None:
        return self.nodes.get(pod["spec"].get("nodeName", ""))

    def start(self, pod: Json, container: str, command: list[str], *, stdin: bool) -> Any:
        """An exec on the pod's node."""
        kubelet = self._kubelet(pod)
        assert kubelet is not None
        return kubelet.start(pod, container, command, stdin=stdin)

    def running(self, pod: Json, container: str) -> bool:
        """Whether a container runs."""
        kubelet = self._kubelet(pod)
        return kubelet is not None and kubelet.running(pod, container)

    def log(self, pod: Json, container: str) -> bytes | None:
        """A container's output."""
        kubelet = self._kubelet(pod)
        return None if kubelet is None else kubelet.log(pod, container)

    # -------------------------------------------------------------------------------------------------- controllers

    def _control(self) -> None:
        """Scheduler, kubelets' beginning, garbage collection by owner."""
        version = 0
        while not self._stop.is_set():
            changes, version = self.store.since(version, PODS, NODES, CONFIG_MAPS, LEASES, timeout_s=0.1)
            if not changes:
                continue
            for pod in self.store.all(PODS):
                if "nodeName" not in pod["spec"]:
                    self._schedule(pod)
            for pod in self.store.all(PODS):
                uid, node = pod["metadata"]["uid"], pod["spec"].get("nodeName")
                new = uid not in self.runners and uid not in self.static
                if node in self.nodes and new and "deletionTimestamp" not in pod["metadata"]:
                    self.runners[uid] = PodRunner(self.nodes[node], pod)
                    self.runners[uid].start()
            self._collect_garbage()

    def _schedule(self, pod: Json) -> None:
        wanted = sum(
            quantity((c["resources"].get("requests") or {}).get("cpu", "0")) for c in pod["spec"]["containers"]
        )
        reasons: dict[str, int] = {}
        for name in self.nodes:
            node = self.store.get(NODES, name)
            reason = self._misfit(pod, node, wanted)
            if not reason:
                self._bind(pod, name)
                return
            reasons[reason] = reasons.get(reason, 0) + 1
        texts = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
        text = f"0/{len(self.nodes)} nodes are available: {texts}. no new claims to deallocate, preemption: "
        text += f"0/{len(self.nodes)} nodes are available: {len(self.nodes)} Preemption is not helpful for scheduling."
        entry = condition("PodScheduled", False, "Unschedulable", text)

        def change(stored: Json) -> None:
            known = stored["status"].get("conditions") or [{}]
            if known[0].get("message") != text:
                stored["status"]["conditions"] = [entry]

        self.store.update(PODS, pod["metadata"]["name"], pod["metadata"]["namespace"], change)
        next(iter(self.nodes.values())).event(pod, "Warning", "FailedScheduling", text)

    def _misfit(self, pod: Json, node: Json, wanted: float) -> str:
        spec, labels, name = pod["spec"], node["metadata"].get("labels") or {}, node["metadata"]["name"]
        fields = _required_node_names(spec)
        if any(labels.get(key) != value for key, value in (spec.get("nodeSelector") or {}).items()) or (
            fields is not None and name not in fields
        ):
            return "node(s) didn't match Pod's node affinity/selector"
        for taint in node["spec"].get("taints", []):
            if taint["effect"] != "PreferNoSchedule" and not any(_tolerates(t, taint) for t in spec["tolerations"]):
                return f"node(s) had untolerated taint {{{taint['key']}: {taint.get('value', '')}}}"
        used = sum(
            quantity((container["resources"].get("requests") or {}).get("cpu", "0"))
            for other in self.store.all(PODS)
            if other["spec"].get("nodeName") == name and other["status"].get("phase") not in ("Succeeded", "Failed")
            for container in other["spec"]["containers"]
        )
        return "Insufficient cpu" if used + wanted > quantity(node["status"]["allocatable"]["cpu"]) else ""

    def _bind(self, pod: Json, node: str) -> None:
        def change(stored: Json) -> None:
            stored["spec"]["nodeName"] = node
            stored["status"]["conditions"] = [condition("PodScheduled", True)]

        metadata = pod["metadata"]
        self.store.update(PODS, metadata["name"], metadata["namespace"], change)
        text = f"Successfully assigned {metadata['namespace']}/{metadata['name']} to {node}"
        self.nodes[node].event(pod, "Normal", "Scheduled", text)

    def _collect_garbage(self) -> None:
        with self.store.changed:
            alive = {value["metadata"]["uid"] for _, value in self.store.everything()}
            for kind in (PODS, CONFIG_MAPS):
                for value in self.store.all(kind):
                    owners = value["metadata"].get("ownerReferences") or []
                    if owners and not any(owner["uid"] in alive for owner in owners):
                        self._collect(kind, value)

    def _collect(self, kind: Kind, value: Json) -> None:
        metadata = value["metadata"]
        if kind is not PODS:
            self.store.remove(kind, metadata["name"], metadata["namespace"])
        elif "deletionTimestamp" not in metadata:
            metadata["deletionTimestamp"] = now()
            metadata["deletionGracePeriodSeconds"] = value["spec"].get("terminationGracePeriodSeconds", 30)
            self.store.replace(PODS, value)


def default_policy() -> Json:
    """What the plugin's chart installs, in short."""
    dedicated = {"name": "dedicated-cpus", "preferNewBalloons": True, "preferSpreadingPods": True}
    shared = {
        "name": "shared-local-cpus",
        "shareIdleCPUsInSame": "package",
        "preferNewBalloons": True,
        "maxBalloons": 2,
    }
    return {
        "reservedResources": {"cpu": "1000m"},
        "pinCPU": True,
        "pinMemory": True,
        "allocatorTopologyBalancing": True,
        "agent": {"nodeResourceTopology": True},
        "balloonTypes": [dedicated, shared],
    }


def _plugin_pod(node: str, labels: dict[str, str]) -> Json:
    body: Json = {
        "metadata": {"name": f"{PLUGIN_NAME}-{node}", "namespace": "kube-system", "labels": dict(labels)},
        "spec": {"nodeName": node, "containers": [{"name": PLUGIN_NAME, "image": "ghcr.io/x/y:v0.14.0"}]},
    }
    body["metadata"]["ownerReferences"] = []
    fill(PODS, body)
    body["status"].update({"phase": "Running", "conditions": [condition("Ready", True)]})
    return body


def _required_node_names(spec: Json) -> list[str] | None:
    required = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    )
    if not required:
        return None
    return [
        value
        for term in required["nodeSelectorTerms"]
        for field in term.get("matchFields", [])
        if field["key"] == "metadata.name"
        for value in field["values"]
    ]


def _tolerates(toleration: Json, taint: Json) -> bool:
    key = toleration.get("key")
    same_value = toleration.get("operator") == "Exists" or toleration.get("value", "") == taint.get("value", "")
    return (key is None or key == taint["key"]) and same_value and toleration.get("effect") in (None, taint["effect"])


__all__ = ["ZONES", "Cluster", "default_policy"]
