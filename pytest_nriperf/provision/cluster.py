"""The cluster's API through the official client: plain dictionaries in and out, errors of ours, retries where safe.

Objects are read raw, never as the client's models, so that fields which a version of the client does not know pass.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pytest_nriperf.errors import EnvironmentFault
from pytest_nriperf.provision.api_errors import ApiFailure, api_failure, exec_failure, no_configuration, retry_after
from pytest_nriperf.provision.exec_channel import ExecChannel

Json = dict[str, Any]

TIMEOUT_S = (10.0, 30.0)
PATIENCE_S = 30.0


@dataclass(frozen=True)
class Resource:
    """How the client reaches a kind: its API class and the noun in its methods; custom ones by group and plural."""

    noun: str
    api: str = "CoreV1Api"
    group: str = ""
    version: str = "v1"
    plural: str = ""

    @property
    def title(self) -> str:
        """As RBAC and kubectl name it."""
        name = self.plural or self.noun.replace("namespaced_", "").replace("_", "") + "s"
        return f"{name}.{self.group}" if self.group else name


PODS = Resource("namespaced_pod")
NODES = Resource("node")
CONFIG_MAPS = Resource("namespaced_config_map")
EVENTS = Resource("namespaced_event")
LEASES = Resource("namespaced_lease", "CoordinationV1Api", "coordination.k8s.io", plural="leases")
DAEMON_SETS = Resource("namespaced_daemon_set", "AppsV1Api", "apps", plural="daemonsets")
POLICIES = Resource("namespaced_custom_object", "CustomObjectsApi", "config.nri", "v1alpha1", "balloonspolicies")
ZONES = Resource(
    "cluster_custom_object", "CustomObjectsApi", "topology.node.k8s.io", "v1alpha2", "noderesourcetopologies"
)


class Cluster:
    """A cluster by a context of the kubeconfig (empty: the current one), or from inside a pod."""

    def __init__(self, context: str = "") -> None:
        try:
            from kubernetes import client, config
            from kubernetes.config import ConfigException
        except ImportError as error:
            raise EnvironmentFault(
                "the kubernetes package is not installed", "pip install 'pytest-nriperf[kubernetes]'"
            ) from error
        self._client = client
        try:
            configuration = client.Configuration()
            _load(config, configuration, context)
        except ConfigException as error:
            raise no_configuration(context, str(error)) from error
        # Retrying is decided here, where it is known what is safe to do twice.
        configuration.retries = False
        self._configuration = configuration
        self.context = context
        self.address = str(configuration.host)
        self._api = client.ApiClient(configuration)

    def close(self) -> None:
        """End idle connections."""
        with contextlib.suppress(AttributeError):
            self._api.rest_client.pool_manager.clear()

    # ------------------------------------------------------------------------------------------------------ objects

    def get(self, resource: Resource, name: str, namespace: str = "") -> Json | None:
        """An object, None when it is not there. Raises ApiFailure, also when its kind is not installed."""
        words = {"name": name} | ({"namespace": namespace} if namespace else {})
        try:
            return self._call(resource, "get" if resource.api == "CustomObjectsApi" else "read", words)
        except ApiFailure as error:
            if error.status == 404 and error.reason == "NotFound":
                return None
            raise

    def find(self, resource: Resource, namespace: str = "", *, labels: str = "", fields: str = "") -> list[Json]:
        """Objects of a namespace, or of all. Pages are put together."""
        words: Json = {"namespace": namespace} if namespace else {}
        words |= {key: value for key, value in (("label_selector", labels), ("field_selector", fields)) if value}
        noun = resource.noun
        if not namespace and noun.startswith("namespaced_"):
            noun = f"{noun.removeprefix('namespaced_')}_for_all_namespaces"
        found: list[Json] = []
        more = ""
        while True:
            page = self._call(resource, "list", {**words, "limit": 500, **({"_continue": more} if more else {})}, noun)
            found += page["items"]
            more = page.get("metadata", {}).get("continue", "")
            if not more:
                return found

    def create(self, resource: Resource, body: Json, *, dry_run: bool = False) -> Json:
        """A new object. When an answer was lost and the object is there with our body's labels, it is taken as done."""
        metadata = body["metadata"]
        words = {"namespace": metadata["namespace"]} if "namespace" in metadata else {}
        words |= {"body": body, "field_validation": "Strict", **({"dry_run": "All"} if dry_run else {})}
        tries: list[ApiFailure] = []
        try:
            return self._call(resource, "create", words, tries=tries)
        except ApiFailure as error:
            if error.reason == "AlreadyExists" and tries:
                found = self.get(resource, metadata["name"], metadata.get("namespace", ""))
                if found is not None and _carries(found, body):
                    return found
            raise

    def replace(self, resource: Resource, body: Json) -> Json:
        """A changed object; its resourceVersion must be the one that was read. Raises ApiFailure with reason Conflict.

        A lost answer makes the second try a conflict with ourselves: it is recognised by the stored content.
        """
        metadata = body["metadata"]
        words = {"name": metadata["name"], "body": body, "field_validation": "Strict"}
        words |= {"namespace": metadata["namespace"]} if "namespace" in metadata else {}
        tries: list[ApiFailure] = []
        try:
            return self._call(resource, "replace", words, tries=tries)
        except ApiFailure as error:
            if error.reason == "Conflict" and tries:
                found = self.get(resource, metadata["name"], metadata.get("namespace", ""))
                if found is not None and is_part_of(body.get("spec"), found.get("spec")) and _carries(found, body):
                    return found
            raise

    def delete(self, resource: Resource, name: str, namespace: str = "", *, uid: str = "", grace_s: int = -1) -> bool:
        """Delete an object; False when it was gone. With `uid` only that very object. Never a grace of 0."""
        options: Json = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if uid:
            options["preconditions"] = {"uid": uid}
        if grace_s >= 0:
            options["gracePeriodSeconds"] = max(1, grace_s)
        words = {"name": name, "body": options} | ({"namespace": namespace} if namespace else {})
        try:
            self._call(resource, "delete", words)
        except ApiFailure as error:
            if error.status == 404 or (uid and error.reason == "Conflict"):
                return False
            raise
        return True

    def log(self, name: str, namespace: str, lines: int = 20) -> str:
        """The last lines of a pod's log, empty where there is none."""
        try:
            words = {"name": name, "namespace": namespace, "tail_lines": lines}
            return str(self._raw(PODS, "read_namespaced_pod_log", words, []), "utf-8", "replace")
        except ApiFailure:
            return ""

    def may(self, verb: str, resource: str, namespace: str = "", group: str = "") -> bool:
        """Whether our user may do it (`resource` may be `pods/exec`)."""
        name, _, sub = resource.partition("/")
        asked = {"verb": verb, "resource": name, "subresource": sub, "group": group, "namespace": namespace}
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {key: value for key, value in asked.items() if value}},
        }
        review = Resource("self_subject_access_review", "AuthorizationV1Api", "authorization.k8s.io")
        answer = self._call(review, "create", {"body": body})
        return bool(answer.get("status", {}).get("allowed"))

    def exec(self, name: str, namespace: str, command: list[str]) -> ExecChannel:
        """Start a command in a pod. Raises ApiFailure when it cannot be, ConnectionLost when nothing was reached."""
        from kubernetes.client.exceptions import ApiException
        from kubernetes.stream import stream

        # `stream` takes the client over while it connects: each connection needs one of its own.
        core = self._client.CoreV1Api(self._client.ApiClient(self._configuration))
        flags = {"stdin": True, "stdout": True, "stderr": True, "tty": False, "binary": True, "_preload_content": False}
        try:
            web = stream(core.connect_get_namespaced_pod_exec, name, namespace, command=command, **flags)
        except ApiException as error:
            raise exec_failure(error, name, namespace) from error
        return ExecChannel(web)

    # ------------------------------------------------------------------------------------------------------- inside

    def _call(
        self, resource: Resource, verb: str, words: Json, noun: str = "", tries: list[ApiFailure] | None = None
    ) -> Json:
        if resource.api == "CustomObjectsApi":
            words = {"group": resource.group, "version": resource.version, "plural": resource.plural, **words}
        found: Json = json.loads(self._raw(resource, f"{verb}_{noun or resource.noun}", words, tries))
        return found

    def _raw(self, resource: Resource, method: str, words: Json, tries: list[ApiFailure] | None) -> bytes:
        """The answer's bytes. Tried again while the server is busy or out of reach; `tries` collects what went
        wrong before, when the caller must know that it may have been done."""
        call = getattr(getattr(self._client, resource.api)(self._api), method)
        failures: list[ApiFailure] = [] if tries is None else tries
        deadline = time.monotonic() + PATIENCE_S
        for delay in _delays():
            try:
                response = call(**words, _preload_content=False, _request_timeout=TIMEOUT_S)
                try:
                    return bytes(response.data)
                finally:
                    response.release_conn()
            except Exception as error:
                failure, pause = self._translate(error, resource, method, words)
                if failure is None:
                    raise
                if pause is None or time.monotonic() + max(pause, delay) > deadline:
                    raise failure from error
                failures.append(failure)
                time.sleep(max(pause, delay))
        raise AssertionError

    def _translate(
        self, error: Exception, resource: Resource, method: str, words: Json
    ) -> tuple[ApiFailure | None, float | None]:
        """The error in our words, and after how many seconds to try again (None: never)."""
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        if isinstance(error, ApiException):
            failure = api_failure(error, resource.title, words)
            if failure.status in (429, 500, 502, 503, 504):
                return failure, retry_after(error)
            return failure, None
        if isinstance(error, HTTPError | OSError):
            text = re.sub(r"<[^>]*>:? ?", "", str(error))
            fact = f"the API server {self.address} does not answer ({method.replace('_', ' ')}: {text[:200]})"
            failure = ApiFailure(fact, "check the network and `kubectl cluster-info`", reason="Unreachable")
            return failure, None if "certificate" in text else 0.0
        return None, None


def _load(config: Any, configuration: Any, context: str) -> None:
    # The client looks at KUBECONFIG when it is imported: too early.
    place = {"config_file": os.environ.get("KUBECONFIG") or None, "client_configuration": configuration}
    try:
        config.load_kube_config(context=context or None, **place)
    except config.ConfigException:
        if context:
            raise
        try:
            config.load_incluster_config(client_configuration=configuration)
        except config.ConfigException:
            # The kubeconfig's own complaint says more.
            config.load_kube_config(**place)


def _delays() -> Iterator[float]:
    delay = 0.1
    while True:
        yield delay
        delay = min(delay * 2, 3.0)


def _carries(found: Json, body: Json) -> bool:
    labels, asked = found["metadata"].get("labels") or {}, body["metadata"].get("labels") or {}
    annotations, wanted = found["metadata"].get("annotations") or {}, body["metadata"].get("annotations") or {}
    return is_part_of(asked, labels) and is_part_of(wanted, annotations)


def is_part_of(asked: Any, stored: Any) -> bool:
    """Whether all that was asked is stored: the server fills in defaults beside it.

    >>> is_part_of({"a": [{"b": 1}]}, {"a": [{"b": 1, "c": 2}], "d": 3})
    True
    """
    if isinstance(asked, dict) and isinstance(stored, dict):
        return all(key in stored and is_part_of(value, stored[key]) for key, value in asked.items())
    if isinstance(asked, list) and isinstance(stored, list):
        return len(asked) == len(stored) and all(map(is_part_of, asked, stored))
    return bool(asked == stored)


def wait_until(holds: Callable[[], Any], timeout_s: float, first_s: float = 0.05) -> Any:
    """What `holds` gives once it is true, its last value after `timeout_s`. Asks less and less often."""
    deadline = time.monotonic() + timeout_s
    delay = first_s
    while True:
        value = holds()
        left = deadline - time.monotonic()
        if value or left <= 0:
            return value
        time.sleep(min(delay, left))
        delay = min(delay * 1.5, 1.0)
