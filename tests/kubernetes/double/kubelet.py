"""A node's agent: starts pods as local processes, pins them as the balloons plugin says, reports, and ends them."""

from __future__ import annotations

import atexit
import base64
import contextlib
import functools
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pytest_nriperf.topology import Topology, read_topology
from tests.kubernetes.double.answers import Refused
from tests.kubernetes.double.balloons_policy import Container
from tests.kubernetes.double.executing import CannotStart
from tests.kubernetes.double.kinds import CONFIG_MAPS, EVENTS, PODS, Json
from tests.kubernetes.double.node_files import write_proc
from tests.kubernetes.double.plugin import Plugin
from tests.kubernetes.double.store import Store, now
from tests.kubernetes.double.validation import quantity
from tests.sysfs_tree import sysfs_files, write_tree

MARK = "KUBERNETES_DOUBLE_POD"


@functools.cache
def sysfs_of(topology: Topology) -> Path:
    """A folder that looks like a node's /sys: made once, for all who only read it."""
    folder = Path(tempfile.mkdtemp(prefix="sysfs-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return write_tree(sysfs_files(topology), folder)


@dataclass(frozen=True)
class Timing:
    """How long things take, seconds. Real ones: retry 10 to 15, image 15, phase lag 1.1, removal up to 60."""

    retry: float = 0.15
    image_retry: float = 0.15
    phase_lag: float = 0.01
    deleted_lag: float = 0.01
    removal: float = 0.3
    force_kill: float = 0.05
    term_tick: float = 0.005


class Process:
    """A running container: its PID 1, its files, and everything that was started in it."""

    def __init__(self, folder: Path, mounts: dict[str, Path], environment: dict[str, str]) -> None:
        self.folder = folder
        self.mounts = mounts
        self.environment = environment
        self.cpus: frozenset[int] = frozenset()
        self.memory: tuple[int, ...] = ()
        self.main: subprocess.Popen[bytes] | None = None
        self.dead = False
        self.log = folder / "log"

    def translate(self, text: str) -> str:
        """A path inside the container as a path of this machine."""
        for mount, target in self.mounts.items():
            if text == mount or text.startswith(mount + "/"):
                return str(target) + text[len(mount) :]
        return text

    def pids(self) -> list[int]:
        """Every process that carries the container's mark."""
        mark = f"{MARK}={self.environment[MARK]}".encode()
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                with contextlib.suppress(OSError):
                    if mark in Path(f"/proc/{entry}/environ").read_bytes():
                        found.append(int(entry))
        return found

    def kill(self) -> None:
        """The end of the PID namespace: everything in it goes, and nothing can be started in it any more."""
        self.dead = True
        for _ in range(50):
            pids = self.pids()
            for pid in pids:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            if self.main is not None:
                self.main.wait()
            if not pids:
                return


class Kubelet:
    """One node. `images` are those that can be had; None means all."""

    def __init__(self, store: Store, node: str, topology: Topology, plugin: Plugin | None, folder: Path) -> None:
        self.store = store
        self.node = node
        self.topology = topology
        self.plugin = plugin
        self.folder = folder
        self.images: set[str] | None = None
        self.timing = Timing()
        self.lost = threading.Event()
        self.stopping = threading.Event()
        self.processes: dict[str, Process] = {}
        # What kubelet's static CPU manager gives to every container, over the plugin's head.
        self.exclusive: frozenset[int] | None = None
        self.orders: dict[str, tuple[str, str]] = {}
        self.machine_cpus = frozenset(os.sched_getaffinity(0))
        folder.mkdir(parents=True, exist_ok=True)
        self.native = topology.cpus == read_topology().cpus
        self.sysfs = Path("/sys") if self.native else sysfs_of(topology)
        self._numbers = iter(range(1 << 30))
        self._lock = threading.Lock()
        self._started: list[subprocess.Popen[bytes]] = []

    # ------------------------------------------------------------------------------------------------------ events

    def event(self, pod: Json, type_: str, reason: str, message: str) -> None:
        """An event of a pod; a repeated one counts up."""
        metadata = pod["metadata"]
        for known in self.store.all(EVENTS, metadata["namespace"]):
            same = known["involvedObject"]["uid"] == metadata["uid"]
            if same and (known["reason"], known["message"]) == (reason, message):

                def again(stored: Json) -> None:
                    stored["count"] += 1
                    stored["lastTimestamp"] = now()

                self.store.update(EVENTS, known["metadata"]["name"], metadata["namespace"], again)
                return
        reference = {"kind": "Pod", "apiVersion": "v1", **{k: metadata[k] for k in ("name", "namespace", "uid")}}
        name = f"{metadata['name']}.{uuid.uuid4().hex[:16]}"
        body: Json = {
            "metadata": {"name": name, "namespace": metadata["namespace"]},
            "involvedObject": reference,
            "type": type_,
            "reason": reason,
            "message": message,
            "count": 1,
            "firstTimestamp": now(),
            "lastTimestamp": now(),
            "source": {"component": "kubelet", "host": self.node},
            "reportingComponent": "kubelet",
        }
        self.store.create(EVENTS, body)

    # ------------------------------------------------------------------------------------------------- the runtime

    def mounts(self, pod: Json) -> dict[str, Path] | str:
        """The container's mounts, or the name of a ConfigMap that is missing."""
        namespace, container = pod["metadata"]["namespace"], pod["spec"]["containers"][0]
        with self._lock:
            home = self.folder / f"p{next(self._numbers)}"
        found: dict[str, Path] = {}
        volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes", [])}
        for number, mount in enumerate(container.get("volumeMounts", [])):
            volume, target = volumes[mount["name"]], home / f"v{number}"
            target.mkdir(parents=True, exist_ok=True)
            if "configMap" in volume:
                stored = self.store.find(CONFIG_MAPS, volume["configMap"]["name"], namespace)
                if stored is None:
                    return str(volume["configMap"]["name"])
                for name, text in (stored.get("data") or {}).items():
                    (target / name).write_text(text)
                for name, text in (stored.get("binaryData") or {}).items():
                    (target / name).write_bytes(base64.b64decode(text))
            found[mount["mountPath"]] = target
        if not self.native:
            found["/sys"] = self.sysfs
        found[""] = home
        return found

    def container_of(self, pod: Json) -> Container:
        """The container as the plugin is told of it."""
        metadata, container = pod["metadata"], pod["spec"]["containers"][0]
        resources = container["resources"]
        request = quantity((resources.get("requests") or {}).get("cpu", "0"))
        limit = quantity((resources.get("limits") or {}).get("cpu", "0"))
        return Container(
            metadata["namespace"],
            metadata["name"],
            metadata["uid"],
            container["name"],
            round(request * 1000),
            round(limit * 1000),
            dict(metadata.get("annotations") or {}),
        )

    def launch(self, pod: Json, mounts: dict[str, Path], container: Container) -> Process:
        """Start PID 1. FileNotFoundError names a command that is not there."""
        spec = pod["spec"]["containers"][0]
        home = mounts.pop("")
        home.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, MARK: pod["metadata"]["uid"]}
        environment |= {entry["name"]: str(entry.get("value", "")) for entry in spec.get("env", [])}
        process = Process(home, mounts, environment)
        self.pin(process, container)
        command = [process.translate(word) for word in [*spec.get("command", []), *spec.get("args", [])]]
        if not command or shutil.which(command[0]) is None:
            raise FileNotFoundError(command[0] if command else "")
        with self.bound(process), process.log.open("wb") as log:
            process.main = subprocess.Popen(
                command,
                env=environment,
                cwd=home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return process

    def pin(self, process: Process, container: Container) -> None:
        """Take over what the plugin says; without a word of it a container may use every CPU."""
        process.cpus = self.exclusive or (self.topology.online if container.pinned is None else container.pinned)
        everywhere = tuple(node.id for node in self.topology.nodes)
        process.memory = everywhere if container.memory is None else container.memory

    @contextlib.contextmanager
    def bound(self, process: Process) -> Iterator[None]:
        """What this thread starts has the container's affinity, where the machine has those CPUs."""
        before = os.sched_getaffinity(0)
        if process.cpus <= self.machine_cpus:
            os.sched_setaffinity(0, process.cpus)
        try:
            yield
        finally:
            os.sched_setaffinity(0, before)

    def start(self, pod: Json, container: str, command: list[str], *, stdin: bool) -> subprocess.Popen[bytes]:
        """An exec. CannotStart in the runtime's words."""
        process = self._process(pod)
        number = uuid.uuid4().hex
        if not command:
            raise CannotStart(
                f'failed to exec in container: failed to start exec "{number}": OCI runtime exec failed: exec failed: '
                "args must not be empty"
            )
        self.refresh_proc(process)
        words = [process.translate(word) for word in command]
        if shutil.which(words[0]) is None:
            raise CannotStart(
                f'failed to exec in container: failed to start exec "{number}": OCI runtime exec failed: exec failed: '
                f'unable to start container process: exec: "{command[0]}": stat {command[0]}: no such file or directory'
            )
        with self.bound(process):
            started = subprocess.Popen(
                words,
                env=process.environment,
                cwd=process.folder,
                stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        self._started.append(started)
        if process.dead:
            process.kill()
            started.wait()
        return started

    def keep(self, uid: str, process: Process) -> None:
        """A container that was launched is ours to end, also when the double ends meanwhile."""
        self.processes[uid] = process
        if self.stopping.is_set():
            process.kill()

    def refresh_proc(self, process: Process) -> None:
        """Where the node is not this machine: its /proc as the container would see it now. Who reads an earlier one
        goes on with that."""
        if not self.native:
            root = process.folder / f"proc{next(self._numbers)}"
            write_proc(root, process.pids(), process.cpus, process.memory)
            process.mounts["/proc"] = root

    def running(self, pod: Json, container: str) -> bool:
        """Whether PID 1 runs."""
        if self.lost.is_set():
            text = "error dialing backend: dial tcp 10.99.0.1:10250: connect: no route to host"
            raise Refused(500, text)
        process = self.processes.get(pod["metadata"]["uid"])
        return process is not None and process.main is not None and process.main.poll() is None

    def log(self, pod: Json, container: str) -> bytes | None:
        """What it printed."""
        process = self.processes.get(pod["metadata"]["uid"])
        return None if process is None else process.log.read_bytes()

    def _process(self, pod: Json) -> Process:
        process = self.processes.get(pod["metadata"]["uid"])
        if process is None or process.dead:
            raise CannotStart("container not found")
        return process

    # ----------------------------------------------------------------------------------------- what tests make happen

    def order(self, name: str, what: str, message: str = "") -> None:
        """Let a pod meet its fate: `oom` (PID 1 is killed) or `evict`."""
        for pod in self.store.all(PODS):
            if pod["metadata"]["name"] == name:
                self.orders[pod["metadata"]["uid"]] = (what, message)

    def close(self) -> None:
        """End every process."""
        self.stopping.set()
        for process in list(self.processes.values()):
            process.kill()
        for started in self._started:
            started.wait()
            if started.stdin is not None:
                with contextlib.suppress(OSError):
                    started.stdin.close()

    def pause(self, seconds: float) -> None:
        """Wait, shorter when the double ends."""
        self.stopping.wait(seconds)
