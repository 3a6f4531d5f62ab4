"""Watches and logs as recorded: the same events in the same order, the same lines, the same end."""

from __future__ import annotations

import json
import re
import threading
import time
from typing import Any

import pytest

from tests.kubernetes.double.cluster import Cluster
from tests.kubernetes.double.kinds import PODS, POLICIES, Json
from tests.kubernetes.double.validation import fill
from tests.kubernetes.test_replay import BASE, RECORDED, compare, pods, server, told
from tests.kubernetes.test_replay_lives import recorded, sent

__all__ = ["pods", "server"]

pytestmark = pytest.mark.skipif(RECORDED is None, reason="the recordings are not beside the project")

NOT_REPLAYED = {
    "watch-apiserver-restart": "a server that falls silent without closing: the double ends its connections",
}
EXPIRED = ("watch-410-stream", "watch-410-after-restart", "watch-node-pods-410")


def watched(cluster: Cluster, target: str) -> tuple[int, list[Json]]:
    with sent(cluster, "GET", target) as answer:
        return answer.status, [json.loads(line) for line in answer]


def shape(event: Json) -> Any:
    """What counts of an event: type, object and its generation; of a bookmark its form, of an error its Status."""
    value = event["object"]
    metadata = value.get("metadata", {})
    if event["type"] == "ERROR":
        return {**told(value), "message": re.sub(r"\d+", "N", value["message"])}
    status = {key: told(member) for key, member in (value.get("status") or {}).items()}
    kept = (metadata.get("name"), metadata.get("generation"), metadata.get("annotations"))
    return event["type"], value.get("kind"), value.get("apiVersion"), *kept, status


def target_of(recording: Json) -> str:
    return str(recording["request"]["line"].split(" ")[1])


def clear(cluster: Cluster) -> None:
    for value in cluster.store.all(POLICIES):
        cluster.store.remove(POLICIES, value["metadata"]["name"], value["metadata"]["namespace"])


@pytest.mark.parametrize("name", EXPIRED)
def test_a_version_that_is_forgotten_ends_the_watch_with_one_error(server: Cluster, name: str) -> None:
    recording = recorded(name)
    server.put_policy("node.w2", BASE)
    server.store.forget()
    target = re.sub(r"resourceVersion=\d+", "resourceVersion=1", target_of(recording))
    status, events = watched(server, target)
    assert status == recording["response"]["status"]
    assert [shape(e) for e in events] == [shape(entry["event"]) for entry in recording["response"]["events"]]


def test_a_version_that_is_no_number_is_refused(server: Cluster) -> None:
    recording = recorded("watch-bad-rv")
    status, events = watched(server, target_of(recording))
    assert status == recording["response"]["status"]
    assert told(events[0]) == told(recording["response"]["events"][0]["event"])


def test_a_version_of_the_future_is_silence(server: Cluster) -> None:
    target = target_of(recorded("watch-future-rv")).replace("timeoutSeconds=6", "timeoutSeconds=1")
    assert watched(server, target) == (200, [])


@pytest.mark.parametrize("name", ["watch-sendInitialEvents", "watch-timeout-1s"])
def test_what_is_there_comes_first_and_a_bookmark_says_that_it_was_all(server: Cluster, name: str) -> None:
    recording = recorded(name)
    clear(server)
    server.put_policy("node.w2", BASE)
    target = re.sub(r"timeoutSeconds=\d+", "timeoutSeconds=1", target_of(recording))
    status, events = watched(server, target)
    assert status == 200
    assert [shape(e) for e in events] == [shape(entry["event"]) for entry in recording["response"]["events"]]


def act(cluster: Cluster, events: list[Json]) -> None:
    """Do what the recorded events tell."""
    for event in events:
        value, metadata = event["object"], event["object"].get("metadata", {})
        if event["type"] == "DELETED":
            cluster.store.remove(POLICIES, metadata["name"], "kube-system")
        elif event["type"] in ("ADDED", "MODIFIED"):
            old = cluster.store.find(POLICIES, metadata["name"], "kube-system")
            if old is None or value.get("status") is None:
                cluster.put_policy(metadata["name"], value["spec"])
            else:
                cluster.store.replace(POLICIES, {**old, "status": value["status"]})


@pytest.mark.parametrize("name", ["watch-life", "watch-field-selector"])
def test_changes_come_in_order_with_a_bookmark_before_the_end(server: Cluster, name: str) -> None:
    recording = recorded(name)
    clear(server)
    wanted = [entry["event"] for entry in recording["response"]["events"]]
    target = re.sub(r"timeoutSeconds=\d+", "timeoutSeconds=3", target_of(recording))
    target = re.sub(r"resourceVersion=\d+", f"resourceVersion={server.store.version}", target)
    actor = threading.Timer(0.3, act, (server, wanted))
    actor.start()
    status, events = watched(server, target)
    actor.join()
    assert status == 200
    assert [shape(event) for event in events] == [shape(event) for event in wanted]


def text_of(cluster: Cluster, target: str) -> str:
    """A log, empty while its container is created."""
    with sent(cluster, "GET", target) as answer:
        text = answer.read().decode()
        return text if answer.status == 200 else ""


# What the recorded containers printed.
HELLO = "import sys, time\nprint('hello', flush=True)\nprint('err', file=sys.stderr, flush=True)\ntime.sleep(600)"
TICKS = "import time\nfor n in range(5):\n    print(n, flush=True)\n    time.sleep(0.1)\nprint('é€ no newline', end='')"
LONG = "print('y' * 50000)"


BUFFERED = "import sys, time\nprint('not yet')\nprint('by now', file=sys.stderr, flush=True)\ntime.sleep(600)"
STEADY = "import time\nwhile True:\n    print('tick', flush=True)\n    time.sleep(0.05)"


@pytest.fixture
def printing(pods: Cluster) -> Any:
    """Pods that print: `p-run`, `lg2` and `lg4` go on, `lg1` and `lg3` end."""
    scripts = {"p-run": HELLO, "lg1": TICKS, "lg2": STEADY, "lg3": LONG, "lg4": BUFFERED}
    for name, script in scripts.items():
        if pods.store.find(PODS, name, "perf") is None:
            # Whatever the environment of this test is.
            plain = [{"name": "PYTHONUNBUFFERED", "value": ""}]
            command = ["python3", "-c", script]
            container = {"name": "c", "image": "x:1", "command": command, "resources": {}, "env": plain}
            body: Json = {
                "metadata": {"name": name, "namespace": "perf"},
                "spec": {"restartPolicy": "Never", "containers": [container]},
            }
            fill(PODS, body)
            pods.store.create(PODS, body)
    return pods


def once(holds: Any) -> None:
    end = time.monotonic() + 15
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("key", ["log", "log_timestamps", "log_tail", "log_limit"])
def test_a_log_has_the_recorded_lines(printing: Cluster, key: str) -> None:
    exchange = recorded("pod-running")[key]
    once(lambda: "err" in text_of(printing, "/api/v1/namespaces/perf/pods/p-run/log"))
    stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z"
    found = text_of(printing, target_of(exchange))
    assert re.sub(stamp, "T", found) == re.sub(stamp, "T", exchange["response"]["body"])


@pytest.mark.parametrize("key", ["log_wrong_container", "log_previous"])
def test_a_log_that_is_not_there_is_refused_as_recorded(printing: Cluster, key: str) -> None:
    compare(printing, recorded("pod-running")[key])


def test_a_log_of_a_container_that_is_created_is_refused(pods: Cluster) -> None:
    mount = {"name": "v", "mountPath": "/x"}
    container = {"name": "c", "image": "x:1", "command": ["true"], "resources": {}, "volumeMounts": [mount]}
    volumes = [{"name": "v", "configMap": {"name": "nosuch"}}]
    spec = {"restartPolicy": "Never", "containers": [container], "volumes": volumes}
    body: Json = {"metadata": {"name": "p-early", "namespace": "perf"}, "spec": spec}
    fill(PODS, body)
    pods.store.create(PODS, body)
    once(lambda: "containerStatuses" in pods.store.get(PODS, "p-early", "perf")["status"])
    compare(pods, recorded("log-while-creating"))


def test_a_log_of_a_pod_that_is_not_there_is_refused(server: Cluster) -> None:
    compare(server, recorded("log-missing-pod"))


def test_a_log_is_followed_to_the_end_of_the_container(printing: Cluster) -> None:
    once(lambda: "0\n" in text_of(printing, "/api/v1/namespaces/perf/pods/lg1/log"))
    assert text_of(printing, target_of(recorded("log-follow"))) == "0\n1\n2\n3\n4\né€ no newline"
    tail = text_of(printing, target_of(recorded("log-after-end"))).splitlines()
    assert [line.partition(" ")[2] for line in tail] == ["3", "4", "é€ no newline"]


def test_a_long_line_is_whole_and_later_ones_there_are_none(printing: Cluster) -> None:
    recording = recorded("log-long-line")
    once(lambda: text_of(printing, target_of(recording)))
    wanted = "".join(chunk["bytes"] for chunk in recording["response"]["chunks"])
    assert set(text_of(printing, target_of(recording)).strip()) == set(wanted.strip())
    assert text_of(printing, target_of(recorded("log-since"))) == recorded("log-since")["response"]["body"]


def test_a_log_that_is_followed_ends_when_its_pod_is_deleted(printing: Cluster) -> None:
    recording = recorded("log-follow-deleted")
    once(lambda: "tick" in text_of(printing, "/api/v1/namespaces/perf/pods/lg2/log"))
    with sent(printing, "GET", target_of(recording)) as answer:
        lines = [answer.readline()]
        with sent(printing, "DELETE", "/api/v1/namespaces/perf/pods/lg2", {"gracePeriodSeconds": 1}) as deleted:
            assert deleted.status == 200
        lines += list(answer)
    assert recording["response"]["end"] == "server closed"
    assert {line for line in lines if line.endswith(b"\n")} == {b"tick\n"}


def test_what_a_process_buffers_is_not_in_its_log(printing: Cluster) -> None:
    target = target_of(recorded("log-buffered"))
    once(lambda: "by now" in text_of(printing, target))
    assert text_of(printing, target).replace("by now\n", "") == recorded("log-buffered")["response"]["body"]
