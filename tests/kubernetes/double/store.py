"""Objects with versions, and the history that watches read."""

from __future__ import annotations

import copy
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.kubernetes.double import answers
from tests.kubernetes.double.kinds import Json, Kind


@dataclass(frozen=True)
class Change:
    """One entry of the history. `type`: ADDED, MODIFIED, DELETED."""

    version: int
    kind: Kind
    type: str
    object: Json


def now() -> str:
    """A time stamp of whole seconds, as most fields carry it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


class Store:
    """All objects. Every method is atomic; what goes in and comes out is copied."""

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.version = 1
        self.oldest = 1
        self.history: list[Change] = []
        self._objects: dict[Kind, dict[tuple[str, str], Json]] = {}

    def get(self, kind: Kind, name: str, namespace: str = "") -> Json:
        """An object; Refused 404 when there is none."""
        with self.changed:
            found = self._objects.get(kind, {}).get((namespace, name))
            if found is None:
                raise answers.not_found(kind, name)
            return copy.deepcopy(found)

    def find(self, kind: Kind, name: str, namespace: str = "") -> Json | None:
        """An object or None."""
        with self.changed:
            return copy.deepcopy(self._objects.get(kind, {}).get((namespace, name)))

    def all(self, kind: Kind, namespace: str | None = None) -> list[Json]:
        """Objects by namespace and name."""
        with self.changed:
            found = sorted(self._objects.get(kind, {}).items())
            return [copy.deepcopy(value) for key, value in found if namespace is None or key[0] == namespace]

    def create(self, kind: Kind, body: Json, *, dry_run: bool = False) -> Json:
        """Store a new object."""
        with self.changed:
            metadata = body.setdefault("metadata", {})
            key = (metadata.get("namespace", ""), metadata["name"])
            if key in self._objects.get(kind, {}):
                raise answers.exists(kind, metadata["name"])
            metadata.update({"uid": str(uuid.uuid4()), "creationTimestamp": now()})
            if kind.generation:
                metadata["generation"] = 1
            return copy.deepcopy(body) if dry_run else self._put(kind, key, body, "ADDED")

    def replace(self, kind: Kind, body: Json) -> Json:
        """Store an object whose caller has checked versions; unchanged ones keep their version."""
        with self.changed:
            metadata = body["metadata"]
            key = (metadata.get("namespace", ""), metadata["name"])
            if self._objects[kind].get(key) == body:
                return copy.deepcopy(body)
            return self._put(kind, key, body, "MODIFIED")

    def update(self, kind: Kind, name: str, namespace: str, change: Callable[[Json], Any]) -> Json | None:
        """Apply a change of the system's own (status and the like); None when the object is gone."""
        with self.changed:
            found = self.find(kind, name, namespace)
            if found is None:
                return None
            change(found)
            return self.replace(kind, found)

    def remove(self, kind: Kind, name: str, namespace: str = "", *, uid: str = "") -> Json | None:
        """Delete at once. With `uid` only that very object."""
        with self.changed:
            found = self._objects.get(kind, {}).get((namespace, name))
            if found is None or (uid and found["metadata"]["uid"] != uid):
                return None
            del self._objects[kind][(namespace, name)]
            self.version += 1
            gone = copy.deepcopy(found)
            gone["metadata"]["resourceVersion"] = str(self.version)
            self._record(Change(self.version, kind, "DELETED", gone))
            return gone

    def at(self, kind: Kind, version: int) -> list[Json]:
        """Objects as they were, from the history since it was last forgotten."""
        with self.changed:
            found: dict[tuple[str, str], Json] = {}
            for change in self.history:
                if change.kind is kind and change.version <= version:
                    metadata = change.object["metadata"]
                    key = (metadata.get("namespace", ""), metadata["name"])
                    found.pop(key, None)
                    if change.type != "DELETED":
                        found[key] = copy.deepcopy(change.object)
            return [found[key] for key in sorted(found)]

    def forget(self) -> None:
        """Compaction: watches from earlier versions get 410."""
        with self.changed:
            self.history.clear()
            self.oldest = self.version

    def since(self, version: int, *kinds: Kind, timeout_s: float = 0.0) -> tuple[list[Change], int]:
        """Later changes of some kinds, and the version up to which that is all. Waits for a change of anything."""
        with self.changed:
            self.changed.wait_for(lambda: self.version > version, timeout_s)
            found = [change for change in self.history if change.version > version and change.kind in kinds]
            return found, max(version, self.version)

    def until(self, holds: Callable[[], Any], timeout_s: float = 10.0) -> Any:
        """What `holds` gives once it is true, asked again after each change of anything."""
        end = time.monotonic() + timeout_s
        version = self.version
        while not (value := holds()):
            left = end - time.monotonic()
            assert left > 0, "this never came about"
            _, version = self.since(version, timeout_s=left)
        return value

    def _put(self, kind: Kind, key: tuple[str, str], body: Json, type_: str) -> Json:
        self.version += 1
        body["metadata"]["resourceVersion"] = str(self.version)
        self._objects.setdefault(kind, {})[key] = copy.deepcopy(body)
        self._record(Change(self.version, kind, type_, copy.deepcopy(body)))
        return copy.deepcopy(body)

    def _record(self, change: Change) -> None:
        self.history.append(change)
        self.changed.notify_all()

    def everything(self) -> Iterator[tuple[Kind, Json]]:
        """All objects, for tests."""
        for kind in list(self._objects):
            for value in self.all(kind):
                yield kind, value
