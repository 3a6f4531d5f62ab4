"""Execs as recorded from a real cluster: the same handshake, the same frames in the same order, the same end.

A recording is walked frame by frame: what the client sent is sent, what the server sent is waited for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import websocket

from tests.kubernetes.double.cluster import Cluster
from tests.kubernetes.double.kinds import PODS, Json
from tests.kubernetes.double.validation import fill
from tests.kubernetes.test_replay import RECORDED, pods, server, told
from tests.kubernetes.test_replay_lives import sent

__all__ = ["pods", "server"]

SELECTION = json.loads((Path(__file__).parents[1] / "data/kubernetes/execs.json").read_text())
NOT_SPOKEN = {
    "exec-tty-and-stderr": "a terminal is never asked for",
    "exec-tty-resize": "a terminal is never asked for",
    "exec-status-of-affinity": "which CPUs these are is the machine's: test_double_placements",
    "exec-oom": "a kill by the kernel is made by order: test_lost_pods",
    "exec-oom-pod-after": "a kill by the kernel is made by order: test_lost_pods",
    "exec-client-close-after": "what is left of exec-client-close: a test of its own",
    "exec-tcp-drop-after": "of what was dropped itself nothing is recorded",
}
# What is only long, and what others would find.
SHORTER = {
    "command=sleep&command=20": "command=sleep&command=0.2",
    "command=sleep&command=2&": "command=sleep&command=0.2&",
}
STATUS = 3


def recordings() -> Iterator[Any]:
    for file in sorted(RECORDED.glob("exec-*.json")) if RECORDED else []:
        if file.stem not in NOT_SPOKEN:
            yield pytest.param(json.loads(file.read_text()), id=file.stem)


@pytest.fixture(scope="module")
def several(pods: Cluster) -> Cluster:
    """Beside exec1, which runs, and exec2, which has completed: exec3 waits for ever, exec4 is there to be deleted."""
    mount = {"name": "v", "mountPath": "/x"}
    waiting = {"volumes": [{"name": "v", "configMap": {"name": "nosuch"}}]}
    for name, extra, mounts in (("exec3", waiting, [mount]), ("exec4", {}, [])):
        container = {"name": "c", "image": "x:1", "command": ["sleep", "600"], "resources": {}, "volumeMounts": mounts}
        spec = {"restartPolicy": "Never", "containers": [container], **extra}
        body: Json = {"metadata": {"name": name, "namespace": "perf"}, "spec": spec}
        fill(PODS, body)
        pods.store.create(PODS, body)
    pods.store.until(lambda: pods.store.get(PODS, "exec4", "perf")["status"]["phase"] == "Running")
    pods.store.until(lambda: "containerStatuses" in pods.store.get(PODS, "exec3", "perf")["status"])
    return pods


class Line:
    """The client's side of an exec: what came, by channel, and what kinds of frames."""

    def __init__(self, cluster: Cluster, exchange: Json) -> None:
        lines = exchange["request"]["lines"]
        self.target = lines[0].split(" ")[1]
        for long, short in SHORTER.items():
            self.target = self.target.replace(long, short)
        token = {"admin": "admin-token"}.get(exchange["request"]["as"], exchange["request"]["as"].rpartition(":")[2])
        offered = [
            line.partition(":")[2].strip() for line in lines if line.lower().startswith("sec-websocket-protocol")
        ]
        self.header = [f"authorization: Bearer {token}", *(f"sec-websocket-protocol: {each}" for each in offered)]
        self.web = websocket.WebSocket(sslopt={"ca_certs": str(cluster.certificate)})
        self.address = f"wss://127.0.0.1:{cluster.server.server_address[1]}"
        self.seen: dict[int, bytes] = {}
        self.sizes: list[int] = []
        self.kinds: list[int] = []

    def connect(self, pod: str = "exec1") -> None:
        """Raises WebSocketBadStatusException as it is answered."""
        self.web.connect(self.address + self.target.replace("/exec1/", f"/{pod}/"), header=self.header, timeout=20)

    def send(self, frame: Json) -> None:
        """What the recorded client sent."""
        if frame["opcode"] == "ping":
            self.web.ping()
        elif frame["opcode"] == "close":
            if websocket.ABNF.OPCODE_CLOSE not in self.kinds:
                self.web.send_close()
        else:
            payload = frame["payload"]
            data = bytes(payload) if isinstance(payload, list) else payload.encode()
            opcode = {"text": websocket.ABNF.OPCODE_TEXT, "binary": websocket.ABNF.OPCODE_BINARY}[frame["opcode"]]
            self.web.send(bytes([frame["channel"]]) + data, opcode)

    def receive(self) -> None:
        """One frame more."""
        opcode, frame = self.web.recv_data_frame(True)
        self.kinds.append(opcode)
        if opcode == websocket.ABNF.OPCODE_BINARY:
            channel, payload = frame.data[0], frame.data[1:]
            self.seen[channel] = self.seen.get(channel, b"") + payload
            self.sizes.append(len(payload))

    def until(self, frame: Json, wanted: dict[int, bytes]) -> None:
        """What the recorded server sent has come, or the end."""
        kinds = {"pong": websocket.ABNF.OPCODE_PONG, "close": websocket.ABNF.OPCODE_CLOSE}
        while websocket.ABNF.OPCODE_CLOSE not in self.kinds:
            if frame["opcode"] in kinds:
                if kinds[frame["opcode"]] in self.kinds:
                    return
            elif (
                len(self.seen.get(frame["channel"], b"")) >= len(wanted[frame["channel"]])
                and frame["channel"] in self.seen
            ):
                return
            self.receive()


def data_of(frame: Json) -> bytes:
    """The payload, also where the recorder kept only its beginning."""
    if "payload_hex" in frame:
        return bytes.fromhex(frame["payload_hex"])
    text = str(frame["payload"])
    return text[:1].encode() * int(frame["payload_len"]) if "payload_len" in frame else text.encode()


def same(data: bytes) -> bytes:
    """Without what is of one run: clocks, identities."""
    return re.sub(rb"[0-9a-f]{32,}", b"ID", re.sub(rb"\b\d{9,}\b", b"N", data))


def compare(cluster: Cluster, exchange: Json) -> None:
    line = Line(cluster, exchange)
    status = int(exchange["response"]["status_line"].split()[1])
    if status != 101:
        with pytest.raises(websocket.WebSocketBadStatusException) as refused:
            line.connect()
        assert refused.value.status_code == status
        answer = (refused.value.resp_body or b"").decode()
        body = exchange["response"].get("body") or ""
        assert told(json.loads(answer) if isinstance(body, dict) else answer) == told(body)
        return
    deleted = "deleted" in exchange["note"]
    line.connect("exec4" if deleted else "exec1")
    wanted: dict[int, bytes] = {}
    for frame in exchange["frames"]:
        if "eof" in frame:
            break
        if frame["dir"] == "client->server":
            line.send(frame)
            continue
        if frame["opcode"] == "binary":
            wanted[frame["channel"]] = wanted.get(frame["channel"], b"") + data_of(frame)
            if deleted and frame["channel"] == STATUS:
                with sent(cluster, "DELETE", "/api/v1/namespaces/perf/pods/exec4", {"gracePeriodSeconds": 1}) as answer:
                    assert answer.status == 200
        line.until(frame, wanted)
    line.web.shutdown()
    theirs = [frame for frame in exchange["frames"] if frame["dir"] == "server->client" and "opcode" in frame]
    assert line.sizes[0] == len(data_of(theirs[0] if theirs[0]["opcode"] == "binary" else theirs[1])) == 0
    assert max(line.sizes) <= 32768
    closes = [frame["dir"] for frame in exchange["frames"] if frame.get("opcode") == "close"]
    if closes[0] == "client->server":
        # What the command says meanwhile may still come.
        assert all(line.seen[channel].startswith(data) for channel, data in wanted.items())
    else:
        seen = {channel: same(data) for channel, data in line.seen.items()}
        assert seen == {channel: same(data) for channel, data in wanted.items()}
    assert websocket.ABNF.OPCODE_PING not in line.kinds
    assert line.kinds[-1] == websocket.ABNF.OPCODE_CLOSE


@pytest.mark.skipif(RECORDED is None, reason="the recordings are not beside the project")
@pytest.mark.parametrize("exchange", list(recordings()))
def test_exec_speaks_the_recorded_frames(several: Cluster, exchange: Json) -> None:
    compare(several, exchange)


@pytest.mark.skipif(RECORDED is None, reason="the recordings are not beside the project")
def test_a_command_outlives_its_connection(several: Cluster) -> None:
    exchange = json.loads((RECORDED / "exec-client-close.json").read_text())  # type: ignore[operator]
    before = set(several.nodes["xeon1"]._started)
    compare(several, exchange)
    (started,) = set(several.nodes["xeon1"]._started) - before
    # Another command begins and ends meanwhile.
    compare(several, SELECTION[0])
    assert started.poll() is None


@pytest.mark.parametrize("exchange", SELECTION, ids=lambda each: str(each["note"]))
def test_exec_speaks_the_frames_that_are_told(several: Cluster, exchange: Json) -> None:
    compare(several, exchange)
