"""The API server's refusals in our words: the thing, the fact, the command that mends it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from pytest_nriperf.errors import ProvisionError, SettingsError
from pytest_nriperf.provision.exec_channel import ConnectionLost

Json = dict[str, Any]

# What grants all that a mode needs, once the namespaces in it are the right ones.
ROLES = "kubectl apply -f docs/kubernetes-rbac.yaml"


class ApiFailure(ProvisionError):
    """The API server refused or could not be reached. `status` 0: no answer came. `reason` as the server says it."""

    def __init__(self, fact: str, next_step: str = "", *, status: int = 0, reason: str = "") -> None:
        super().__init__(fact, next_step)
        self.status = status
        self.reason = reason


def no_configuration(context: str, text: str) -> SettingsError:
    """No kubeconfig, one that is none, or none with this context."""
    text = " ".join(text.split())[:300].rstrip(".")
    if context and "/contexts" in text:
        return SettingsError(
            f"the kubeconfig has no context {context!r}",
            "see `kubectl config get-contexts`, mend `context` of the profile",
        )
    return SettingsError(
        f"no cluster is configured: {text}", "set KUBECONFIG, or check that `kubectl get nodes` works here"
    )


def api_failure(status: int, answer: bytes, title: str, name: str, namespace: str = "") -> ApiFailure:
    """A refusal of the API server; `title` is the kind's name."""
    body = _status_of(answer)
    message, reason = str(body.get("message", "")), str(body.get("reason", ""))
    if not body and status == 404:
        return not_installed(title, namespace)
    subject = f"{title} {name}".strip()
    if status == 401:
        return _unknown("does not accept our credentials")
    if status == 403:
        return forbidden(message, namespace)
    message = message.rpartition("strict decoding error: ")[2] if "strict decoding error" in message else message
    causes = [
        f"{cause.get('field')}: {cause.get('message')}"
        for cause in (body.get("details") or {}).get("causes") or []
        if cause.get("field") not in ("<nil>", "patch")
    ]
    text = "; ".join(causes) if causes and status == 422 else message or f"HTTP {status}"
    return ApiFailure(f"{subject}: {text[:600]}", _mended(status, message), status=status, reason=reason)


def _unknown(what: str) -> ApiFailure:
    next_step = (
        "check `kubectl auth whoami`: the token or certificate has expired, is of another cluster or was not had"
    )
    return ApiFailure(f"the cluster {what}", next_step, status=401, reason="Unauthorized")


def _mended(status: int, message: str) -> str:
    """The next step after a refusal that is none of rights."""
    missing = re.search(r'namespaces "([^"]+)" not found', message)
    if missing:
        return f"kubectl create namespace {missing[1]}, or name another one in the profile"
    if status == 400 and "unknown field" in message:
        return (
            "the cluster's definition of this kind is older than what is needed: upgrade the balloons policy and its "
            "CRDs (helm upgrade leaves CRDs as they are: kubectl apply those of the chart's folder crds)"
        )
    if status == 429 or status >= 500:
        return "the API server is in trouble: see kubectl get --raw '/readyz?verbose', and try again"
    return ""


def not_installed(title: str, namespace: str) -> ApiFailure:
    """A kind that the server does not serve."""
    chart = "nri-resource-policy-balloons"
    own = title.endswith((".config.nri", ".topology.node.k8s.io"))
    return ApiFailure(
        f"the cluster does not know {title}",
        "install the NRI balloons policy: helm repo add nri-plugins https://containers.github.io/nri-plugins && "
        f"helm install {chart} nri-plugins/{chart} -n {namespace or 'kube-system'}"
        if own
        else "see whether this is the API server of a cluster: kubectl cluster-info",
        status=404,
        reason="NotInstalled",
    )


def forbidden(message: str, namespace: str = "") -> ApiFailure:
    """403: with the verb that is missing and how to get it, or with what else stands against it."""
    match = re.search(r'User "([^"]*)" cannot (\w+) resource "([^"]+)"(?: in API group "([^"]*)")?(.*)', message)
    if match is None:
        return ApiFailure(
            f"forbidden: {message}", _admitted(message, namespace or "NAMESPACE"), status=403, reason="Forbidden"
        )
    user, verb, resource, group, where = match.groups()
    if user == "system:anonymous":
        return _unknown("takes us for nobody: our kubeconfig gave it no credentials")
    found = re.search(r'in the namespace "([^"]+)"', where)
    at = f"in namespace {found[1]}" if found else "in the whole cluster"
    what = f"{resource}.{group}" if group else resource
    flag = f"-n {found[1]}" if found else "--all-namespaces"
    return ApiFailure(
        f"{user} may not {verb} {what} {at}",
        f"an administrator grants it: {ROLES}; check with: kubectl auth can-i {verb} {what} {flag}",
        status=403,
        reason="Forbidden",
    )


def _admitted(message: str, namespace: str) -> str:
    """The next step after what no Role would change."""
    if "exceeded quota" in message or "must specify" in message:
        return f"ask for less, or see what the namespace may have: kubectl describe quota -n {namespace}"
    if "PodSecurity" in message:
        return (
            "leave host_pid and model_host_path out of the profile, or let an administrator allow it: "
            f"kubectl label --overwrite ns {namespace} pod-security.kubernetes.io/enforce=privileged"
        )
    account = re.search(r'serviceaccount "([^"]+)" not found', message)
    if account:
        return f"kubectl create serviceaccount {account[1]} -n {namespace}, or mend service_account of the profile"
    return f"see the Roles in docs/kubernetes.md: {ROLES}"


def exec_failure(text: str, name: str, namespace: str) -> Exception:
    """The client hides the code of a refused upgrade in its text."""
    match = re.search(r"Handshake status (\d+) .*?-\+-\+- (.*?) -\+-\+- (.*)", text, re.DOTALL)
    if match is None:
        return ConnectionLost(text[:300])
    status, text = int(match[1]), match[3].strip()
    if text.startswith(("b'", 'b"')):
        text = text[2:-1]
    body = _status_of(text)
    message = str(body.get("message", text))
    if status == 401:
        return api_failure(401, b"", "pods/exec", name)
    if status == 403 and "cannot" in message:
        return forbidden(message)
    if status == 403:
        # With `get` alone the server refuses without a word.
        return ApiFailure(
            f"exec into pod {name} is forbidden, probably for lack of the verb create on pods/exec in namespace "
            f"{namespace}",
            f"get AND create are needed, an administrator grants them: {ROLES}; check with: "
            f"kubectl auth can-i create pods/exec -n {namespace}",
            status=403,
            reason="Forbidden",
        )
    if status in (429, 502, 503, 504) or (status == 500 and "dial" in message):
        return ConnectionLost(f"{status}: {message[:300]}")
    return ApiFailure(f"exec into pod {name}: {message[:300]}", status=status, reason=str(body.get("reason", "")))


def _status_of(body: Any) -> Json:
    try:
        found = json.loads(body or "{}")
    except (TypeError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def retry_after(headers: Mapping[str, str]) -> float:
    """After how many seconds the server wants to be asked again.

    >>> retry_after({"retry-after": "3"}), retry_after({})
    (3.0, 0.0)
    """
    text = next((value for key, value in headers.items() if key.lower() == "retry-after"), "0")
    return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else 0.0
