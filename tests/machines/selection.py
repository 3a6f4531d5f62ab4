"""Which tests run inside which machines, and how their results come back.

A file in `inside/` holds plain tests that run in a guest. On the host each of them is one item for each machine and
user that it is for; the first item of a machine boots it and runs all selected tests in there, one pytest session a
user.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tests.machines.kernel import cache_folder
from tests.machines.machine import Boot
from tests.machines.shapes import ISOLATED, MEMORY_ONLY, NO_HYPERTHREADS, SHAPES, SNC2, Shape

IN_GUEST = "NRIPERF_GUEST"
ROOT, USER = "root", "user"
RESULTS = "/dev/ttyS1"

Plan = Mapping[tuple[str, str], tuple[str, ...]]
_Test = TypeVar("_Test", bound=Callable[..., Any])

# Every shape with every user, all tests; and a subset that CI has time for, in which each kind of shape and each user
# occurs: machine and user, with what a test's file or name must contain (nothing: all tests).
FULL: Plan = {(shape.name, user): () for shape in SHAPES.values() for user in (ROOT, USER)}
SUBSET: Plan = {
    (SNC2.name, ROOT): (),
    (MEMORY_ONLY.name, USER): ("mistakes", "kill_9", "every_combination"),
    (ISOLATED.name, ROOT): ("machine.py", "isolated", "version_1"),
    (NO_HYPERTHREADS.name, USER): ("machine.py", "every_combination"),
}


@dataclass(frozen=True)
class ForMachines:
    """What a test inside is for."""

    users: tuple[str, ...]
    shape: Callable[[Shape], bool]


def for_machines(*users: str, shape: Callable[[Shape], bool] = lambda _: True) -> Callable[[_Test], _Test]:
    """Decorate a test inside: the users as which it runs (both when none is named) and the shapes that it fits."""

    def mark(test: _Test) -> _Test:
        test.__dict__["for_machines"] = ForMachines(users or (ROOT, USER), shape)
        return test

    return mark


def plan(argument_names_us: bool) -> Plan:
    """Machines and users to boot: NRIPERF_MACHINES full, subset or none; else the subset in CI and on request."""
    chosen = os.environ.get("NRIPERF_MACHINES", "")
    if chosen in ("full", "subset", "none"):
        return {"full": FULL, "subset": SUBSET, "none": {}}[chosen]
    if chosen:
        raise ValueError(f"NRIPERF_MACHINES={chosen!r}: write full, subset or none")
    in_ci = os.environ.get("CI", "").lower() in ("1", "true")
    return SUBSET if in_ci or argument_names_us else {}


def everything() -> bool:
    """Whether the full matrix was asked for, inside the machines too."""
    return os.environ.get("NRIPERF_MACHINES") == "full"


def fits(test: Callable[..., Any], shape: Shape, user: str) -> bool:
    """Whether a test inside is for that machine and user."""
    wanted = test.__dict__.get("for_machines", ForMachines((ROOT, USER), lambda _: True))
    return user in wanted.users and wanted.shape(shape)


@dataclass
class Session:
    """One pytest session in a guest: the selected tests, and what came back of each (file::function)."""

    user: str
    tests: list[str]
    reports: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


def script(shape: Shape, sessions: Iterable[Session], root: Path) -> str:
    """The shell script that runs the sessions in a guest, one after the other."""
    python = Path(sys.executable)
    opened = {parent for path in (root / "x", python, python.resolve()) for parent in path.parents}
    lines = [
        # The host may keep them to root; this changes the guest's own layer only.
        f"chmod a+rx {shlex.join(sorted(map(str, opened)))} 2>/dev/null",
        f"chmod a+rw {RESULTS}",
        f"cd {shlex.quote(str(root))}",
        "export PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 HOME=/tmp NO_COLOR=1",
        f"export {IN_GUEST}={shape.name} NRIPERF_ALL={'1' if everything() else ''}",
        f"export XDG_CACHE_HOME={shlex.quote(str(cache_folder().parent))}",
        "status=0",
    ]
    for session in sessions:
        command = [str(python), "-m", "pytest", "-v", "-p", "no:cacheprovider", "-p", "pytest_nriperf.plugin"]
        command += ["-p", "tests.machines.inside.reports"]
        command += ["-o", "faulthandler_timeout=1200", "--tb=short", *session.tests]
        if session.user != ROOT:
            command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *command]
        lines.append(f"echo {shlex.quote(json.dumps({'session': session.user}))} > {RESULTS}")
        lines.append(f"{shlex.join(command)} || status=$?")
    return "\n".join([*lines, "exit $status", ""])


def results_of(boot: Boot, sessions: Sequence[Session]) -> None:
    """Sort what the guest wrote into the sessions."""
    by_user = {session.user: session for session in sessions}
    current = sessions[0]
    for line in boot.lines:
        try:
            message: Mapping[str, Any] = json.loads(line)
        except ValueError:
            continue
        if "session" in message:
            current = by_user[message["session"]]
        else:
            name = str(message["test"]).partition("[")[0]
            current.reports.setdefault(name, []).append(dict(message))
