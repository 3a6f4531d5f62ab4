"""The double against exchanges recorded from a real cluster: same status, same reason, same body, same frames.

The recordings are no part of the project (they are looked for beside it, and their absence is no failure); a selection
of what they tell is in tests/data/kubernetes/answers.json.
"""

from __future__ import annotations

import http.client
import json
import re
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_nriperf.topology import simulated_topology
from tests.kubernetes.double.balloons_policy import Policy
from tests.kubernetes.double.cluster import Cluster
from tests.kubernetes.double.kinds import LEASES, PODS, POLICIES, Json, Kind
from tests.kubernetes.double.policy_config import Rejected, read_config
from tests.kubernetes.double.validation import fill

ROOT = Path(__file__).parents[2]
RECORDED = next(
    (p for p in (ROOT.parents[1] / "shared/data/kubernetes", ROOT.parent / "shared/data/kubernetes") if p.is_dir()),
    None,
)
SELECTION = json.loads((ROOT / "tests/data/kubernetes/answers.json").read_text())

NOT_SERVED = {
    "bp-apply": "server-side apply: never asked for",
    "bp-apply-force": "server-side apply: never asked for",
    "bp-get-table": "tables are what kubectl shows",
    "ssrr": "all rules of a user: they are asked one by one",
    "list-410-continue": "a token of its own: a test of its own",
}
# Recorded accounts by what they may do with pods/exec.
MAY_EXEC = {"nriperf": ("get", "create"), "xget": ("get",), "xcreate": ("create",)}


def recordings() -> Iterator[Any]:
    """Single exchanges with a body, of the endpoints that the double serves."""
    for file in sorted(RECORDED.glob("*.json")) if RECORDED else []:
        found = json.loads(file.read_text())
        name = file.stem
        if not isinstance(found, dict) or "line" not in found.get("request", {}) or name in NOT_SERVED:
            continue
        if name.startswith(("vm-", "exec-", "log-", "watch-")) or "body" not in found["response"]:
            continue
        if name == "bp-create-duplicate-field-strict":
            # Recorded was a dictionary, which has the repeated key once.
            found["request"]["body"] = json.dumps(found["request"]["body"]).replace(
                '"spec": {', '"spec": {"pinCPU": true, '
            )
        yield pytest.param(found, id=name)


@pytest.fixture(scope="module")
def server() -> Iterator[Cluster]:
    with Cluster() as made:
        for name in ("nobody", *MAY_EXEC):
            made.access.add_user(f"system:serviceaccount:perf:{name}", name)
            made.access.load(_exec_role(name, MAY_EXEC.get(name, ())))
        yield made


def _exec_role(name: str, verbs: tuple[str, ...]) -> list[Json]:
    metadata = {"name": name, "namespace": "perf"}
    rule = {"apiGroups": [""], "resources": ["pods/exec"], "verbs": list(verbs)}
    subjects = [{"kind": "ServiceAccount", "name": name, "namespace": "perf"}]
    reference = {"kind": "Role", "name": name}
    return [
        {"kind": "Role", "metadata": metadata, "rules": [rule]},
        {"kind": "RoleBinding", "metadata": metadata, "roleRef": reference, "subjects": subjects},
    ]


BASE: Json = {
    "reservedResources": {"cpu": "1"},
    "pinCPU": True,
    "pinMemory": False,
    "balloonTypes": [{"name": "a", "minCPUs": 2, "maxCPUs": 2, "preferNewBalloons": True}],
}


def ask(cluster: Cluster, exchange: Json) -> tuple[int, str, Any, list[tuple[str, str]]]:
    """Send the recorded request as it was."""
    request = exchange["request"]
    method, target, _ = request["line"].split(" ")
    user = str(request.get("as") or "admin")
    token = {"admin": "admin-token", "anonymous": ""}.get(user, user.rpartition(":")[2])
    headers = dict(request.get("headers") or {})
    if token:
        headers["Authorization"] = f"Bearer {token}"
    body = request.get("body")
    data = None if body is None else body.encode() if isinstance(body, str) else json.dumps(body).encode()
    connection = http.client.HTTPSConnection(
        "127.0.0.1",
        cluster.server.server_address[1],
        context=ssl.create_default_context(cafile=str(cluster.certificate)),
    )
    try:
        connection.request(method, target, body=data, headers=headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        parsed = json.loads(text) if "json" in (answer.headers.get("Content-Type") or "") else text
        return answer.status, answer.reason, parsed, answer.getheaders()
    finally:
        connection.close()


def prepare(cluster: Cluster, exchange: Json) -> None:
    """The objects that were there: told by the request and by the answer."""
    for kind in (POLICIES, LEASES):
        for value in cluster.store.all(kind):
            cluster.store.remove(kind, value["metadata"]["name"], value["metadata"]["namespace"])
    request, response = exchange["request"], exchange["response"]
    if "resourceVersionMatch=Exact" in request["line"]:
        # A version of before there was anything.
        request["line"] = re.sub(r"resourceVersion=\d+", "resourceVersion=1", request["line"])
    method, path = request["line"].split(" ")[:2]
    match = re.search(r"/namespaces/([^/]+)/(balloonspolicies|leases)(?:/([^/?]+))?", path)
    if match is None or response["status"] == 403 or response["status"] == 404:
        return
    namespace, plural, name = match.groups()
    kind = POLICIES if plural == "balloonspolicies" else LEASES
    body = request.get("body") if isinstance(request.get("body"), dict) else {}
    if method == "POST":
        if response["status"] != 409:
            return
        name = body["metadata"]["name"]
    if name is None:
        if method == "GET":
            for item in (response["body"] or {}).get("items") or []:
                put(cluster, kind, item, item["metadata"]["name"], namespace)
            if "metadata" in (response["body"] or {}) and response["body"]["metadata"].get("continue"):
                put(cluster, kind, {"spec": BASE}, "zzz", namespace)
        return
    stored = response["body"] if method == "GET" else body if method == "PUT" else {"spec": BASE}
    stored = put(cluster, kind, stored, name, namespace)
    if method == "PUT" and "resourceVersion" in body["metadata"] and response["status"] == 200:
        body["metadata"]["resourceVersion"] = stored["metadata"]["resourceVersion"]
    preconditions = body.get("preconditions") or {}
    if method == "DELETE" and response["status"] == 200 and "uid" in preconditions:
        preconditions["uid"] = stored["metadata"]["uid"]


def put(cluster: Cluster, kind: Kind, value: Json, name: str, namespace: str) -> Json:
    """An object with the content of a recorded one."""
    kept = {key: value["metadata"][key] for key in ("labels",) if key in value.get("metadata", {})}
    body = {key: member for key, member in value.items() if key != "metadata"}
    body = {
        "spec": BASE if kind is POLICIES else {},
        **body,
        "metadata": {**kept, "name": name, "namespace": namespace},
    }
    if kind is POLICIES:
        body = cluster.api.schemas.completed(kind, body)
        body["apiVersion"], body["kind"] = kind.api_version, kind.kind
    return cluster.store.create(kind, body)


def told(value: Any) -> Any:
    """What must be the same: numbers that name one object or moment left out."""
    if isinstance(value, dict):
        moving = {
            "managedFields",
            "uid",
            "resourceVersion",
            "creationTimestamp",
            "generation",
            "continue",
            "remainingItemCount",
        }
        return {
            key: told(member)
            for key, member in value.items()
            if key not in moving and key not in ("labels", "storageVersionHash", "verbs")
        }
    if isinstance(value, list):
        return [told(member) for member in value]
    if isinstance(value, str):
        value = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "UID", value)
        value = re.sub(r"current: \d+|\(\d+\)", "N", value)
        value = value.partition("continue key is not valid")[0]
        return re.sub(r'(patch: )?Invalid value: "\{.*\}": strict', "PATCHED strict", value)
    return value


def without_order(body: Any) -> Any:
    """Several causes of a refusal come in any order."""
    causes = (body.get("details") or {}).get("causes") if isinstance(body, dict) else None
    if not causes or len(causes) < 3:
        return body
    ordered = sorted(causes, key=lambda cause: str(cause["field"]))
    return {**body, "message": "", "details": {**body["details"], "causes": ordered}}


def compare(cluster: Cluster, exchange: Json) -> None:
    prepare(cluster, exchange)
    status, reason, body, headers = ask(cluster, exchange)
    response = exchange["response"]
    assert (status, reason) == (response["status"], response["reason"])
    wanted = response["body"]
    if isinstance(wanted, dict) and wanted.get("kind") == "SelfSubjectAccessReview":
        assert set(body) == set(wanted)
        return
    method = exchange["request"]["line"].partition(" ")[0]
    if isinstance(wanted, dict) and method in ("PUT", "PATCH") and status == 200:
        # What was stored before is not recorded: the form counts, and what was asked for.
        assert set(told(body)) == set(told(wanted))
        return
    assert told(without_order(body)) == told(without_order(wanted))
    warnings = [value for key, value in headers if key == "Warning"]
    assert warnings == [value for key, value in response.get("headers", []) if key == "Warning"]


@pytest.mark.skipif(RECORDED is None, reason="the recordings are not beside the project")
@pytest.mark.parametrize("exchange", list(recordings()))
def test_the_double_answers_as_recorded(server: Cluster, exchange: Json) -> None:
    compare(server, exchange)


@pytest.mark.skipif(RECORDED is None, reason="the recordings are not beside the project")
def test_a_list_is_not_continued_from_a_version_that_is_forgotten(server: Cluster) -> None:
    exchange = json.loads((RECORDED / "list-410-continue.json").read_text())  # type: ignore[operator]
    for name in ("a", "b"):
        put(server, POLICIES, {"spec": BASE}, name, "kube-system")
    line = exchange["request"]["line"]
    first = {"request": {**exchange["request"], "line": re.sub(r"&continue=[^ ]*", "", line)}}
    token = ask(server, first)[2]["metadata"]["continue"]
    put(server, POLICIES, {"spec": BASE}, "c", "kube-system")
    server.store.forget()
    again = {"request": {**exchange["request"], "line": re.sub(r"continue=[^ ]*", f"continue={token}", line)}}
    status, reason, body, _ = ask(server, again)
    assert (status, reason) == (exchange["response"]["status"], exchange["response"]["reason"])
    assert told(body) == told(exchange["response"]["body"])
    assert body["metadata"]["continue"]


@pytest.mark.parametrize("exchange", SELECTION["exchanges"], ids=lambda each: str(each["name"]))
def test_the_double_answers_as_told(server: Cluster, exchange: Json) -> None:
    compare(server, exchange)


def rejections() -> Iterator[Any]:
    for file in sorted(RECORDED.glob("b-reject-*.json")) if RECORDED else []:
        found = json.loads(file.read_text())
        spec = found["write"]["request"]["body"]["spec"]
        verdict = next(iter(found["object_after"]["response"]["body"]["status"]["nodes"].values()))
        yield pytest.param(spec, verdict["errors"], id=file.stem)


def rejection(spec: Json) -> str:
    topology = simulated_topology("sim:1s2c1t")
    with pytest.raises(Rejected) as caught:
        Policy(read_config(spec, topology), topology)
    return str(caught.value)


@pytest.mark.skipif(RECORDED is None, reason="the recordings are not beside the project")
@pytest.mark.parametrize(("spec", "text"), list(rejections()))
def test_the_plugin_rejects_in_the_recorded_words(spec: Json, text: str) -> None:
    assert rejection(spec)[:60] == text[:60]


@pytest.mark.parametrize("case", SELECTION["rejections"], ids=lambda each: str(each["errors"])[-40:])
def test_the_plugin_rejects_as_told(case: Json) -> None:
    assert rejection({**BASE, **case["spec"]}) == case["errors"]


@pytest.fixture(scope="module")
def pods(server: Cluster) -> Cluster:
    """exec1 runs, exec2 has completed."""
    server.add_node("xeon1", simulated_topology("sim:1s2c1t"), plugin=False)
    scripts = {"exec1": "import time; time.sleep(600)", "exec2": "pass"}
    for name, script in scripts.items():
        container = {"name": "c", "image": "x:1", "command": ["python3", "-c", script], "resources": {}}
        metadata = {"name": name, "namespace": "perf"}
        body: Json = {"metadata": metadata, "spec": {"restartPolicy": "Never", "containers": [container]}}
        fill(PODS, body)
        server.store.create(PODS, body)
    server.store.until(lambda: [pod["status"]["phase"] for pod in server.store.all(PODS)] == ["Running", "Succeeded"])
    return server
