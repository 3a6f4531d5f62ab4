"""What the API server refuses, in our words: the thing, the fact, the command that mends it."""

from __future__ import annotations

import json

import pytest

from pytest_nriperf.provision.api_errors import api_failure, exec_failure
from pytest_nriperf.provision.exec_channel import ConnectionLost

FORBIDDEN = 'pods "p" is forbidden: '


@pytest.mark.parametrize(
    ("code", "message", "fact", "mend"),
    [
        (
            403,
            'balloonspolicies.config.nri "n" is forbidden: User "ann" cannot update resource "balloonspolicies" in API '
            'group "config.nri" in the namespace "kube-system"',
            "ann may not update balloonspolicies.config.nri in namespace kube-system",
            "kubectl auth can-i update balloonspolicies.config.nri -n kube-system",
        ),
        (
            403,
            'nodes is forbidden: User "ann" cannot list resource "nodes" in API group "" at the cluster scope',
            "ann may not list nodes in the whole cluster",
            "kubectl apply -f docs/kubernetes-rbac.yaml; check with: kubectl auth can-i list nodes --all-namespaces",
        ),
        (403, f"{FORBIDDEN}exceeded quota: q, requested: cpu=4", "exceeded quota", "kubectl describe quota -n perf"),
        (
            403,
            f'{FORBIDDEN}violates PodSecurity "baseline:latest": host namespaces (hostPID=true)',
            "forbidden: pods",
            "kubectl label --overwrite ns perf pod-security.kubernetes.io/enforce=privileged",
        ),
        (
            403,
            f'{FORBIDDEN}error looking up service account perf/a: serviceaccount "a" not found',
            'serviceaccount "a" not found',
            "kubectl create serviceaccount a -n perf",
        ),
        (
            403,
            'nodes "x" is forbidden: User "system:anonymous" cannot get resource "nodes" in API group "" at the '
            "cluster scope",
            "takes us for nobody",
            "kubectl auth whoami",
        ),
        (404, 'namespaces "perf" not found', 'namespaces "perf" not found', "kubectl create namespace perf"),
        (401, "Unauthorized", "does not accept our credentials", "kubectl auth whoami"),
        (429, "the server has received too many requests", "too many requests", "kubectl get --raw"),
        (500, "etcdserver: request timed out", "request timed out", "try again"),
    ],
)
def test_a_refusal_is_told_with_what_mends_it(code: int, message: str, fact: str, mend: str) -> None:
    body = {"kind": "Status", "status": "Failure", "message": message, "reason": "X", "code": code}
    error = api_failure(code, json.dumps(body).encode(), "pods", "p", "perf")
    assert fact in error.fact
    assert mend in error.next_step
    assert error.status == (401 if "nobody" in fact else code)


@pytest.mark.parametrize(
    ("title", "mend"),
    [
        ("balloonspolicies.config.nri", "nri-resource-policy-balloons -n nri"),
        ("pods", "kubectl cluster-info"),
    ],
)
def test_a_kind_that_is_not_served_is_told_apart_from_an_object_that_is_not_there(title: str, mend: str) -> None:
    error = api_failure(404, b"404 page not found\n", title, "x", "nri")
    assert (error.status, error.reason) == (404, "NotInstalled")
    assert f"does not know {title}" in error.fact
    assert mend in error.next_step


def test_only_what_is_wrong_is_told_of_an_object_that_breaks_the_schema() -> None:
    causes = [
        {"field": "spec.balloonTypes[0].minCPUs", "message": 'Invalid value: "string"'},
        {"field": "<nil>", "message": "Invalid value: null: some validation rules were not checked"},
    ]
    body = {"status": "Failure", "message": "long", "reason": "Invalid", "details": {"causes": causes}}
    error = api_failure(422, json.dumps(body).encode(), "balloonspolicies.config.nri", "node.x")
    assert error.fact == 'balloonspolicies.config.nri node.x: spec.balloonTypes[0].minCPUs: Invalid value: "string"'


def test_a_patch_is_not_quoted_whole() -> None:
    message = ' "" is invalid: patch: Invalid value: "{...}": strict decoding error: unknown field "spec.pinMem"'
    body = {"status": "Failure", "message": message, "reason": "Invalid", "details": {"causes": [{"field": "patch"}]}}
    error = api_failure(422, json.dumps(body).encode(), "balloonspolicies.config.nri", "node.x")
    assert error.fact == 'balloonspolicies.config.nri node.x: unknown field "spec.pinMem"'


@pytest.mark.parametrize(
    ("status", "body", "text"),
    [
        ("401 Unauthorized", '{"message": "Unauthorized"}', "does not accept our credentials"),
        (
            "403 Forbidden",
            'b\'{"message": "pods is forbidden: "}\'',
            "for lack of the verb create on pods/exec in namespace perf",
        ),
        (
            "404 Not Found",
            json.dumps({"message": 'pods "p" not found', "reason": "NotFound"}),
            'exec into pod p: pods "p" not found',
        ),
    ],
)
def test_a_refused_exec_is_told_by_what_is_hidden_in_the_clients_text(status: str, body: str, text: str) -> None:
    error = exec_failure(f"Handshake status {status} -+-+- {{'content-type': 'x'}} -+-+- {body}", "p", "perf")
    assert text in str(error)


@pytest.mark.parametrize("text", ["Connection reset by peer", "Handshake status 503 Busy -+-+- {} -+-+- wait"])
def test_an_exec_that_reached_nothing_may_be_tried_again(text: str) -> None:
    assert isinstance(exec_failure(text, "p", "perf"), ConnectionLost)
