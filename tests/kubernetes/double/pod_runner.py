"""The life of one pod on its node, in a thread of its own."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import time
from pathlib import Path

from tests.kubernetes.double.balloons_policy import Container, NoBalloon
from tests.kubernetes.double.kinds import PODS, Json
from tests.kubernetes.double.kubelet import Kubelet, Process
from tests.kubernetes.double.pod_status import CREATING, status_of, terminated, waiting
from tests.kubernetes.double.store import now

_NRI = (
    "failed to create containerd container: failed to get NRI adjustment for container: rpc error: code = Unknown "
    "desc = failed to allocate resources: balloons: balloon allocation for container {path} failed: balloons: {text}"
)


class Ended(Exception):
    """The pod goes while it was not running."""


class PodRunner(threading.Thread):
    """From a bound pod to its end."""

    def __init__(self, kubelet: Kubelet, pod: Json) -> None:
        super().__init__(name=f"pod-{pod['metadata']['name']}", daemon=True)
        self.kubelet = kubelet
        self.pod = pod
        self.name_, self.namespace, self.uid = (pod["metadata"][key] for key in ("name", "namespace", "uid"))
        self.started = time.monotonic()
        self.container: Container | None = None
        self.last: Json = {}

    # ------------------------------------------------------------------------------------------------------- states

    def now(self) -> Json | None:
        """The pod as it is stored, None when it is gone (or another one has its name)."""
        stored = self.kubelet.store.find(PODS, self.name_, self.namespace)
        return stored if stored is not None and stored["metadata"]["uid"] == self.uid else None

    def report(self, phase: str, state: Json, **extra: object) -> None:
        """Write the status, unless the node is lost."""
        if self.kubelet.lost.is_set():
            return
        sandbox = bool(extra.pop("sandbox", True))
        self.last = {"phase": phase, "state": state}

        def change(stored: Json) -> None:
            if stored["metadata"]["uid"] == self.uid:
                stored["status"] = status_of(stored, phase, state, sandbox=sandbox, extra=extra)

        self.kubelet.store.update(PODS, self.name_, self.namespace, change)

    def must_go(self) -> bool:
        """Whether somebody deleted it, or the double ends."""
        stored = self.now()
        return self.kubelet.stopping.is_set() or stored is None or "deletionTimestamp" in stored["metadata"]

    def wait(self, seconds: float) -> None:
        """Wait; Ended when the pod is deleted meanwhile."""
        end = time.monotonic() + seconds
        while True:
            if self.must_go():
                raise Ended
            if time.monotonic() >= end:
                return
            self.kubelet.pause(min(0.01, seconds))

    def event(self, type_: str, reason: str, message: str) -> None:
        """An event of this pod."""
        self.kubelet.event(self.pod, type_, reason, message)

    # --------------------------------------------------------------------------------------------------------- life

    def run(self) -> None:
        """Everything."""
        try:
            process = self._begin()
        except Ended:
            if self.last:
                self.report("Pending", CREATING)
                unknown = "The container could not be located when the pod was terminated"
                self.report("Failed", terminated(137, "ContainerStatusUnknown", unknown))
            self.kubelet.store.remove(PODS, self.name_, self.namespace, uid=self.uid)
            return
        if process is not None:
            self._live(process)

    def _begin(self) -> Process | None:
        """Up to Running; None when it failed for good."""
        self.wait(0)
        self.report("Pending", CREATING, sandbox=False)
        mounts = self.kubelet.mounts(self.pod)
        while isinstance(mounts, str):
            volumes = [v["name"] for v in self.pod["spec"]["volumes"] if v.get("configMap", {}).get("name") == mounts]
            text = f'MountVolume.SetUp failed for volume "{volumes[0]}" : configmap "{mounts}" not found'
            self.event("Warning", "FailedMount", text)
            self.wait(self.kubelet.timing.retry)
            mounts = self.kubelet.mounts(self.pod)
        self.report("Pending", CREATING)
        self._pull()
        self._create()
        assert self.container is not None
        self.event("Normal", "Created", "Container created")
        try:
            process = self.kubelet.launch(self.pod, mounts, self.container)
        except FileNotFoundError as error:
            self._start_error(str(error))
            return None
        self.kubelet.keep(self.uid, process)
        self.event("Normal", "Started", "Container started")
        self.report("Running", {"running": {"startedAt": now()}}, podIP="10.99.0.22", podIPs=[{"ip": "10.99.0.22"}])
        return process

    def _pull(self) -> None:
        spec = self.pod["spec"]["containers"][0]
        image, images = spec["image"], self.kubelet.images
        tries = 0
        if re.search(r"[^\w./:@-]", image) or image != image.lower():
            text = f'Failed to apply default image tag "{image}": couldn\'t parse image name "{image}": '
            text += "invalid reference format"
            self.report("Pending", waiting("InvalidImageName", text))
            self.event("Warning", "InspectFailed", text)
            self.event("Warning", "Failed", "Error: InvalidImageName")
            while True:
                self.wait(self.kubelet.timing.image_retry)
        while images is not None and image not in images:
            if spec["imagePullPolicy"] == "Never":
                text = f'Container image "{image}" is not present with pull policy of Never'
                self.report("Pending", waiting("ErrImageNeverPull", text))
                self.event("Warning", "ErrImageNeverPull", text)
                self.event("Warning", "Failed", "Error: ErrImageNeverPull")
            else:
                cause = f'failed to pull and unpack image "{image}": failed to resolve image: {image}: not found'
                back_off = f'Back-off pulling image "{image}": ErrImagePull: {cause}'
                state = waiting("ImagePullBackOff", back_off) if tries % 2 else waiting("ErrImagePull", cause)
                self.report("Pending", state)
                if tries % 2:
                    self.event("Normal", "BackOff", f'Back-off pulling image "{image}"')
                else:
                    self.event("Normal", "Pulling", f'Pulling image "{image}"')
                self.event("Warning", "Failed", f'Failed to pull image "{image}": {cause}')
            tries += 1
            self.wait(self.kubelet.timing.image_retry)
        self.image_event(image)

    def image_event(self, image: str) -> None:
        """What kubelet says before each try to create the container."""
        text = f'Container image "{image}" already present on machine and can be accessed by the pod'
        self.event("Normal", "Pulled", text)

    def _create(self) -> None:
        """Ask the plugin until the container fits."""
        container = self.kubelet.container_of(self.pod)
        plugin = self.kubelet.plugin
        while plugin is not None:
            try:
                plugin.create(container)
                break
            except NoBalloon as error:
                text = _NRI.format(path=container.path, text=error)
                self.report("Pending", waiting("CreateContainerError", text))
                self.event("Warning", "Failed", f"Error: {text}")
            self.wait(self.kubelet.timing.retry)
            self.image_event(self.pod["spec"]["containers"][0]["image"])
        self.container = container

    def _start_error(self, command: str) -> None:
        text = (
            "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create "
            f'failed: unable to start container process: exec: "{command}": stat {command}: no such file or directory'
        )
        self.event("Warning", "Failed", f"Error: {text}")
        state = terminated(128, "StartError", text)
        self.report("Pending", state)
        self._stopped()
        self.kubelet.pause(self.kubelet.timing.phase_lag)
        self.report("Failed", state)
        self._wait_for_deletion(state)

    def _live(self, process: Process) -> None:
        """From Running to the end."""
        main = process.main
        assert main is not None
        deadline = self.pod["spec"].get("activeDeadlineSeconds")
        forced = False
        while main.poll() is None and not self.kubelet.stopping.is_set():
            stored = self.now()
            if stored is None:
                forced = True
                self._killing()
                self.kubelet.pause(self.kubelet.timing.force_kill)
                process.kill()
            elif "deletionTimestamp" in stored["metadata"] and not self.kubelet.lost.is_set():
                self._terminate(process, stored["metadata"]["deletionGracePeriodSeconds"])
            elif self.uid in self.kubelet.orders or (deadline and time.monotonic() - self.started > deadline):
                self._end_by_order(process)
                return
            else:
                self._repin(process)
                self.kubelet.pause(0.01)
        if self.kubelet.stopping.is_set():
            return
        if forced:
            self._stopped()
            self._remove_later()
            return
        process.kill()
        self._finished(main.returncode)

    def _repin(self, process: Process) -> None:
        """A changed configuration moves running containers."""
        assert self.container is not None
        before = process.cpus
        self.kubelet.pin(process, self.container)
        if process.cpus != before and process.cpus <= self.kubelet.machine_cpus:
            for pid in process.pids():
                for task in _tasks(pid):
                    with contextlib.suppress(OSError):
                        os.sched_setaffinity(task, process.cpus)

    def _killing(self) -> None:
        self.event("Normal", "Killing", f"Stopping container {self.pod['spec']['containers'][0]['name']}")

    def _terminate(self, process: Process, grace: float) -> None:
        main = process.main
        assert main is not None
        self._killing()
        end = time.monotonic() + grace
        sent = False
        while main.poll() is None and time.monotonic() < end and not self.kubelet.stopping.is_set():
            # One that has hardly begun gets it as soon as it can; a real one would have lost it.
            with contextlib.suppress(OSError):
                if not sent and _handles(main.pid, signal.SIGTERM):
                    os.kill(main.pid, signal.SIGTERM)
                    sent = True
            self.kubelet.pause(self.kubelet.timing.term_tick)
        process.kill()

    def _end_by_order(self, process: Process) -> None:
        what, message = self.kubelet.orders.pop(self.uid, ("deadline", ""))
        process.kill()
        self._stopped()
        if what == "oom":
            self.report("Running", terminated(137, "OOMKilled"))
            self.kubelet.pause(self.kubelet.timing.phase_lag)
            self.report("Failed", terminated(137, "OOMKilled"))
            self._wait_for_deletion(terminated(137, "OOMKilled"))
            return
        texts = {
            "evict": ("Evicted", message or "The node was low on resource: memory."),
            "deadline": ("DeadlineExceeded", "Pod was active on the node longer than the specified deadline"),
        }
        reason, text = texts[what]
        self.event("Normal" if what == "deadline" else "Warning", reason, text)
        self._killing()
        state = terminated(137, "Error")
        self.report("Failed", state, reason=reason, message=text)
        self._wait_for_deletion(state)

    def _finished(self, code: int) -> None:
        status = code if code >= 0 else 128 - code
        state = terminated(status, "Completed" if status == 0 else "Error")
        self._stopped()
        deleted = self.must_go()
        if not deleted:
            self.report("Running", state)
            self.kubelet.pause(self.kubelet.timing.phase_lag)
        self.report("Failed" if status else "Succeeded", state)
        if deleted:
            # Asked to go while it ran: the container is removed before the object is.
            self._removed()
            self.kubelet.pause(self.kubelet.timing.deleted_lag)
            self.kubelet.store.remove(PODS, self.name_, self.namespace, uid=self.uid)
        else:
            self._wait_for_deletion(state)

    def _wait_for_deletion(self, state: Json) -> None:
        """Ended by itself: the dead container stays in the runtime until kubelet's garbage collection, some time
        after the object is gone."""
        while not self.must_go():
            self.kubelet.pause(0.01)
        self.kubelet.store.remove(PODS, self.name_, self.namespace, uid=self.uid)
        self._remove_later()

    def _remove_later(self) -> None:
        self.kubelet.pause(self.kubelet.timing.removal)
        self._removed()

    def _stopped(self) -> None:
        if self.container is not None and self.kubelet.plugin is not None:
            self.kubelet.plugin.stop(self.container)

    def _removed(self) -> None:
        if self.container is not None and self.kubelet.plugin is not None:
            self.kubelet.plugin.remove(self.container)


def _handles(pid: int, number: int) -> bool:
    """Whether a process catches or waits for a signal: PID 1 of a namespace gets no other.

    What it waits for (`sigwait`) stands in none of its masks meanwhile; the kernel keeps it apart.
    """
    if "sigtimedwait" in Path(f"/proc/{pid}/wchan").read_text():
        return True
    masks = [
        int(line.split()[1], 16)
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith(("SigCgt:", "SigBlk:"))
    ]
    return any(mask >> (number - 1) & 1 for mask in masks)


def _tasks(pid: int) -> list[int]:
    try:
        return [int(task) for task in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return []
