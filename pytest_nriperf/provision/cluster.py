"""The cluster's API through the official client: plain dictionaries in and out, errors of ours, retries where safe.

Of the client its configuration, connections and WebSockets are used, not its models and API classes: they take seconds
to import, and drop fields that their version does not know before the server could complain about them.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from pytest_nriperf.errors import EnvironmentFault
from pytest_nriperf.provision.api_errors import ApiFailure, api_failure, exec_failure, no_configuration, retry_after
from pytest_nriperf.provision.exec_channel import ExecChannel

Json = dict[str, Any]

TIMEOUT_S = (10.0, 30.0)
# For a server that answers, and for one that never has (the address may be wrong) or does not any more: what is to be
# undone then would wait as long for each piece.
PATIENCE_S = 30.0
FIRST_S = 10.0
PAGE = "500"
OWN_NAMESPACE = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"


@dataclass(frozen=True)
class Resource:
    """A kind by the words of its path; the core group's name is empty."""

    plural: str
    group: str = ""
    version: str = "v1"

    @property
    def title(self) -> str:
        """As RBAC and kubectl name it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def path(self, namespace: str = "", name: str = "", sub: str = "") -> str:
        """Of a collection or an object."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        words = [root, *(["namespaces", namespace] if namespace else []), self.plural, name, sub]
        return "/".join(quote(word, safe="/") for word in words if word)


PODS = Resource("pods")
NODES = Resource("nodes")
CONFIG_MAPS = Resource("configmaps")
EVENTS = Resource("events")
LEASES = Resource("leases", "coordination.k8s.io")
DAEMON_SETS = Resource("daemonsets", "apps")
POLICIES = Resource("balloonspolicies", "config.nri", "v1alpha1")
ZONES = Resource("noderesourcetopologies", "topology.node.k8s.io", "v1alpha2")
REVIEWS = Resource("selfsubjectaccessreviews", "authorization.k8s.io")


@dataclass
class Call:
    """One request; `failures` are the tries that went wrong before."""

    method: str
    resource: Resource
    namespace: str = ""
    name: str = ""
    sub: str = ""
    query: dict[str, str] = field(default_factory=dict)
    body: Json | None = None
    failures: list[ApiFailure] = field(default_factory=list)

    @property
    def path(self) -> str:
        """Without the query."""
        return self.resource.path(self.namespace, self.name, self.sub)


class Cluster:
    """A cluster by a context of the kubeconfig (empty: the current one), or from inside a pod. `namespace` is the one
    that the context names."""

    def __init__(self, context: str = "") -> None:
        try:
            from kubernetes import client, config
        except ImportError as error:
            raise EnvironmentFault(
                "the kubernetes package is not installed", "pip install 'pytest-nriperf[kubernetes]'"
            ) from error
        try:
            configuration = client.Configuration()
            self.context, self.namespace = _load(config, configuration, context)
        # Of a file that is no kubeconfig the client says whatever its first use of it gives.
        except Exception as error:
            raise no_configuration(context, f"{error}" or type(error).__name__) from error
        # Retrying is decided here, where it is known what is safe to do twice.
        configuration.retries = False
        self._configuration = configuration
        self.address = str(configuration.host)
        self._api = client.ApiClient(configuration)
        self._answers = False
        # Whether connections stay open between calls: while a node is held. Nobody closes them otherwise.
        self.keep = False

    def close(self) -> None:
        """End idle connections."""
        with contextlib.suppress(AttributeError):
            self._api.rest_client.pool_manager.clear()

    # ------------------------------------------------------------------------------------------------------ objects

    def get(self, resource: Resource, name: str, namespace: str = "") -> Json | None:
        """An object, None when it is not there. Raises ApiFailure, also when its kind is not installed."""
        try:
            return self._json(Call("GET", resource, namespace, name))
        except ApiFailure as error:
            if error.status == 404 and error.reason == "NotFound":
                return None
            raise

    def find(self, resource: Resource, namespace: str = "", *, labels: str = "", fields: str = "") -> list[Json]:
        """Objects of a namespace, or of all. Pages are put together."""
        query = {"limit": PAGE, "labelSelector": labels, "fieldSelector": fields, "continue": ""}
        found: list[Json] = []
        while True:
            try:
                page = self._json(Call("GET", resource, namespace, query=query))
            except ApiFailure as error:
                if error.status != 410 or not query["continue"]:
                    raise
                # The version that the first page showed is forgotten: begin anew.
                found, query["continue"] = [], ""
                continue
            found += page["items"]
            query["continue"] = (page.get("metadata") or {}).get("continue") or ""
            if not query["continue"]:
                return found

    def create(self, resource: Resource, body: Json) -> Json:
        """A new object. When an answer was lost and the object is there with our body's labels, it is taken as done."""
        metadata = body["metadata"]
        call = Call("POST", resource, metadata.get("namespace", ""), query={"fieldValidation": "Strict"}, body=body)
        try:
            return self._json(call)
        except ApiFailure as error:
            if error.reason == "AlreadyExists" and call.failures:
                found = self.get(resource, metadata["name"], metadata.get("namespace", ""))
                if found is not None and _carries(found, body):
                    return found
            raise

    def replace(self, resource: Resource, body: Json) -> Json:
        """A changed object; its resourceVersion must be the one that was read. Raises ApiFailure with reason Conflict.

        A lost answer makes the second try a conflict with ourselves: it is recognised by the stored content.
        """
        metadata = body["metadata"]
        namespace, name = metadata.get("namespace", ""), metadata["name"]
        call = Call("PUT", resource, namespace, name, query={"fieldValidation": "Strict"}, body=body)
        try:
            return self._json(call)
        except ApiFailure as error:
            if error.reason == "Conflict" and call.failures:
                found = self.get(resource, name, namespace)
                if found is not None and is_part_of(body.get("spec"), found.get("spec")) and _carries(found, body):
                    return found
            raise

    def delete(self, resource: Resource, name: str, namespace: str = "", *, uid: str = "", version: str = "") -> bool:
        """Delete an object, pods with their own grace; False when it was gone. With `uid` only that very object; with
        `version` only as it was read, else ApiFailure with reason Conflict."""
        options: Json = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if uid:
            options["preconditions"] = {"uid": uid, **({"resourceVersion": version} if version else {})}
        try:
            self._json(Call("DELETE", resource, namespace, name, body=options))
        except ApiFailure as error:
            if error.status == 404 or (uid and not version and error.reason == "Conflict"):
                return False
            raise
        return True

    def log(self, name: str, namespace: str, container: str, lines: int = 20) -> str:
        """The last lines of a container's log, empty where there is none yet or any more."""
        try:
            query = {"container": container, "tailLines": str(lines)}
            call = Call("GET", PODS, namespace, name, "log", query=query)
            return self._raw(call).decode("utf-8", "replace")
        except ApiFailure as error:
            if error.status not in (400, 404):
                raise
            return ""

    def may(self, verb: str, resource: str, namespace: str = "", group: str = "") -> bool:
        """Whether our user may do it (`resource` may be `pods/exec`); True where we may not even ask."""
        name, _, sub = resource.partition("/")
        asked = {"verb": verb, "resource": name, "subresource": sub, "group": group, "namespace": namespace}
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {key: value for key, value in asked.items() if value}},
        }
        try:
            answer = self._json(Call("POST", REVIEWS, body=body))
        except ApiFailure as error:
            if error.status != 403:
                raise
            return True
        return bool((answer.get("status") or {}).get("allowed"))

    def exec(self, name: str, namespace: str, container: str, command: list[str]) -> ExecChannel:
        """Start a command in a pod's container. Raises ApiFailure when it cannot be, ConnectionLost when nothing was
        reached."""
        from kubernetes.stream.ws_client import WSClient
        from websocket import WebSocketException

        flags = [("stdin", "true"), ("stdout", "true"), ("stderr", "true"), ("tty", "false")]
        query = urlencode([("container", container), *(("command", word) for word in command), *flags])
        host = self._configuration.host.replace("http", "ws", 1)
        url = f"{host}{PODS.path(namespace, name, 'exec')}?{query}"
        try:
            return ExecChannel(WSClient(self._configuration, url, self._headers(), capture_all=False, binary=True))
        except (WebSocketException, OSError) as error:
            raise exec_failure(str(error), name, namespace) from error

    # ------------------------------------------------------------------------------------------------------- inside

    def _headers(self) -> dict[str, str]:
        """With the credentials, renewed where the kubeconfig says how."""
        found = {"Accept": "application/json", "Content-Type": "application/json"}
        try:
            settings = self._configuration.auth_settings()
        except Exception as error:
            raise EnvironmentFault(
                f"the credentials of context {self.context} cannot be renewed: {error}", "check `kubectl auth whoami`"
            ) from error
        for setting in settings.values():
            if setting["value"]:
                found[setting["key"]] = setting["value"]
        return found

    def _json(self, call: Call) -> Json:
        found: Json = json.loads(self._raw(call))
        return found

    def _raw(self, call: Call) -> bytes:
        """The answer's bytes. Tried again while the server is busy or out of reach; the call remembers what went
        wrong before, since it may have been done all the same."""
        deadline = time.monotonic() + (PATIENCE_S if self._answers else FIRST_S)
        for delay in _delays():
            failure, pause, data = self._once(call)
            self._answers |= failure is None or failure.status > 0
            if failure is None:
                return data
            if pause is None or time.monotonic() + max(pause, delay) > deadline:
                self._answers = failure.status > 0
                raise failure
            call.failures.append(failure)
            time.sleep(max(pause, delay))
        raise AssertionError

    def _once(self, call: Call) -> tuple[ApiFailure | None, float | None, bytes]:
        """One try: what went wrong, after how many seconds to try again (None: never), the answer's bytes."""
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        query = urlencode({key: value for key, value in call.query.items() if value})
        url = f"{self._configuration.host}{call.path}{'?' if query else ''}{query}"
        words: Json = {"headers": self._headers(), "_request_timeout": TIMEOUT_S}
        if call.body is not None:
            words["body"] = call.body
        try:
            response = self._api.rest_client.request(call.method, url, **words)
            data, status, headers = response.read(), int(response.status), dict(response.getheaders())
        except ApiException as error:
            if not error.status:
                return (*self._unreached(call, str(error.reason)), b"")
            data, status, headers = error.body or b"", int(error.status), dict(error.headers or {})
        except (HTTPError, OSError) as error:
            return (*self._unreached(call, str(error)), b"")
        finally:
            if not self.keep:
                self.close()
        data = data.encode() if isinstance(data, str) else bytes(data)
        if 200 <= status <= 299:
            return None, None, data
        name = call.name or ((call.body or {}).get("metadata") or {}).get("name", "")
        failure = api_failure(status, data, call.resource.title, name, call.namespace)
        return failure, retry_after(headers) if status in (429, 500, 502, 503, 504) else None, b""

    def _unreached(self, call: Call, why: str) -> tuple[ApiFailure, float | None]:
        """No answer: why not, and after how many seconds to try again."""
        text = " ".join(re.sub(r"<[^>]*>:? ?", "", why).split())[:200]
        fact = f"the API server {self.address} does not answer ({call.method} {call.path}: {text})"
        if "certificate" in text.lower():
            step = "its certificate is not what the kubeconfig expects, or something stands between: kubectl get nodes"
            return ApiFailure(fact, step, reason="Untrusted"), None
        return ApiFailure(fact, "check the network and `kubectl cluster-info`", reason="Unreachable"), 0.0


def _load(config: Any, configuration: Any, context: str) -> tuple[str, str]:
    """Fill the configuration in; the context's name and namespace."""
    # The client looks at KUBECONFIG when it is imported: too early.
    file = os.environ.get("KUBECONFIG") or None
    try:
        config.load_kube_config(file, context=context or None, client_configuration=configuration)
    except config.ConfigException:
        if context:
            raise
        try:
            config.load_incluster_config(client_configuration=configuration)
        except config.ConfigException:
            # The kubeconfig's own complaint says more.
            config.load_kube_config(file, client_configuration=configuration)
        else:
            return "of this pod", Path(OWN_NAMESPACE).read_text(encoding="utf-8").strip()
    merged = config.kube_config.KubeConfigMerger(file or config.KUBE_CONFIG_DEFAULT_LOCATION).config
    name = context or str(merged["current-context"])
    chosen = merged["contexts"].get_with_name(name)["context"]
    return name, str(chosen.safe_get("namespace") or "default")


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
