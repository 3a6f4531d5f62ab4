"""The documented Roles are enough, and each permission that is taken from them is named with what grants it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pytest_nriperf.balloons import BalloonSpec
from pytest_nriperf.errors import EnvironmentFault, ProvisionError
from pytest_nriperf.provision.api_errors import ROLES as API_ROLES
from pytest_nriperf.provision.api_errors import ApiFailure
from pytest_nriperf.provision.cluster import Cluster as Client
from pytest_nriperf.provision.rights import ANNOTATE, CLUSTER, MANAGE, Right, missing
from pytest_nriperf.settings import NodeProfile
from tests.kubernetes.conftest import Make
from tests.kubernetes.double.cluster import Cluster
from tests.kubernetes.double.kinds import PODS, Json

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

ROLES = Path(__file__).parents[2] / "docs/kubernetes-rbac.yaml"
USER = "system:serviceaccount:perf:nriperf"
NAMESPACES = {"own": "perf", "policy": "kube-system", "lease": "default", CLUSTER: ""}


def roles(mode: str) -> list[Json]:
    """The documents of the Roles that a mode needs, in the namespaces of the tests."""
    documents = [each for each in yaml.safe_load_all(ROLES.read_text()) if each]
    for each in documents:
        metadata = each["metadata"]
        if metadata.get("namespace") == "perf-tests":
            metadata["namespace"] = "perf"
        for subject in each.get("subjects", ()):
            subject["namespace"] = "perf"
    return [each for each in documents if mode == "manage" or "manage" not in each["metadata"]["name"]]


def without(documents: list[Json], right: Right, verb: str) -> list[Json]:
    """The Roles of one right's namespace without one verb."""
    for document in documents:
        if document["metadata"].get("namespace", "") == NAMESPACES[right.where]:
            for rule in document.get("rules", ()):
                if right.resource in rule["resources"] and right.group in rule["apiGroups"]:
                    rule["verbs"] = [each for each in rule["verbs"] if each != verb]
    return documents


@pytest.mark.parametrize("mode", ["annotate", "manage"])
def test_the_documented_roles_are_enough_for_a_whole_session(cluster: Cluster, make: Make, mode: str) -> None:
    cluster.access.add_user(USER, "t")
    cluster.access.load(roles(mode))
    provisioner = make(token="t", policy=mode)
    assert missing(provisioner.cluster, NodeProfile(name="x", namespace="perf", policy=mode)) == []
    spec = BalloonSpec(cpus=2)
    with provisioner.session([spec]), provisioner.provision(spec) as grant:
        assert grant.placement.cpus == 2
    assert cluster.leftovers() == []


def test_the_documented_roles_grant_nothing_that_is_not_needed() -> None:
    granted = {
        (document["metadata"].get("namespace", ""), group, resource, verb)
        for document in roles("manage")
        for rule in document.get("rules", ())
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert granted == {(NAMESPACES[r.where], r.group, r.resource, verb) for r in MANAGE for verb in r.verbs}


def cases(*, explains: bool) -> Iterator[Any]:
    for mode, rights in (("annotate", ANNOTATE), ("manage", MANAGE[len(ANNOTATE) :])):
        for right in rights:
            for verb in right.verbs if right.explains == explains else ():
                yield pytest.param(mode, right, verb, id=f"{mode}-{right.where}-{verb}-{right.resource}")


@pytest.mark.parametrize(("mode", "right", "verb"), list(cases(explains=False)))
def test_a_missing_verb_is_named_before_anything_is_made(
    cluster: Cluster, make: Make, mode: str, right: Right, verb: str
) -> None:
    cluster.access.add_user(USER, "t")
    cluster.access.load(without(roles(mode), right, verb))
    title = f"{right.resource}.{right.group}" if right.group else right.resource
    where = f"in namespace {NAMESPACES[right.where]}" if NAMESPACES[right.where] else "in the whole cluster"
    told = rf"may not {verb} {title} {where}.*{API_ROLES}.*kubectl auth can-i {verb} {title} "
    with pytest.raises(ProvisionError, match=told), make(token="t", policy=mode).session([BalloonSpec(cpus=2)]):
        pass
    with contextlib.closing(Client()) as client:
        lacking = missing(client, NodeProfile(name="x", namespace="perf", policy=mode))
    assert [(lack.verb, lack.resource, lack.explains) for lack in lacking] == [(verb, title, False)]
    assert cluster.leftovers() == []


@pytest.mark.parametrize(("mode", "right", "verb"), list(cases(explains=True)))
def test_a_verb_that_only_explains_keeps_no_session_from_measuring(
    cluster: Cluster, make: Make, mode: str, right: Right, verb: str
) -> None:
    cluster.access.add_user(USER, "t")
    cluster.access.load(without(roles(mode), right, verb))
    provisioner = make(token="t", policy=mode)
    assert [lack.verb for lack in missing(provisioner.cluster, provisioner.profile)] == [verb]
    spec = BalloonSpec(cpus=2)
    with provisioner.session([spec]), provisioner.provision(spec) as grant:
        assert grant.placement.cpus == 2


def test_a_failure_that_may_not_be_explained_says_why_not(cluster: Cluster, make: Make) -> None:
    explaining = [right for right in ANNOTATE if right.explains]
    documents = roles("annotate")
    for right in explaining:
        documents = without(documents, right, right.verbs[0])
    cluster.access.add_user(USER, "t")
    cluster.access.load(documents)
    cluster.nodes["xeon2"].images = set()
    told = (
        r"(?s)has no image.*events cannot be read: .* may not list events in namespace perf.*log cannot .*get pods/log"
    )
    with pytest.raises(ProvisionError, match=told):
        make(token="t").observer()


def test_a_plugin_that_is_missing_is_told_where_its_daemon_set_may_not_be_seen(cluster: Cluster, make: Make) -> None:
    right = next(each for each in ANNOTATE if each.resource == "daemonsets")
    cluster.access.add_user(USER, "t")
    cluster.access.load(without(roles("annotate"), right, "list"))
    cluster.store.remove(PODS, "nri-resource-policy-balloons-xeon2", "kube-system")
    told = r"no balloons plugin runs there .*cannot be seen: .* may not list daemonsets.apps in namespace kube-system"
    with pytest.raises(EnvironmentFault, match=told), make(token="t").session([]):
        pass


@pytest.mark.parametrize(
    ("verb", "text"),
    [
        (
            "create",
            r"for lack of the verb create on pods/exec in namespace perf.*kubectl auth can-i create pods/exec -n perf",
        ),
        ("get", r"nriperf may not get pods/exec in namespace perf.*kubectl auth can-i get pods/exec -n perf"),
    ],
)
def test_an_exec_that_is_forbidden_names_the_verb(cluster: Cluster, make: Make, verb: str, text: str) -> None:
    right = next(each for each in ANNOTATE if each.resource == "pods/exec")
    cluster.access.add_user(USER, "t")
    cluster.access.load(without(roles("annotate"), right, verb))
    name = make().observer()
    with pytest.raises(ApiFailure, match=text):
        make(token="t").cluster.exec(name, "perf", "worker", ["true"])


def test_who_may_not_ask_for_permissions_finds_out_by_use(cluster: Cluster, make: Make) -> None:
    cluster.access.add_user(USER, "t")
    cluster.access.load(
        without(roles("annotate"), next(each for each in ANNOTATE if each.resource == "configmaps"), "create")
    )
    cluster.access.reviews = False
    told = re.escape(f"{USER} may not create configmaps in namespace perf")
    with pytest.raises(ProvisionError, match=told), make(token="t").session([]):
        pass
    assert cluster.leftovers() == []
