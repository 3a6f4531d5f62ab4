"""Pods of a session: made together, waited for, looked into when they fail, and certain to go."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pytest_nriperf.errors import MemoryFault, ProvisionError
from pytest_nriperf.provision import manifests
from pytest_nriperf.provision.api_errors import ApiFailure
from pytest_nriperf.provision.cluster import CONFIG_MAPS, EVENTS, NODES, PODS, Cluster, wait_until

Json = dict[str, Any]

_NO_ROOM = "no suitable balloon instance available"
_IMAGE = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable")


# What the scheduler says of its nodes, and what helps.
_UNSCHEDULABLE = (
    ("Insufficient cpu", "free CPUs on the node, or ask for fewer: system pods and system-reserved CPUs count too"),
    ("Insufficient memory", "free memory on the node, or lower memory_limit of the profile"),
    ("persistentvolumeclaim", "check model_claim of the profile: the claim must be in its namespace, and be bound"),
    ("untolerated taint", "give the profile tolerations"),
    ("were unschedulable", "it is cordoned: kubectl uncordon {node}"),
)
_DISRUPTED = {
    "EvictionByEvictionAPI": "somebody drains the node: wait until it is back",
    "PreemptionByScheduler": "pods of a higher priority need its room: measure when they are gone",
    "DeletionByTaintManager": "the node got a taint: give the profile tolerations, or see what is wrong with it",
}


@dataclass(frozen=True)
class Patience:
    """How long to wait for what, seconds. A balloon that is taken may come free after the runtime's garbage collection
    (a minute) and kubelet's next try (15 s)."""

    start: float = 300.0
    image: float = 60.0
    schedule: float = 20.0
    balloon: float = 90.0
    silence: float = 60.0
    deletion: float = 120.0


@dataclass(frozen=True)
class Trouble:
    """Why a pod does not run (yet). `patience` seconds may pass before it counts as an error."""

    fact: str
    next_step: str
    patience: float
    memory: bool = False


def wait_running(cluster: Cluster, node: str, namespace: str, names: Sequence[str], patience: Patience) -> list[Json]:
    """The pods, once all of them run. Raises ProvisionError with events and log of the first that cannot."""
    began: dict[tuple[str, str], float] = {}
    started = time.monotonic()
    missing = set(names)

    def step() -> list[Json] | None:
        found = {name: cluster.get(PODS, name, namespace) for name in names}
        missing.clear()
        for name, pod in found.items():
            if pod is not None and is_running(pod):
                continue
            missing.add(name)
            trouble = _trouble(pod, node, patience)
            first = began.setdefault((name, trouble.fact[:60]), time.monotonic())
            if time.monotonic() - first > trouble.patience:
                raise _failure(cluster, node, namespace, name, pod, trouble)
        return None if missing else [pod for pod in found.values() if pod is not None]

    running: list[Json] | None = wait_until(step, patience.start)
    if running is None:
        name = min(missing)
        waited = f"does not run after {time.monotonic() - started:.0f} s"
        pod = cluster.get(PODS, name, namespace)
        raise _failure(cluster, node, namespace, name, pod, Trouble(waited, _describe(name, namespace), 0))
    return running


def delete_all(cluster: Cluster, namespace: str, selector: str, patience: Patience) -> None:
    """Delete every pod of a selector gracefully and wait until they are gone: before that the runtime may still hold
    their CPUs, and a change of the policy would bring them back as ghosts."""
    found = cluster.find(PODS, namespace, labels=selector)
    for pod in found:
        cluster.delete(PODS, pod["metadata"]["name"], namespace, uid=pod["metadata"]["uid"])

    def gone() -> bool:
        return not cluster.find(PODS, namespace, labels=selector)

    if found and not wait_until(gone, patience.deletion):
        names = ", ".join(pod["metadata"]["name"] for pod in cluster.find(PODS, namespace, labels=selector))
        raise ProvisionError(
            f"pods {names} in namespace {namespace} are still there {patience.deletion:g} s after they were deleted",
            f"see what kubelet does: kubectl describe pod -n {namespace} -l {selector}",
        )


def delete_files(cluster: Cluster, namespace: str, selector: str) -> None:
    """Delete the ConfigMaps of a selector."""
    for entry in cluster.find(CONFIG_MAPS, namespace, labels=selector):
        cluster.delete(CONFIG_MAPS, entry["metadata"]["name"], namespace, uid=entry["metadata"]["uid"])


def is_running(pod: Json) -> bool:
    """Whether its container runs. The phase lags behind, so it does not count."""
    return "running" in _state(pod) and "deletionTimestamp" not in pod["metadata"]


def post_mortem(cluster: Cluster, node: str, namespace: str, name: str) -> Trouble | None:
    """Why a pod that ran does not run any more, None while it does."""
    pod = cluster.get(PODS, name, namespace)
    trouble = lost = _node_trouble(cluster, node)
    if pod is None or not is_running(pod):
        trouble = _trouble(pod, node, Patience())
        if lost is not None and not trouble.memory:
            trouble = replace(lost, fact=f"{trouble.fact}; it {lost.fact}")
    if trouble is None:
        return None
    return replace(trouble, fact=trouble.fact + _evidence(cluster, namespace, name, pod))


def _state(pod: Json) -> Json:
    statuses = (pod.get("status") or {}).get("containerStatuses") or []
    for entry in statuses:
        if entry.get("name") == manifests.CONTAINER:
            return dict(entry.get("state") or {})
    return {}


def _describe(name: str, namespace: str) -> str:
    return f"see kubectl describe pod {name} -n {namespace}"


def _trouble(pod: Json | None, node: str, patience: Patience) -> Trouble:
    if pod is None:
        return Trouble("is gone: somebody deleted it, or its node was lost", "start again", patience.silence / 10)
    name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
    status, state = pod.get("status") or {}, _state(pod)
    if status.get("reason"):
        return _refused(str(status["reason"]), str(status.get("message", "")), node)
    killed = state.get("terminated", {}).get("reason") == "OOMKilled"
    if "deletionTimestamp" in pod["metadata"] and not killed:
        return _being_deleted(status, node)
    if "terminated" in state:
        return _ended(state["terminated"], name, namespace)
    if "waiting" in state:
        return _waiting(state["waiting"], name, namespace, patience)
    for condition in status.get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("reason") == "Unschedulable":
            message = str(condition.get("message"))
            step = next((step for word, step in _UNSCHEDULABLE if word in message), _describe(name, namespace))
            return Trouble(f"cannot be scheduled on node {node}: {message}", step.format(node=node), patience.schedule)
    return Trouble(
        f"is not taken up by kubelet (phase {status.get('phase')})", "see kubectl get nodes", patience.silence
    )


def _being_deleted(status: Json, node: str) -> Trouble:
    """Kubernetes says in a condition why it takes a pod away; people do not."""
    for condition in status.get("conditions") or []:
        if condition.get("type") == "DisruptionTarget" and condition.get("status") == "True":
            reason = str(condition.get("reason"))
            fact = f"is taken away ({reason}: {condition.get('message')})"
            return Trouble(fact, _DISRUPTED.get(reason, f"see kubectl describe node {node}"), 0)
    return Trouble("is being deleted by somebody else", "start again", 0)


def _refused(reason: str, message: str, node: str) -> Trouble:
    steps = {
        "Evicted": f"the node runs out of something: kubectl describe node {node}",
        "OutOfcpu": "other pods hold the node's CPUs: free them, or ask for fewer",
        "OutOfmemory": "other pods hold the node's memory: free it, or lower memory_limit",
        "NodeLost": f"see kubectl get node {node}",
        "DeadlineExceeded": f"the session ran longer than {manifests.DEADLINE_S // 3600} hours: measure less at a time",
    }
    return Trouble(f"was ended: {reason}: {message}", steps.get(reason, "see its events above"), 0)


def _ended(ended: Json, name: str, namespace: str) -> Trouble:
    reason, code = str(ended.get("reason", "")), ended.get("exitCode")
    message = str(ended.get("message") or "").strip()
    if reason == "OOMKilled":
        return Trouble(
            f"was killed for lack of memory (OOMKilled, exit code {code})",
            "raise memory_limit of the profile, use a smaller model or dtype, or fewer replicas",
            0,
            memory=True,
        )
    if reason == "StartError":
        return Trouble(
            f"cannot start: {message}", "the image needs Python 3.9 or newer: name it in the profile (python)", 0
        )
    text = f"ended by itself: {reason}, exit code {code}" + (f": {message}" if message else "")
    return Trouble(text, f"see its log above, or kubectl logs {name} -n {namespace}", 0)


def _waiting(waiting: Json, name: str, namespace: str, patience: Patience) -> Trouble:
    reason, message = str(waiting.get("reason", "")), str(waiting.get("message", ""))
    if reason in _IMAGE:
        step = "check `image` and `pull_secret` of the profile, and that the node reaches the registry"
        return Trouble(f"has no image ({reason}): {message}", step, patience.image)
    own_words = message.rpartition("balloons: ")[2] if "balloons: " in message else message
    if _NO_ROOM in message:
        step = "other balloons or pods hold the CPUs, or the type's maxBalloons is reached: free them, or ask for less"
        return Trouble(f"fits into no balloon: {own_words}", step, patience.balloon)
    if "no balloon for annotation" in message:
        step = "the type is not in the policy that the node follows: mend balloon_types of the profile, or see with "
        step += "nriperf doctor --node whether the plugin rejects the policy"
        return Trouble(f"names an unknown balloon type: {own_words}", step, patience.silence / 10)
    if reason in ("CreateContainerError", "CreateContainerConfigError", "RunContainerError"):
        return Trouble(f"cannot be created ({reason}): {message}", _describe(name, namespace), patience.silence / 4)
    return Trouble(
        f"waits ({reason or 'ContainerCreating'}) {message}".strip(), _describe(name, namespace), patience.start
    )


def _node_trouble(cluster: Cluster, node: str) -> Trouble | None:
    found = cluster.get(NODES, node)
    if found is None:
        return Trouble(f"cannot be reached: node {node} is no longer in the cluster", "see kubectl get nodes", 0)
    for condition in (found.get("status") or {}).get("conditions") or []:
        if condition.get("type") == "Ready" and condition.get("status") != "True":
            fact = (
                f"cannot be reached: node {node} is not ready ({condition.get('reason')}: {condition.get('message')})"
            )
            return Trouble(fact, f"see kubectl describe node {node}", 0)
    return None


def _failure(
    cluster: Cluster, node: str, namespace: str, name: str, pod: Json | None, trouble: Trouble
) -> ProvisionError | MemoryFault:
    lost = _node_trouble(cluster, node)
    trouble = lost if lost is not None and not trouble.memory else trouble
    text = f"node {node}: pod {name} {trouble.fact}{_evidence(cluster, namespace, name, pod)}"
    return MemoryFault(text, trouble.next_step) if trouble.memory else ProvisionError(text, trouble.next_step)


def _evidence(cluster: Cluster, namespace: str, name: str, pod: Json | None) -> str:
    """The pod's own warnings (events outlive pods of the same name, so they are found by uid; our names are never used
    twice) and its last words."""
    field = f"involvedObject.name={name}" if pod is None else f"involvedObject.uid={pod['metadata']['uid']}"
    lines = []
    try:
        lines += [f"  event {text}" for text in _event_texts(cluster.find(EVENTS, namespace, fields=field))]
    except ApiFailure as error:
        lines.append(f"  its events cannot be read: {error.fact}")
    try:
        text = cluster.log(name, namespace, manifests.CONTAINER, 10) if pod is not None else ""
        lines += [f"  log {line}" for line in text.splitlines()]
    except ApiFailure as error:
        lines.append(f"  its log cannot be read: {error.fact}")
    return "\n" + "\n".join(lines) + "\n" if lines else ""


def _event_texts(events: Iterable[Json]) -> list[str]:
    found = []
    for event in events:
        if event.get("type") == "Warning":
            count = event.get("count") or 1
            times = f" (x{count})" if count > 1 else ""
            found.append(f"{event.get('reason')}{times}: {str(event.get('message'))[:300]}")
    return found[-5:]
