"""A pod's status document as kubelet writes it, stage by stage."""

from __future__ import annotations

from typing import Any

from tests.kubernetes.double.kinds import Json
from tests.kubernetes.double.store import now

CREATING: Json = {"waiting": {"reason": "ContainerCreating"}}


def condition(type_: str, status: bool, reason: str = "", message: str = "") -> Json:
    """An entry of status.conditions."""
    entry: Json = {
        "type": type_,
        "status": "True" if status else "False",
        "lastProbeTime": None,
        "lastTransitionTime": now(),
    }
    if reason:
        entry["reason"] = reason
    if message:
        entry["message"] = message
    return entry


def status_of(pod: Json, phase: str, state: Json, *, sandbox: bool = True, extra: dict[str, Any] | None = None) -> Json:
    """The status of a pod of one container in a state (`waiting`, `running`, `terminated`)."""
    container = pod["spec"]["containers"][0]
    running = "running" in state
    finished = "terminated" in state
    reason = "PodCompleted" if phase == "Succeeded" else "ContainersNotReady"
    message = "" if finished else f"containers with unready status: [{container['name']}]"
    ready = [condition(t, running, "" if running else reason, "" if running else message) for t in _READY]
    entry: Json = {
        "name": container["name"],
        "state": state,
        "lastState": {},
        "ready": running,
        "restartCount": 0,
        "image": container["image"],
        "imageID": "" if "waiting" in state else "sha256:0000",
        "started": running,
    }
    if "waiting" not in state:
        entry["containerID"] = f"containerd://{pod['metadata']['uid'].replace('-', '')}"
    return {
        "observedGeneration": pod["metadata"].get("generation", 1),
        "phase": phase,
        "conditions": [
            condition("PodReadyToStartContainers", sandbox and not finished),
            condition("Initialized", True, "PodCompleted" if phase == "Succeeded" else ""),
            *ready,
            condition("PodScheduled", True),
        ],
        "hostIP": "10.99.0.1",
        "hostIPs": [{"ip": "10.99.0.1"}],
        "startTime": pod["metadata"]["creationTimestamp"],
        "containerStatuses": [entry],
        "qosClass": pod["status"].get("qosClass", "BestEffort"),
        **(extra or {}),
    }


_READY = ("Ready", "ContainersReady")


def waiting(reason: str, message: str) -> Json:
    """A container that does not run yet."""
    return {"waiting": {"reason": reason, "message": message}}


def terminated(code: int, reason: str, message: str = "") -> Json:
    """A container that ended."""
    entry: Json = {"exitCode": code, "reason": reason, "startedAt": now(), "finishedAt": now()}
    if message:
        entry["message"] = message
    return {"terminated": entry}
