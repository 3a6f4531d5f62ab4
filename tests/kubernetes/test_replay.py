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

ROOT = Path(__file__).parents[2]
RECORDED = next(
    (p for p in (ROOT.parents[1] / "shared/data/kubernetes", ROOT.parent / "shared/data/kubernetes") if p.is_dir()),
    None,
)
SELECTION = json.loads((ROOT / "tests/data/kubernetes/answers.json").read_text())

# Server-side apply, tables, exact old versions and the expiry of continue tokens are not served; nor is rules review.
NOT_SERVED = {
    *("bp-apply", "bp-apply-force", "bp-get-table", "list-410-continue", "list-410-exact", "list-old-exact", "ssrr"),
    # Cluster facts of their own: versions, and how many versions a group has.
    *("api-version", "api-groups-topology"),
    # The recording of a repeated key is a dictionary, which has it once.
    "bp-create-duplicate-field-strict",
}
USERS = ("nobody", "nriperf")


def recordings() -> Iterator[Any]:
    """Single exchanges with a body, of the endpoints that the double serves."""
    for file in sorted(RECORDED.glob("*.json")) if RECORDED else []:
        found = json.loads(file.read_text())
        name = file.stem
        if not isinstance(found, dict) or "line" not in found.get("request", {}) or name in NOT_SERVED:
            continue
        if name.startswith(("vm-", "exec-", "log-", "watch-")) or "body" not in found["response"]:
            continue
        yield pytest.param(found, id=name)


@pytest.fixture(scope="module")
def server() -> Iterator[Cluster]:
    with Cluster() as made:
        for name in USERS:
            made.access.add_user(f"system:serviceaccount:perf:{name}", name)
        yield made


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


def executions() -> Iterator[Any]:
    wanted = [
        *("stdout", "stdout-v4", "v1-only", "no-protocol", "stderr-exit3", "signal", "stdout-only", "not-found"),
        *("bad-protocol", "no-streams", "missing-pod", "missing-container", "stdin-close-v5", "text-frame"),
        *("no-newline-utf8", "completed-pod"),
    ]
    for name in wanted if RECORDED else []:
        yield pytest.param(json.loads((RECORDED / f"exec-{name}.json").read_text()), id=name)  # type: ignore[operator]


@pytest.fixture(scope="module")
def pods(server: Cluster) -> Cluster:
    """exec1 runs, exec2 has completed."""
    import time

    server.add_node("xeon1", simulated_topology("sim:1s2c1t"), plugin=False)
    scripts = {"exec1": "import time; time.sleep(600)", "exec2": "pass"}
    for name, script in scripts.items():
        container = {"name": "c", "image": "x:1", "command": ["python3", "-c", script], "resources": {}}
        metadata = {"name": name, "namespace": "perf"}
        body: Json = {"metadata": metadata, "spec": {"restartPolicy": "Never", "containers": [container]}}
        from tests.kubernetes.double.validation import fill

        fill(PODS, body)
        server.store.create(PODS, body)
    end = time.monotonic() + 10
    while [pod["status"]["phase"] for pod in server.store.all(PODS)] != ["Running", "Succeeded"]:
        assert time.monotonic() < end
        time.sleep(0.01)
    return server


@pytest.mark.skipif(RECORDED is None, reason="the recordings are not beside the project")
@pytest.mark.parametrize("exchange", list(executions()))
def test_exec_speaks_the_recorded_frames(pods: Cluster, exchange: Json) -> None:
    import websocket

    lines = exchange["request"]["lines"]
    target = lines[0].split(" ")[1]
    protocols = [line.partition(":")[2].strip() for line in lines if line.lower().startswith("sec-websocket-protocol")]
    header = ["authorization: Bearer admin-token", *(f"sec-websocket-protocol: {each}" for each in protocols)]
    web = websocket.WebSocket(sslopt={"ca_certs": str(pods.certificate)})
    status = int(exchange["response"]["status_line"].split()[1])
    address = f"wss://127.0.0.1:{pods.server.server_address[1]}{target}"
    if status != 101:
        with pytest.raises(websocket.WebSocketBadStatusException, match=f"Handshake status {status} "):
            web.connect(address, header=header)
        return
    web.connect(address, header=header, timeout=10)
    for frame in exchange["frames"]:
        if frame["dir"] == "client->server" and frame["opcode"] in ("binary", "text"):
            payload = frame["payload"]
            data = bytes(payload) if isinstance(payload, list) else payload.encode()
            web.send(bytes([frame["channel"]]) + data, websocket.ABNF.OPCODE_BINARY)
    seen: dict[int, bytes] = {}
    first = None
    while True:
        opcode, frame = web.recv_data_frame(True)
        if opcode == websocket.ABNF.OPCODE_CLOSE:
            break
        first = frame.data if first is None else first
        seen[frame.data[0]] = seen.get(frame.data[0], b"") + frame.data[1:]
    web.shutdown()
    wanted: dict[int, bytes] = {}
    for frame in exchange["frames"]:
        if frame["dir"] == "server->client" and frame.get("opcode") == "binary":
            data = bytes.fromhex(frame["payload_hex"]) if "payload_hex" in frame else frame["payload"].encode()
            wanted[frame["channel"]] = wanted.get(frame["channel"], b"") + data
    assert first == bytes([1])
    assert {key: value for key, value in seen.items() if key != 3} == {k: v for k, v in wanted.items() if k != 3}
    assert (3 in seen) == (3 in wanted)
    if 3 in wanted:
        one, other = json.loads(seen[3]), json.loads(wanted[3])
        assert (set(one), one["status"], one.get("reason")) == (set(other), other["status"], other.get("reason"))
        if one.get("reason") == "NonZeroExitCode":
            assert one == other
