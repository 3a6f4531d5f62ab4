"""Who asks, and whether RBAC lets them: users by token, rules by Role and ClusterRole documents."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tests.kubernetes.double import answers
from tests.kubernetes.double.kinds import Json, Kind

ADMIN = "admin"
ANONYMOUS = "system:anonymous"


@dataclass(frozen=True)
class Rule:
    """What a user may do; `namespace` None is everywhere."""

    user: str
    groups: frozenset[str]
    resources: frozenset[str]
    verbs: frozenset[str]
    namespace: str | None = None
    names: frozenset[str] = frozenset()

    def allows(self, user: str, verb: str, group: str, resource: str, namespace: str, name: str) -> bool:
        """Whether this rule lets the user do it."""
        return (
            self.user == user
            and ({verb, "*"} & self.verbs != set())
            and ({group, "*"} & self.groups != set())
            and ({resource, "*"} & self.resources != set())
            and self.namespace in (None, namespace)
            and (not self.names or name in self.names)
        )


class Access:
    """Tokens and rules. The admin may do everything; everybody may ask what they may, unless `reviews` is False."""

    def __init__(self) -> None:
        self.reviews = True
        self._users: dict[str, str] = {"admin-token": ADMIN}
        self._rules: list[Rule] = []

    def add_user(self, name: str, token: str) -> None:
        """A user known by a bearer token."""
        self._users[token] = name

    def user_of(self, authorization: str | None) -> str:
        """The user of an Authorization header; Refused 401 for an unknown token."""
        if not authorization:
            return ANONYMOUS
        token = authorization.removeprefix("Bearer ").strip()
        if token not in self._users:
            raise answers.Refused(401, answers.status(401, "Unauthorized", "Unauthorized"))
        return self._users[token]

    def load(self, documents: Iterable[Json]) -> None:
        """Rules from Role, ClusterRole, RoleBinding and ClusterRoleBinding documents."""
        documents = list(documents)
        roles = {
            (item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"]): item["rules"]
            for item in documents
            if item["kind"] in ("Role", "ClusterRole")
        }
        for item in documents:
            if item["kind"] not in ("RoleBinding", "ClusterRoleBinding"):
                continue
            where = item["metadata"].get("namespace") if item["kind"] == "RoleBinding" else None
            reference = item["roleRef"]
            rules = roles[(reference["kind"], where or "" if reference["kind"] == "Role" else "", reference["name"])]
            for subject in item["subjects"]:
                user = subject["name"]
                if subject["kind"] == "ServiceAccount":
                    user = f"system:serviceaccount:{subject['namespace']}:{subject['name']}"
                self._rules += [_rule(user, rule, where) for rule in rules]

    def may(self, user: str, verb: str, group: str, resource: str, namespace: str = "", name: str = "") -> bool:
        """Whether the user may do it."""
        return user == ADMIN or any(r.allows(user, verb, group, resource, namespace, name) for r in self._rules)

    def check(self, user: str, verb: str, kind: Kind, namespace: str, name: str, subresource: str) -> None:
        """Refused 403 in the API server's words when the user may not."""
        resource = f"{kind.plural}/{subresource}" if subresource else kind.plural
        if self.may(user, verb, kind.group, resource, namespace, name):
            return
        named = f'{kind.qualified} "{name}"' if (name and verb != "create") or subresource else kind.qualified
        where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
        message = (
            f'{named} is forbidden: User "{user}" cannot {verb} resource "{resource}" '
            f'in API group "{kind.group}" {where}'
        )
        shown = name if '"' in named else ""
        raise answers.Refused(
            403,
            answers.status(403, "Forbidden", message, answers.details_of(kind, shown)),
            (("X-Content-Type-Options", "nosniff"),),
        )


def _rule(user: str, rule: Json, namespace: str | None) -> Rule:
    return Rule(
        user,
        frozenset(rule["apiGroups"]),
        frozenset(rule["resources"]),
        frozenset(rule["verbs"]),
        namespace,
        frozenset(rule.get("resourceNames", ())),
    )
