"""Timelines of verdicts as recorded from a real cluster: what a watcher of the policies sees after one write.

The policies that were there are put there, the recorded request is sent, and everything that a watch then shows is
compared: types, names, generations, and what the plugin of the node says in which order.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_nriperf.topology import simulated_topology
from tests.kubernetes.double.cluster import Cluster
from tests.kubernetes.double.kinds import NODES, POLICIES, Json
from tests.kubernetes.test_replay import RECORDED
from tests.kubernetes.test_replay_lives import recorded, replayed, sent

SHAPES = {"xeon1": "sim:1s2c1t", "xeon2": "sim:2s4c2t-snc2"}
# Recorded while the node carried the group's label.
GROUPED = ("b-default-while-grouped", "b-group-create")
SELECTION = json.loads((Path(__file__).parents[1] / "data/kubernetes/timelines.json").read_text())
END = "the-end"
POLICIES_PATH = "/apis/config.nri/v1alpha1/namespaces/kube-system/balloonspolicies"


def names() -> list[str]:
    """Recordings of one write with what a watch showed."""
    found = []
    for file in sorted(RECORDED.glob("*.json")) if RECORDED else []:
        recording = json.loads(file.read_text())
        if isinstance(recording, dict) and "watch_policies" in recording:
            found.append(file.stem)
    return found


def parts(recording: Json) -> tuple[Json, list[Json], list[Json]]:
    """The exchange, the policies before it, the events after it."""
    at = recording.get("write_at_watch_t", recording.get("delete_at_watch_t"))
    events = recording["watch_policies"]
    before = [entry["event"]["object"] for entry in events if entry["t"] < at]
    return recording.get("write") or recording["delete"], before, [e["event"] for e in events if e["t"] >= at]


def shape(event: Json, node: str, first: dict[str, int]) -> Any:
    """What counts of an event; generations are counted from the beginning."""
    value, metadata = event["object"], event["object"]["metadata"]
    base = first.get(metadata["name"], 0)
    verdicts = None
    if "status" in value:
        nodes = value["status"].get("nodes") or {}
        verdicts = [
            (e["status"], e["generation"] - base, e["errors"][:60]) for name, e in nodes.items() if name == node
        ]
    return event["type"], metadata["name"], metadata["generation"] - base, verdicts


def prepared(cluster: Cluster, node: str, before: list[Json], *, grouped: bool) -> None:
    """A node whose plugin has taken up what was there."""
    cluster.add_node(node, simulated_topology(SHAPES[node]))
    cluster.store.remove(POLICIES, "default", "kube-system")
    if grouped:
        cluster.store.update(
            NODES, node, "", lambda value: value["metadata"]["labels"].update({"config.nri/group": "g"})
        )
    for value in before:
        cluster.put_policy(value["metadata"]["name"], value["spec"])
    for value in before:
        if node in ((value.get("status") or {}).get("nodes") or {}):
            cluster.store.until(functools.partial(speaks, cluster, value["metadata"]["name"], node))


def speaks(cluster: Cluster, name: str, node: str) -> bool:
    found = cluster.store.get(POLICIES, name, "kube-system")
    entry = ((found.get("status") or {}).get("nodes") or {}).get(node) or {}
    return bool(entry.get("generation") == found["metadata"]["generation"])


def watched(cluster: Cluster, node: str, act: Callable[[], None]) -> Iterator[Json]:
    """What a watch shows of an act, until the plugin speaks of a change that came after it."""
    path = f"{POLICIES_PATH}?watch=true&timeoutSeconds=20&resourceVersion={cluster.store.version}"
    with sent(cluster, "GET", path) as answer:
        act()
        spec = {"reservedResources": {"cpu": "1"}, "reservedPoolNamespaces": [END]}
        generation = cluster.put_policy(f"node.{node}", spec)["metadata"]["generation"]
        for line in answer:
            event: Json = json.loads(line)
            if event["object"]["spec"].get("reservedPoolNamespaces") == [END]:
                nodes = (event["object"].get("status") or {}).get("nodes") or {}
                if (nodes.get(node) or {}).get("generation") == generation:
                    return
            yield event


def told(cluster: Cluster, node: str, exchange: Json, before: list[Json]) -> list[Json]:
    """The events after a recorded request, once the plugin has had its say."""
    request = exchange["request"]
    name = (request.get("body") or {"metadata": {"name": ""}})["metadata"]["name"]
    old = cluster.store.find(POLICIES, name, "kube-system")
    if old is not None:
        request["body"]["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"]

    def act() -> None:
        status, answer = replayed(cluster, exchange)
        assert status == exchange["response"]["status"], answer
        if cluster.store.find(POLICIES, effective := follows(cluster, node), "kube-system"):
            cluster.store.until(lambda: speaks(cluster, effective, node))

    events = list(watched(cluster, node, act))
    ends = [event["object"]["spec"].get("reservedPoolNamespaces") == [END] for event in events]
    cut = ends.index(True)
    # What the plugin had to say late. That it leaves the other objects for the end's is no part of it.
    late = [event for event, end in zip(events[cut:], ends[cut:], strict=True) if not end and verdict_in(event, node)]
    return events[:cut] + late


def verdict_in(event: Json, node: str) -> bool:
    return node in ((event["object"].get("status") or {}).get("nodes") or {})


def follows(cluster: Cluster, node: str) -> str:
    """The name of the policy that a node follows, there or not."""
    labels = cluster.store.get(NODES, node)["metadata"]["labels"]
    if cluster.store.find(POLICIES, f"node.{node}", "kube-system"):
        return f"node.{node}"
    return f"group.{labels['config.nri/group']}" if "config.nri/group" in labels else "default"


@pytest.mark.skipif(RECORDED is None, reason="the recordings are not beside the project")
@pytest.mark.parametrize("name", names())
def test_a_watcher_of_the_policies_sees_what_was_recorded(name: str) -> None:
    exchange, before, wanted = parts(recorded(name))
    node = "xeon2" if name.startswith("vm-") else "xeon1"
    compare(node, exchange, before, wanted, grouped=name in GROUPED)


@pytest.mark.parametrize("case", SELECTION, ids=lambda case: str(case["name"]))
def test_a_watcher_of_the_policies_sees_what_is_told(case: Json) -> None:
    compare("xeon1", case["exchange"], case["before"], case["after"], grouped=case.get("grouped", False))


def compare(node: str, exchange: Json, before: list[Json], wanted: list[Json], *, grouped: bool) -> None:
    with Cluster() as cluster:
        prepared(cluster, node, before, grouped=grouped)
        first = {v["metadata"]["name"]: v["metadata"]["generation"] for v in cluster.store.all(POLICIES)}
        events = told(cluster, node, exchange, before)
        recorded_first = {value["metadata"]["name"]: value["metadata"]["generation"] for value in before}
        assert [shape(e, node, first) for e in events] == [shape(e, node, recorded_first) for e in wanted]


@pytest.mark.skipif(RECORDED is None, reason="the recordings are not beside the project")
def test_a_node_that_leaves_its_group_is_the_defaults_again() -> None:
    recording = recorded("b-group-unlabel")
    with Cluster() as cluster:
        values = [recording[key]["response"]["body"] for key in ("default", "group")]
        prepared(cluster, "xeon1", [{**v, "status": {}} for v in values], grouped=True)
        cluster.store.until(lambda: speaks(cluster, "group.g", "xeon1"))
        cluster.store.update(NODES, "xeon1", "", lambda node: node["metadata"]["labels"].pop("config.nri/group"))
        cluster.store.until(lambda: speaks(cluster, "default", "xeon1"))
        for value in values:
            found = cluster.store.get(POLICIES, value["metadata"]["name"], "kube-system")
            assert set(found["status"]["nodes"]) == set(value["status"]["nodes"])
