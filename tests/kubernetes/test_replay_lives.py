"""Lives of pods as recorded from a real cluster, lived again in the double: what a watch shows from beginning to end.

A recording's pod is created, watched on the recorded path, and deleted by the recorded request in the state in which
it was deleted. Equal are the sequences of phase, reasons, container state, exit code, restarts and conditions (each
counts once), and the events of the pod.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pytest_nriperf.topology import simulated_topology
from tests.kubernetes.double.cluster import Cluster
from tests.kubernetes.double.kinds import CONFIG_MAPS, Json
from tests.kubernetes.double.kubelet import Timing
from tests.kubernetes.test_replay import RECORDED, compare, server

REFUSED = ("pod-invalid-annotation", "pod-invalid-limits", "pod-unknown-field")
NOT_LIVED = {
    "pod-command-not-found-always": "restartPolicy Always: the double ends a container once",
    "pod-crashloop": "restartPolicy Always",
    "pod-env-configmap-missing": "environment from ConfigMaps",
    "pod-killed-signal": "what a signal does to PID 1 of a PID namespace",
    "pod-nodename-outofcpu": "kubelet's own admission of pods that no scheduler has seen",
    "pod-oomkilled-child": "cgroup v1: the double's nodes have v2, where one kill takes the container",
    "pod-sandbox-create-fails": "a broken runtime",
    "vm-pod-oomkilled-child": "as vm-pod-oomkilled; phase and state came to the watcher together",
}
# Killed by the kernel for lack of memory there, by order here.
BY_ORDER = {"vm-pod-oomkilled": "xeon2", "pod-oomkilled": "xeon1"}

__all__ = ["server"]

Moment = tuple[Any, ...]


def recorded(name: str) -> Json:
    assert RECORDED is not None
    found: Json = json.loads((RECORDED / f"{name}.json").read_text())
    return found


def names() -> list[str]:
    if RECORDED is None:
        return []
    found = [file.stem for pattern in ("pod-*.json", "vm-pod-oomkilled*.json") for file in RECORDED.glob(pattern)]
    return sorted(name for name in found if name not in NOT_LIVED and name not in REFUSED)


def moment(event: Json) -> Moment:
    """What counts of one event of a watch."""
    pod = event["object"]
    status = pod.get("status") or {}
    container = (status.get("containerStatuses") or [{}])[0]
    states: Json = container.get("state") or {"": {}}
    kind, state = next(iter(states.items()))
    return (
        event["type"] == "DELETED",
        "deletionTimestamp" in pod["metadata"],
        status.get("phase"),
        status.get("reason"),
        kind,
        state.get("reason"),
        state.get("exitCode"),
        container.get("restartCount"),
        tuple(sorted(condition["type"] for condition in status.get("conditions") or [])),
    )


def life(events: list[Json]) -> list[Moment]:
    """Moments, each once."""
    found: list[Moment] = []
    for event in events:
        if not found or moment(event) != found[-1]:
            found.append(moment(event))
    return found


def own_events(events: list[Json]) -> list[tuple[str, str]]:
    """Type and reason of a pod's events; those of an earlier pod of its name come before its own scheduling."""
    pairs = [(event["type"], event["reason"]) for event in events]
    starts = [number for number, pair in enumerate(pairs) if pair[1] in ("Scheduled", "FailedScheduling")]
    return sorted(set(pairs[starts[-1] :] if len(starts) > 1 else pairs))


@contextlib.contextmanager
def sent(cluster: Cluster, method: str, target: str, body: Json | None = None) -> Iterator[http.client.HTTPResponse]:
    """The answer to a request."""
    context = ssl.create_default_context(cafile=str(cluster.certificate))
    connection = http.client.HTTPSConnection("127.0.0.1", cluster.server.server_address[1], context=context)
    headers = {"Authorization": "Bearer admin-token", "Content-Type": "application/json"}
    with contextlib.closing(connection):
        connection.request(method, target, None if body is None else json.dumps(body), headers)
        with connection.getresponse() as answer:
            yield answer


def replayed(cluster: Cluster, exchange: Json) -> tuple[int, Json]:
    """Status and body of a recorded request."""
    method, target, _ = exchange["request"]["line"].split(" ")
    with sent(cluster, method, target, exchange["request"].get("body")) as answer:
        return answer.status, json.loads(answer.read())


def live(cluster: Cluster, name: str) -> Json:
    """The events of a watch, and the pod's own events at the end."""
    recording = recorded(name)
    before = [each for each in life([entry["event"] for entry in recording["watch"]]) if not each[1]]
    if name in BY_ORDER:
        recording["create"]["request"]["body"]["spec"]["containers"][0]["command"] = ["sleep", "60"]
    # From before it is there, so that the watch misses nothing however late it begins.
    version = cluster.store.version
    status, pod = replayed(cluster, recording["create"])
    assert status == recording["create"]["response"]["status"], pod
    seen: list[Json] = []
    path = recording["watch_path"].partition("&timeoutSeconds")[0]
    with sent(cluster, "GET", f"{path}&timeoutSeconds=15&resourceVersion={version}") as answer:
        for line in answer:
            seen.append(json.loads(line))
            if seen[-1]["type"] == "DELETED":
                break
            if name in BY_ORDER and moment(seen[-1])[4] == "running":
                cluster.nodes[BY_ORDER[name]].order(pod["metadata"]["name"], "oom")
            if moment(seen[-1]) == before[-1]:
                replayed(cluster, recording["delete"])
    path = f"/api/v1/namespaces/perf/events?fieldSelector=involvedObject.uid%3D{pod['metadata']['uid']}"
    wanted = own_events(recording["events_after_delete"])
    end = time.monotonic() + 5
    while True:
        with sent(cluster, "GET", path) as answer:
            events = json.loads(answer.read())["items"]
        # Of a pod that is forced away the object goes first.
        if own_events(events) == wanted or time.monotonic() > end:
            return {"watch": seen, "events": events}


@pytest.fixture(scope="module")
def lives() -> Iterator[dict[str, Json]]:
    """Everybody's life, side by side."""
    with Cluster() as cluster:
        cluster.add_node("xeon1", simulated_topology("sim:1s2c1t"), plugin=False)
        cluster.nodes["xeon1"].images = {"localhost/nriperf:1"}
        if any(name.startswith("vm-") for name in names()):
            cluster.add_node("xeon2", simulated_topology("sim:2s4c2t-snc2"), plugin=False)
        for node in cluster.nodes.values():
            # So long that a pod can be deleted between its container's end and its own, as one was.
            node.timing = Timing(phase_lag=1.5)
        script = {"metadata": {"name": "script", "namespace": "perf"}, "data": {"run.py": "print('ran')\n"}}
        cluster.store.create(CONFIG_MAPS, script)

        with ThreadPoolExecutor(12) as side_by_side:
            found = dict(zip(names(), side_by_side.map(lambda name: live(cluster, name), names()), strict=True))
        yield found


@pytest.mark.skipif(RECORDED is None, reason="the recordings are not beside the project")
@pytest.mark.parametrize("name", REFUSED)
def test_a_pod_that_cannot_be_is_refused_as_recorded(server: Cluster, name: str) -> None:
    compare(server, recorded(name)["create"])


@pytest.mark.skipif(RECORDED is None, reason="the recordings are not beside the project")
@pytest.mark.parametrize("name", names())
def test_a_pod_lives_as_recorded(lives: dict[str, Json], name: str) -> None:
    recording = recorded(name)
    assert life(lives[name]["watch"]) == life([entry["event"] for entry in recording["watch"]])
    assert own_events(lives[name]["events"]) == own_events(recording["events_after_delete"])
