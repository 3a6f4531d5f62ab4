"""The API server's refusals in our words: the thing, the fact, the command that mends it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from pytest_nriperf.errors import ProvisionError, SettingsError
from pytest_nriperf.provision.exec_channel import ConnectionLost

Json = dict[str, Any]


class ApiFailure(ProvisionError):
    """The API server refused or could not be reached. `status` 0: no answer came. `reason` as the server says it."""

    def __init__(self, fact: str, next_step: str = "", *, status: int = 0, reason: str = "") -> None:
        super().__init__(fact, next_step)
        self.status = status
        self.reason = reason


def no_configuration(context: str, text: str) -> SettingsError:
    """No kubeconfig, or none with this context."""
    if context and "context" in text.lower():
        return SettingsError(
            f"the kubeconfig has no context {context!r}",
            "see `kubectl config get-contexts`, mend `context` of the profile",
        )
    return SettingsError(
        f"no cluster is configured: {text.rstrip('.')}", "set KUBECONFIG, or check that `kubectl get nodes` works here"
    )


def api_failure(status: int, answer: bytes, title: str, name: str) -> ApiFailure:
    """A refusal of the API server; `title` is the kind's name."""
    body = _status_of(answer)
    message, reason = str(body.get("message", "")), str(body.get("reason", ""))
    if not body and status == 404:
        return ApiFailure(
            f"the cluster does not know {title}",
            "install the NRI balloons policy: "
            "helm install nri-resource-policy-balloons nri-plugins/nri-resource-policy-balloons -n kube-system",
            status=404,
            reason="NotInstalled",
        )
    subject = f"{title} {name}".strip()
    if status == 401:
        next_step = "check `kubectl auth whoami`: the token or certificate has expired or is of another cluster"
        return ApiFailure("the cluster does not accept our credentials", next_step, status=401, reason="Unauthorized")
    if status == 403:
        return forbidden(message)
    message = message.rpartition("strict decoding error: ")[2] if "strict decoding error" in message else message
    causes = [
        f"{cause.get('field')}: {cause.get('message')}"
        for cause in (body.get("details") or {}).get("causes") or []
        if cause.get("field") not in ("<nil>", "patch")
    ]
    text = "; ".join(causes) if causes and status == 422 else message or f"HTTP {status}"
    return ApiFailure(f"{subject}: {text[:600]}", "", status=status, reason=reason)


def forbidden(message: str) -> ApiFailure:
    """403 with the verb that is missing and how to get it."""
    match = re.search(r'User "([^"]*)" cannot (\w+) resource "([^"]+)"(?: in API group "([^"]*)")?(.*)', message)
    if match is None:
        return ApiFailure(
            f"forbidden: {message}", "see the Roles in docs/kubernetes.md", status=403, reason="Forbidden"
        )
    user, verb, resource, group, where = match.groups()
    namespace = re.search(r'in the namespace "([^"]+)"', where)
    at = f"in namespace {namespace[1]}" if namespace else "in the whole cluster"
    what = f"{resource}.{group}" if group else resource
    flag = f" -n {namespace[1]}" if namespace else ""
    return ApiFailure(
        f"{user} may not {verb} {what} {at}",
        f"grant it (the Roles are in docs/kubernetes.md), check with: kubectl auth can-i {verb} {what}{flag}",
        status=403,
        reason="Forbidden",
    )


def exec_failure(text: str, name: str) -> Exception:
    """The client hides the code of a refused upgrade in its text."""
    match = re.search(r"Handshake status (\d+) .*?-\+-\+- (.*?) -\+-\+- (.*)", text, re.DOTALL)
    if match is None:
        return ConnectionLost(text[:300])
    status, text = int(match[1]), match[3].strip()
    if text.startswith(("b'", 'b"')):
        text = text[2:-1]
    body = _status_of(text)
    message = str(body.get("message", text))
    if status == 403 and "cannot" in message:
        return forbidden(message)
    if status == 403:
        # With `get` alone the server refuses without a word.
        return ApiFailure(
            f"exec into pod {name} is forbidden, probably for lack of the verb create on pods/exec",
            "grant get AND create on pods/exec, check with: kubectl auth can-i create pods/exec -n NAMESPACE",
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
    """After how many seconds the server wants to be asked again."""
    text = next((value for key, value in headers.items() if key.lower() == "retry-after"), "0")
    return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else 0.0
