"""Requests on objects: what a path means, and each verb's checks in the API server's order."""

from __future__ import annotations

import copy
import json
import re
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

from tests.kubernetes.double import answers, validation
from tests.kubernetes.double.access import Access
from tests.kubernetes.double.kinds import (
    CONFIG_MAPS,
    KINDS,
    NAMESPACES,
    NODES,
    PODS,
    REVIEWS,
    Json,
    Kind,
)
from tests.kubernetes.double.patches import merged, patched
from tests.kubernetes.double.selectors import matches
from tests.kubernetes.double.store import Store

_PATCHES = "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"


@dataclass(frozen=True)
class Request:
    """One request, its path taken apart."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes = b""
    query: dict[str, list[str]] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """Without the query."""
        return urlsplit(self.target).path

    def one(self, name: str, default: str = "") -> str:
        """A query parameter."""
        return self.query.get(name, [default])[0]

    def yes(self, name: str) -> bool:
        """A flag of the query."""
        return self.one(name).lower() in ("true", "1")


@dataclass(frozen=True)
class Address:
    """Which resource a path names."""

    kind: Kind
    namespace: str
    name: str
    subresource: str


@dataclass(frozen=True)
class Answer:
    """A response with a body."""

    code: int
    body: Json | str
    headers: tuple[tuple[str, str], ...] = ()


def request_of(method: str, target: str, headers: dict[str, str], body: bytes = b"") -> Request:
    """A request from its line, headers (lower-case names) and body."""
    query = parse_qs(urlsplit(target).query, keep_blank_values=True)
    return Request(method, target, headers, body, query)


class Api:
    """The objects' side of the API server. `kinds` are those installed: leave a custom one out for a missing CRD."""

    def __init__(self, store: Store, access: Access, kinds: tuple[Kind, ...] = KINDS) -> None:
        self.store = store
        self.access = access
        self.kinds = list(kinds)
        self.schemas = validation.Schemas()

    def address(self, request: Request) -> Address:
        """Which resource a request names; Refused 404 in plain text for what is not served."""
        words = [unquote(word) for word in request.path.strip("/").split("/")]
        if words[0] == "api" and len(words) > 2:
            group, version, rest = "", words[1], words[2:]
        elif words[0] == "apis" and len(words) > 3:
            group, version, rest = words[1], words[2], words[3:]
        else:
            raise answers.no_such_path()
        namespace = ""
        if rest[0] == "namespaces" and len(rest) > 2 and rest[2] not in ("status", "finalize"):
            namespace, rest = rest[1], rest[2:]
        for kind in self.kinds:
            if (kind.group, kind.version, kind.plural) == (group, version, rest[0]):
                name, sub = [*rest[1:], "", ""][:2]
                return Address(kind, namespace, name, sub)
        raise answers.no_such_path()

    def verb(self, request: Request, address: Address) -> str:
        """RBAC's name of what is done."""
        if request.method == "GET":
            if address.name:
                return "get"
            return "watch" if request.yes("watch") else "list"
        verbs = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
        if request.method == "DELETE" and not address.name:
            return "deletecollection"
        return verbs[request.method]

    def permit(self, request: Request, address: Address) -> str:
        """The user, once it may do this; Refused 401 or 403."""
        user = self.access.user_of(request.headers.get("authorization"))
        if address.kind is not REVIEWS or not self.access.reviews:
            verb = self.verb(request, address)
            self.access.check(user, verb, address.kind, address.namespace, address.name, address.subresource)
        return user

    def answer(self, request: Request, address: Address, user: str) -> Answer:
        """Do it."""
        if address.kind is REVIEWS:
            return self._review(request, user)
        verb = self.verb(request, address)
        if verb == "get":
            return Answer(200, _shown(address.kind, self.store.get(address.kind, address.name, address.namespace)))
        if verb == "list":
            return self._list(request, address)
        actions = {"create": self._create, "update": self._update, "patch": self._patch, "delete": self._delete}
        if verb not in actions:
            text = "the server does not allow this method on the requested resource"
            raise answers.Refused(405, answers.status(405, "MethodNotAllowed", text, {}))
        return actions[verb](request, address)

    # -------------------------------------------------------------------------------------------------- reading

    def _list(self, request: Request, address: Address) -> Answer:
        version = request.one("resourceVersion")
        if version.isdigit() and int(version) > self.store.version:
            raise _too_large(int(version), self.store.version)
        with self.store.changed:
            found, newest = self.selected(request, address), str(self.store.version)
            if request.one("resourceVersionMatch") == "Exact":
                past = self.store.at(address.kind, int(version))
                found, newest = [value for value in past if self.wants(request, address, value)], version
        metadata: Json = {"resourceVersion": newest}
        limit = int(request.one("limit", "0") or 0)
        start = self._continued(request.one("continue"))
        found = found[start:]
        if limit and len(found) > limit:
            metadata["continue"] = f"c{start + limit}.{newest}"
            metadata["remainingItemCount"] = len(found) - limit
            found = found[:limit]
        elif address.kind.custom:
            metadata["continue"] = ""
        kind = address.kind
        items = (
            found if kind.custom else [{k: v for k, v in o.items() if k not in ("kind", "apiVersion")} for o in found]
        )
        body = {"kind": f"{kind.kind}List", "apiVersion": kind.api_version, "metadata": metadata, "items": items}
        return Answer(200, body)

    def _continued(self, token: str) -> int:
        if not token:
            return 0
        match = re.fullmatch(r"c(\d+)\.(\d*)", token)
        if match is None:
            raise answers.bad_request("invalid continue token: continue key is not valid: it was not made here")
        start, version = match.groups()
        if version and int(version) < self.store.oldest:
            raise answers.gone(f"c{start}.")
        return int(start)

    def selected(self, request: Request, address: Address) -> list[Json]:
        """The objects of a list or of a watch's beginning."""
        found = self.store.all(address.kind, address.namespace or None)
        return [value for value in found if self.wants(request, address, value)]

    def wants(self, request: Request, address: Address, value: Json) -> bool:
        """Whether selectors and namespace let an object through."""
        inside = not address.namespace or value["metadata"].get("namespace") == address.namespace
        return inside and matches(value, request.one("labelSelector"), request.one("fieldSelector"))

    # -------------------------------------------------------------------------------------------------- writing

    def _create(self, request: Request, address: Address) -> Answer:
        kind = address.kind
        body, warnings = self._decode(request, kind)
        metadata = body.setdefault("metadata", {})
        if kind.namespaced:
            if metadata.get("namespace", address.namespace) != address.namespace:
                raise answers.bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request"
                )
            metadata["namespace"] = address.namespace
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = metadata["generateName"] + format(time.monotonic_ns() % 36**5, "05x")[:5]
        validation.check(kind, body, self.schemas)
        if kind.namespaced:
            namespace = self.store.find(NAMESPACES, address.namespace)
            if namespace is None:
                raise answers.not_found(NAMESPACES, address.namespace)
            validation.admit(kind, body, namespace)
        body = self.schemas.completed(kind, body)
        if kind.status and kind is not NODES:
            body.pop("status", None)
        validation.fill(kind, body)
        stored = self.store.create(kind, body, dry_run=request.one("dryRun") == "All")
        return Answer(201, _shown(kind, stored), warnings)

    def _update(self, request: Request, address: Address) -> Answer:
        body, warnings = self._decode(request, address.kind)
        body.setdefault("metadata", {})["name"] = address.name
        return Answer(200, self._write(request, address, body), warnings)

    def _write(self, request: Request, address: Address, body: Json) -> Json:
        kind = address.kind
        with self.store.changed:
            old = self.store.get(kind, address.name, address.namespace)
            version = body["metadata"].get("resourceVersion")
            if version is None and kind.custom:
                cause = {
                    "reason": "FieldValueInvalid",
                    "message": "Invalid value: 0: must be specified for an update",
                    "field": "metadata.resourceVersion",
                }
                raise _update_without_version(kind, address.name, cause)
            if version not in (None, "", old["metadata"]["resourceVersion"]):
                raise answers.conflict(kind, address.name)
            validation.check(kind, body, self.schemas)
            new = _combined(kind, old, self.schemas.completed(kind, body), address.subresource)
            if request.one("dryRun") == "All":
                return _shown(kind, new)
            return _shown(kind, self.store.replace(kind, new))

    def _patch(self, request: Request, address: Address) -> Answer:
        kind, content = address.kind, request.headers.get("content-type", "")
        if (content.startswith("application/strategic-merge-patch") and kind.custom) or "apply-patch" in content:
            text = f"the body of the request was in an unknown format - accepted media types include: {_PATCHES}"
            raise answers.Refused(415, answers.status(415, "UnsupportedMediaType", text))
        patch = json.loads(request.body)
        with self.store.changed:
            old = self.store.get(kind, address.name, address.namespace)
            if "json-patch" in content:
                new = _json_patched(old, patch)
            else:
                if isinstance(patch, list):
                    text = "json: cannot unmarshal array into Go value of type map[string]interface {}"
                    raise answers.bad_request(f"error decoding patch: {text}")
                new = merged(old, patch)
            unknown = self.schemas.unknown(kind, new)
            if unknown and request.one("fieldValidation") == "Strict":
                raise _strict_patch(new, unknown)
            return Answer(200, self._write(request, address, new), _warned(request, unknown))

    def _delete(self, request: Request, address: Address) -> Answer:
        kind = address.kind
        options = json.loads(request.body) if request.body else {}
        with self.store.changed:
            old = self.store.get(kind, address.name, address.namespace)
            conditions = options.get("preconditions") or {}
            for what, key in (("UID", "uid"), ("ResourceVersion", "resourceVersion")):
                asked = conditions.get(key)
                if asked is not None and asked != old["metadata"][key]:
                    raise answers.precondition(kind, address.name, what, asked, old["metadata"][key])
            if kind is PODS:
                return Answer(200, _shown(kind, self._delete_pod(request, options, old)))
            self.store.remove(kind, address.name, address.namespace)
        details = {**answers.details_of(kind, address.name), "uid": old["metadata"]["uid"]}
        body = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
        return Answer(200, body)

    def _delete_pod(self, request: Request, options: Json, old: Json) -> Json:
        """Mark it; kubelet ends it. At once when nothing runs of it, or when the grace period is 0."""
        metadata = old["metadata"]
        asked = options.get("gracePeriodSeconds")
        if asked is None:
            asked = request.one("gracePeriodSeconds") or old["spec"].get("terminationGracePeriodSeconds", 30)
        grace = int(asked)
        unscheduled = not old["spec"].get("nodeName")
        finished = old["status"].get("phase") in ("Succeeded", "Failed")
        if grace == 0 or unscheduled or finished:
            metadata["deletionTimestamp"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            metadata["deletionGracePeriodSeconds"] = 0
            metadata["generation"] = metadata.get("generation", 1) + 1
            self.store.replace(PODS, old)
            return self.store.remove(PODS, metadata["name"], metadata["namespace"]) or old
        if "deletionTimestamp" in metadata:
            return old
        metadata["deletionTimestamp"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + grace))
        metadata["deletionGracePeriodSeconds"] = grace
        metadata["generation"] = metadata.get("generation", 1) + 1
        return self.store.replace(PODS, old)

    def _review(self, request: Request, user: str) -> Answer:
        body = json.loads(request.body)
        asked = body["spec"]["resourceAttributes"]
        resource = asked.get("resource", "") + (f"/{asked['subresource']}" if asked.get("subresource") else "")
        allowed = self.access.may(
            user,
            asked.get("verb", ""),
            asked.get("group", ""),
            resource,
            asked.get("namespace", ""),
            asked.get("name", ""),
        )
        result: Json = {"allowed": allowed}
        return Answer(201, {**body, "metadata": {}, "status": result})

    def _decode(self, request: Request, kind: Kind) -> tuple[Json, tuple[tuple[str, str], ...]]:
        """The object in a body, with the warnings about it. Refused when it cannot be one."""
        text = request.body.decode()
        repeated: list[str] = []
        if "yaml" in request.headers.get("content-type", ""):
            body: Any = yaml.safe_load(text)
        else:
            try:
                body = json.loads(text, object_pairs_hook=lambda pairs: _noting_repeats(pairs, repeated))
            except ValueError:
                raise answers.bad_request(
                    f"the object provided is unrecognized (must be of type {kind.kind}): couldn't get version/kind; "
                    f"json parse error: unexpected end of JSON input ({text[:30]} ...)"
                ) from None
        if body.get("kind") not in (None, kind.kind):
            cause = {
                "reason": "FieldValueInvalid",
                "message": f'Invalid value: "{body["kind"]}": must be {kind.kind}',
                "field": "kind",
            }
            noun = f"{body['kind']}.{kind.group}" if kind.group else body["kind"]
            raise answers.invalid(kind, body["metadata"]["name"], [cause], noun=noun)
        body["kind"], body["apiVersion"] = kind.kind, kind.api_version
        unknown = self.schemas.unknown(kind, body)
        if request.one("fieldValidation") == "Strict" and (unknown or repeated):
            texts = [f'unknown field "{path}"' for path in unknown] or [f'duplicate field "spec.{k}"' for k in repeated]
            raise answers.undecodable(kind, f"strict decoding error: {', '.join(texts)}")
        return body, _warned(request, unknown)


def _shown(kind: Kind, value: Json) -> Json:
    return {"kind": kind.kind, "apiVersion": kind.api_version, **value}


def _noting_repeats(pairs: list[tuple[str, Any]], repeated: list[str]) -> Json:
    keys = [key for key, _ in pairs]
    repeated += [key for key in dict.fromkeys(keys) if keys.count(key) > 1]
    return dict(pairs)


def _warned(request: Request, unknown: list[str]) -> tuple[tuple[str, str], ...]:
    if request.one("fieldValidation", "Warn") != "Warn":
        return ()
    return tuple(("Warning", f'299 - "unknown field \\"{path}\\""') for path in unknown)


def _combined(kind: Kind, old: Json, new: Json, subresource: str) -> Json:
    """What is stored: system fields kept, status and the rest apart, generation moved by a changed spec."""
    kept = (
        "uid",
        "creationTimestamp",
        "generation",
        "resourceVersion",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    )
    if subresource == "status":
        result = {**copy.deepcopy(old), "status": new.get("status", {})}
    else:
        metadata = {key: value for key, value in new["metadata"].items() if key not in (*kept, "managedFields")}
        metadata.update({key: old["metadata"][key] for key in kept if key in old["metadata"]})
        if kind.namespaced:
            metadata["namespace"] = old["metadata"]["namespace"]
        result = {**new, "metadata": metadata}
        if kind.status:
            result.pop("status", None)
            if "status" in old:
                result["status"] = old["status"]
    rest = [{k: v for k, v in value.items() if k not in ("metadata", "status")} for value in (old, result)]
    if kind.generation and rest[0] != rest[1]:
        result["metadata"]["generation"] = old["metadata"].get("generation", 1) + 1
    return result


def _json_patched(old: Json, operations: list[Json]) -> Json:
    try:
        return patched(old, operations)
    except (ValueError, KeyError, IndexError):
        text = "the server rejected our request due to an error in our request"
        raise answers.Refused(422, answers.status(422, "Invalid", text, {})) from None


def _strict_patch(new: Json, unknown: list[str]) -> answers.Refused:
    fields = ", ".join(f'unknown field "{path}"' for path in unknown)
    quoted = json.dumps(json.dumps(new, separators=(",", ":"), sort_keys=True))
    message = f"Invalid value: {quoted}: strict decoding error: {fields}"
    cause = {"reason": "FieldValueInvalid", "message": message, "field": "patch"}
    body = answers.status(422, "Invalid", f' "" is invalid: patch: {message}', {"causes": [cause]})
    return answers.Refused(422, body)


def _update_without_version(kind: Kind, name: str, cause: Json) -> answers.Refused:
    message = f'{kind.qualified} "{name}" is invalid: {cause["field"]}: {cause["message"]}'
    details = {**answers.details_of(kind, name), "causes": [cause]}
    return answers.Refused(422, answers.status(422, "Invalid", message, details))


def _too_large(asked: int, current: int) -> answers.Refused:
    details = {
        "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
        "retryAfterSeconds": 1,
    }
    text = f"Timeout: Too large resource version: {asked}, current: {current}"
    return answers.Refused(504, answers.status(504, "Timeout", text, details), (("Retry-After", "1"),))


__all__ = ["CONFIG_MAPS", "Address", "Answer", "Api", "Request", "request_of"]
