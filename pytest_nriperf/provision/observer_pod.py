"""The one pod of a node that is outside the measured balloons: it reads the node's files and its counters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pytest_nriperf.errors import NriperfError, ProvisionError, WorkerError
from pytest_nriperf.provision import manifests
from pytest_nriperf.provision.api_errors import ApiFailure
from pytest_nriperf.provision.balloon_types import TypeChoice
from pytest_nriperf.provision.pod_grant import PodAccess
from pytest_nriperf.provision.pod_stream import PodStream
from pytest_nriperf.provision.pods import Patience
from pytest_nriperf.seams import Launch
from pytest_nriperf.settings import NodeProfile

# Runs wait for a second pod in place of a lost one, so not for long.
AGAIN_S = 30.0
RECONNECT_S = 10.0
# A lost one ends itself soon: the next run has another.
GONE_S = 20.0


class ObserverPod:
    """Made when it is first needed. `hidden` says why it does not see the node's processes, empty when it does."""

    def __init__(
        self,
        profile: NodeProfile,
        session_id: str,
        access: PodAccess,
        create: Callable[[manifests.PodPlan, Patience], None],
    ) -> None:
        self.hidden = "" if profile.host_pid else f"host_pid is not set in the profile of {profile.name}"
        self._profile = profile
        self._session_id = session_id
        self._access = access
        self._create = create
        self._name = ""
        self._made = 0
        self._given_up = ""

    def name(self) -> str:
        """The pod's name; it runs. Raises ProvisionError with why it cannot."""
        if not self._name:
            self._name = self._make(self._access.patience)
        return self._name

    def start(self, launch: Launch, archive: bytes) -> PodStream:
        """A process in the pod; `archive` is what the ConfigMap holds. A pod that is gone is made anew, once a session.
        Raises EnvironmentFault."""
        if self._given_up:
            raise ProvisionError(self._given_up)
        try:
            return self._start(launch, archive)
        except (WorkerError, ProvisionError) as error:
            if self._access.why_gone(self.name()) is None:
                raise
            if self._made > 1:
                self._given_up = f"{error.fact}; the one before it went too"
                raise
        short = replace(self._access.patience, start=AGAIN_S, image=AGAIN_S, balloon=AGAIN_S, silence=AGAIN_S)
        try:
            self._name = self._make(short)
            return self._start(launch, archive)
        except NriperfError as error:
            self._given_up = error.fact
            raise

    def forget(self) -> None:
        """It was deleted."""
        self._name, self._made, self._given_up = "", 0, ""

    def _start(self, launch: Launch, archive: bytes) -> PodStream:
        pod = self.name()
        here = launch.archive == archive
        path = manifests.archive_path(archive) if here else self._access.bring(pod, launch.archive)
        return self._access.start(pod, path, launch, reconnect_s=RECONNECT_S, gone_s=GONE_S)

    def _make(self, patience: Patience) -> str:
        """A pod in the reserved balloon: anywhere else it would take a CPU from those to measure on."""
        self._made += 1
        name = manifests.object_name(self._session_id, "observer", *([self._made] if self._made > 1 else []))
        plan = manifests.PodPlan(name, "observer", choice=TypeChoice("reserved"), host_pid=not self.hidden)
        try:
            self._create(plan, patience)
        except ApiFailure as error:
            if self.hidden or not _not_admitted(error):
                raise
            self.hidden = f"hostPID is not allowed in namespace {self._profile.namespace}"
            self._create(replace(plan, host_pid=False), patience)
        return name


def _not_admitted(error: ApiFailure) -> bool:
    """Whether an admission controller said no: of the server's own (403; our lack of rights is told with user and
    verb), or a webhook (400 unless it says otherwise)."""
    own = error.status == 403 and error.fact.startswith("forbidden: ")
    return own or (error.status in (400, 403) and "denied the request" in error.fact)
