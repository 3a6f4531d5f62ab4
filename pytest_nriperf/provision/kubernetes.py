"""A Kubernetes node with the NRI balloons policy: balloons are pods, their CPUs are the policy's and are verified.

In order, and undone in reverse: the node's lease, what a killed session left, the files, the policy (manage mode),
the pods.
"""

from __future__ import annotations

import atexit
import contextlib
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pytest_nriperf.balloons import BalloonSpec, Placement, place
from pytest_nriperf.errors import ProvisionError, SettingsError
from pytest_nriperf.provision import manifests
from pytest_nriperf.provision.api_errors import ApiFailure
from pytest_nriperf.provision.balloon_types import TypeChoice, choose_type, plan_types
from pytest_nriperf.provision.cluster import CONFIG_MAPS, NODES, PODS, Cluster
from pytest_nriperf.provision.honoured import Seen, granted_placement
from pytest_nriperf.provision.lease import DURATION_S, NodeLease
from pytest_nriperf.provision.leftovers import clean_up
from pytest_nriperf.provision.node_files import (
    Files,
    TopologyCache,
    files_of,
    fresh_words,
    reader,
    topology_of,
    topology_words,
)
from pytest_nriperf.provision.node_policy import NodePolicy
from pytest_nriperf.provision.observer_pod import ObserverPod
from pytest_nriperf.provision.pod_grant import PodAccess, PodGrant
from pytest_nriperf.provision.pods import Patience, delete_all, delete_files, wait_running
from pytest_nriperf.provision.policy_types import SessionTypes
from pytest_nriperf.provision.policy_zones import Zone, is_publishing, is_showing
from pytest_nriperf.provision.rights import check_rights
from pytest_nriperf.seams import Grant, Launch, ModelChoice, NodeDescription, Observer
from pytest_nriperf.settings import NodeProfile, Settings
from pytest_nriperf.topology import Topology

Json = dict[str, Any]


def kubernetes_provisioner(
    name: str, settings: Settings, archive: Callable[[], bytes] = bytes
) -> KubernetesProvisioner:
    """The node that a profile or a bare node name of the current context names."""
    profile = settings.nodes.get(name) or NodeProfile(name=name)
    if settings.manage:
        profile = replace(profile, policy="manage")
    cluster = Cluster(profile.context)
    profile = replace(profile, namespace=profile.namespace or cluster.namespace)
    found = _node(cluster, profile, name, known=name in settings.nodes)
    return KubernetesProvisioner(name, profile, cluster, found, archive=archive)


class KubernetesProvisioner:
    """Implements `seams.Provisioner`. `archive` gives what workers are started from; it travels in a ConfigMap."""

    def __init__(
        self,
        name: str,
        profile: NodeProfile,
        cluster: Cluster,
        node: Json,
        *,
        archive: Callable[[], bytes] = bytes,
        patience: Patience | None = None,
        lease_s: int = DURATION_S,
        cache: Path | None = None,
    ) -> None:
        self.name = name
        self.profile = profile
        self.node = str(node["metadata"]["name"])
        self.session_id = secrets.token_hex(4)
        self.policy = NodePolicy(cluster, self.node, profile.policy_namespace, shared=profile.shared)
        self._cluster = cluster
        self._object = node
        self._make_archive = archive
        self._archive = b""
        self._patience = patience or Patience()
        self._lease_s = lease_s
        self._cache = TopologyCache(cache)
        self._topology: Topology | None = None
        self._known: Files = {}
        self._fresh: Files | None = None
        self._undo = contextlib.ExitStack()
        self._lease: NodeLease | None = None
        self._files: manifests.Owner | None = None
        self._types = SessionTypes(self.policy, self.session_id)
        self._balloons = 0
        self._access = PodAccess(
            cluster, self.node, profile.namespace, profile.python, self._patience, why_lost=self._why_lost
        )
        self._observer = ObserverPod(profile, self.session_id, self._access, self._create_observer)

    # ------------------------------------------------------------------------------------------------- the seam's

    def topology(self) -> Topology:
        """The node's topology: from the cache of this boot, else read by a pod."""
        if self._topology is None:
            known = self._cache.find(self._object)
            answer = b"" if known is not None else self._access.ask(self.observer(), "show", *topology_words())
            self._known = files_of(answer, ("/sys",), self.node) if known is None else known
            self._topology = topology_of(self._known, self.node)
            if known is None:
                self._cache.store(self._object, self._known)
        return self._topology

    def describe(self) -> NodeDescription:
        """The node. Its files are read by a pod when the first of them is asked for."""
        spec = self.policy.effective()["spec"]
        topology = self.topology()
        facts = {
            **self.versions,
            "image": self.profile.image or manifests.STOCK_IMAGE,
            "policy mode": self.profile.policy,
        }
        return NodeDescription(
            name=self.name,
            allowed=self.policy.allowed(topology, spec),
            reserved=self.policy.reserved(topology, spec),
            read=self._read,
            facts=facts,
        )

    def recall(self) -> tuple[Topology, NodeDescription] | None:
        """The node as it is known without starting anything there."""
        if self._topology is None and self.topology_file is None:
            return None
        return self.topology(), self.describe()

    def check_model(self, choice: ModelChoice) -> None:
        """A real engine needs an image that has it. Raises SettingsError."""
        if choice.kind not in ("sim", "openai") and not self.profile.image:
            raise SettingsError(
                f"node {self.name}: model {choice.text} needs an image with its engine, and the profile names none",
                f'set image = "..." in [tool.nriperf.nodes.{self.name}] (docs/Dockerfile is one), or use a sim: model',
            )

    @contextlib.contextmanager
    def session(self, specs: Sequence[BalloonSpec]) -> Iterator[None]:
        """Hold the node; in manage mode its policy has our types for all `specs` meanwhile."""
        try:
            self.policy.check_installed()
            self._hold()
            if self.profile.policy == "manage":
                self._types = SessionTypes(self.policy, self.session_id)
                self._undo.enter_context(self._types.announced(specs, self._place, self.topology()))
                # Pods go before the policy changes back: a dead container would come back as a ghost.
                self._undo.callback(self._delete_pods)
            yield
        finally:
            self.close()

    @contextlib.contextmanager
    def provision(self, spec: BalloonSpec) -> Iterator[Grant]:
        """Pods for one balloon, created together, verified, deleted at the end and waited for."""
        if self._lease is None or self._files is None:
            raise ProvisionError(f"node {self.name} is not held", "use session() first")
        self._access.check_held()
        placement = self._place(spec)
        choices = self._choices(placement)
        self._balloons += 1
        plans = [
            manifests.PodPlan(
                manifests.object_name(self.session_id, self._balloons, number),
                f"balloon-{self._balloons}",
                placement.cpus,
                choice,
                manifests.memory_limit(placement, number, self.topology(), self.profile),
            )
            for number, choice in enumerate(choices)
        ]
        selector = f"{manifests.ours(session=self.session_id)},{manifests.ROLE}=balloon-{self._balloons}"
        with contextlib.ExitStack() as undo:
            undo.enter_context(self._types.opened())
            undo.callback(delete_all, self._cluster, self.profile.namespace, selector, self._patience)
            self._create(plans)
            granted, seen = self._verified(placement, plans)
            grant = PodGrant(granted, [plan.name for plan in plans], self._access, self._archive, seen)
            undo.callback(grant.close)
            yield grant

    # --------------------------------------------------------------------------------------------------- for others

    @property
    def cluster(self) -> Cluster:
        """The cluster's API."""
        return self._cluster

    @property
    def versions(self) -> dict[str, str]:
        """Of kubelet and container runtime, as the node tells them."""
        info = (self._object.get("status") or {}).get("nodeInfo") or {}
        words = {"kubelet": "kubeletVersion", "container runtime": "containerRuntimeVersion"}
        return {name: str(info.get(key, "")) for name, key in words.items()}

    @property
    def topology_file(self) -> Path | None:
        """Where this boot's topology is kept, None while it was not read."""
        return self._cache.path(self._object) if self._cache.find(self._object) is not None else None

    def observer(self) -> str:
        """The name of the pod of this node that is outside the balloons: it reads the node's files."""
        self._hold()
        return self._observer.name()

    def observe(self, launch: Launch) -> Observer:
        """A process in that pod, for counters."""
        self._hold()
        stream = self._observer.start(launch, self._archive)
        addresses = (self._object.get("status") or {}).get("addresses") or []
        own = [str(entry["address"]) for entry in addresses if entry.get("type") == "InternalIP"]
        host = f"[{own[0]}]" if own and ":" in own[0] else "".join(own[:1])
        return Observer(stream, self._observer.hidden, host)

    def documents(self, spec: BalloonSpec) -> list[Json]:
        """The objects that a balloon would get here, for people and `kubectl apply`."""
        placement = self._place(spec)
        session = "plan"
        documents: list[Json] = []
        if self.profile.policy == "manage":
            plan = plan_types(placement, self.topology(), session)
            choices: Sequence[TypeChoice] = plan.replicas
            documents.append(self.policy.document([plan], self.topology(), session))
        else:
            choices = self._choices(placement)
        documents.append(manifests.config_map(session, self.node, self.profile.namespace, b""))
        files = documents[-1]["metadata"]["name"]
        for number, choice in enumerate(choices):
            memory = manifests.memory_limit(placement, number, self.topology(), self.profile)
            name = manifests.object_name(session, 1, number)
            pod = manifests.PodPlan(name, "balloon-1", placement.cpus, choice, memory)
            documents.append(manifests.pod(pod, self.profile, self.node, session, files, None))
        return documents

    def close(self) -> None:
        """Undo everything. May be called twice."""
        atexit.unregister(self.close)
        try:
            self._undo.close()
        finally:
            self._undo = contextlib.ExitStack()
            self._lease, self._files = None, None
            self._observer.forget()
            self._cluster.keep = False
            self._cluster.close()

    # ------------------------------------------------------------------------------------------------------- inside

    def _hold(self) -> None:
        """The node's lease, the end of what a killed session left, and the files: once, until `close`."""
        if self._lease is not None:
            return
        try:
            self._take_hold()
        except BaseException:
            self.close()
            raise

    def _take_hold(self) -> None:
        self._cluster.keep = True
        check_rights(self._cluster, self.profile)
        where = self.profile
        lease = NodeLease(
            self._cluster, self.node, where.lease_namespace, self.session_id, self._lease_s, pods_in=where.namespace
        )
        self._lease = self._undo.enter_context(lease)
        # A node may be held before a session begins (its topology is read), and the session may never come.
        atexit.register(self.close)
        self._recover()
        self._undo.callback(self._delete_files)
        self._archive = self._make_archive()
        body = manifests.config_map(self.session_id, self.node, where.namespace, self._archive)
        stored = self._cluster.create(CONFIG_MAPS, body)
        self._files = manifests.Owner(stored["metadata"]["name"], stored["metadata"]["uid"])
        self._undo.callback(self._delete_pods)

    def _recover(self) -> None:
        """We hold the node, so whatever of ours is on it belongs to a session that is gone."""
        assert self._lease is not None
        clean_up(self._cluster, self.node, self._lease, self.profile.namespace, self._patience)
        try:
            restored = self.policy.restore()
        except ApiFailure as error:
            if error.status != 403:
                raise
            raise ProvisionError(
                f"node {self.name}: a session that was killed has left its balloons policy there, and we may not put "
                f"back what was there before ({error.fact})",
                "start once with an account that may (manage mode)",
            ) from error
        if restored:
            # An account that may not see the pods of others cannot tell which of them are ghosts.
            with contextlib.suppress(ApiFailure):
                self.policy.leave_no_ghosts(self.session_id)

    def _why_lost(self) -> str:
        return self._lease.why_lost() if self._lease is not None else ""

    def _delete_pods(self) -> None:
        selector = manifests.ours(session=self.session_id)
        delete_all(self._cluster, self.profile.namespace, selector, self._patience)
        self._observer.forget()

    def _delete_files(self) -> None:
        delete_files(self._cluster, self.profile.namespace, manifests.ours(session=self.session_id))

    def _read(self, path: str) -> bytes | None:
        if path in self._known:
            return reader(self._known)(path)
        if self._fresh is None:
            answer = self._access.ask(self.observer(), "show", *fresh_words())
            fresh = files_of(answer, ("/sys", "/proc"), self.node)
            self._cache.check(self._object, self._known, fresh)
            self._fresh = fresh
        return reader(self._fresh)(path)

    def _place(self, spec: BalloonSpec) -> Placement:
        description = self.describe()
        return place(spec, self.topology(), allowed=description.allowed, reserved=description.reserved)

    def _verified(self, placement: Placement, plans: Sequence[manifests.PodPlan]) -> tuple[Placement, list[Seen]]:
        """What the pods were granted, as the kernel and the plugin say."""
        effective, topology = self.policy.effective(), self.topology()
        spec = effective["spec"]

        def zones() -> list[Zone] | None:
            return self.policy.zones() if is_publishing(spec) else None

        shown = [plan.choice is not None and is_showing(spec, plan.choice.name) for plan in plans]
        seen = [self._access.seen(plan.name, zones, shown=each) for plan, each in zip(plans, shown, strict=True)]
        reserved = self.policy.reserved(topology, spec, guess=False)
        return granted_placement(placement, seen, topology, reserved, self.policy.rejection(effective)), seen

    def _choices(self, placement: Placement) -> Sequence[TypeChoice]:
        spec = placement.spec
        if self.profile.policy == "manage":
            return self._types.choices(placement, self.topology())
        effective = self.policy.effective()["spec"]
        choice = choose_type(spec, placement.cpus, effective, self.profile.balloon_types, self.profile.name, self.name)
        return [choice] * len(placement.replicas)

    def _create_observer(self, plan: manifests.PodPlan, patience: Patience) -> None:
        self._create([plan], patience)

    def _create(self, plans: Sequence[manifests.PodPlan], patience: Patience | None = None) -> None:
        assert self._files is not None
        for plan in plans:
            body = manifests.pod(plan, self.profile, self.node, self.session_id, self._files.name, self._files)
            self._cluster.create(PODS, body)
        names = [plan.name for plan in plans]
        wait_running(self._cluster, self.node, self.profile.namespace, names, patience or self._patience)


def _node(cluster: Cluster, profile: NodeProfile, name: str, *, known: bool) -> Json:
    """The node's object. SettingsError with the nodes that there are."""
    found = cluster.get(NODES, profile.node or name)
    if found is not None:
        return found
    try:
        nodes = ", ".join(sorted(entry["metadata"]["name"] for entry in cluster.find(NODES))[:20])
        there = f"its nodes: {nodes or 'none'}"
    except ApiFailure as error:
        there = f"its nodes are not known: {error.fact}"
    what = f"profile {name}: node {profile.node or name!r} is not" if known else f"{name!r} is no profile and no node"
    raise SettingsError(
        f"{what} in the cluster {cluster.address}, context {cluster.context} ({there})",
        f"mend the name, or write a profile [tool.nriperf.nodes.{name}] with node and context",
    )
