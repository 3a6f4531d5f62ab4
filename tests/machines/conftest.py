"""On the host: tests inside machines as items. In a guest: nothing."""

from __future__ import annotations

import compileall
import importlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.machines.machine import Boot, boot
from tests.machines.model import write_model
from tests.machines.selection import IN_GUEST, ROOT, Plan, Session, everything, fits, plan, results_of, script
from tests.machines.shapes import SHAPES, Shape

_INSIDE = Path(__file__).parent / "inside"
_NO_TESTS = ("conftest", "holder", "kernel_view", "reports")
_ROOT = Path(__file__).parents[2]
_BOOTED = pytest.StashKey[dict[str, "Booted"]]()


@dataclass(frozen=True)
class Booted:
    """A machine that has run its sessions."""

    boot: Boot
    sessions: dict[str, Session]


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    is_test = file_path.parent == _INSIDE and file_path.suffix == ".py" and file_path.stem not in _NO_TESTS
    if not is_test or os.environ.get(IN_GUEST) or not _plan(parent.config):
        return None
    collector: pytest.Collector = InsideFile.from_parent(parent, path=file_path)
    return collector


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Machine after machine, so that each is booted once and its results come together; in the full matrix at last
    the tests that boot one of their own."""
    names = list(SHAPES)

    def place(item: pytest.Item) -> int:
        if isinstance(item, InsideItem):
            return names.index(item.shape.name)
        return len(names) if _boots(item) else -1

    items[:] = sorted((item for item in items if everything() or not _boots(item)), key=place)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    booted = config.stash.get(_BOOTED, {})
    if booted:
        terminalreporter.section("machines")
    for name, machine in booted.items():
        reports = [
            report for session in machine.sessions.values() for per in session.reports.values() for report in per
        ]
        facts = [fact for report in reports for fact in report["facts"]]
        terminalreporter.write_line(
            f"{name}: {machine.boot.seconds:.0f} s in all, {sum(r['seconds'] for r in reports):.0f} s in "
            f"{len(reports)} tests inside, as {' and '.join(machine.sessions)}"
        )
        for fact in facts:
            terminalreporter.write_line(f"  {fact}")


def _boots(item: pytest.Item) -> bool:
    return "machine" in getattr(item, "fixturenames", ())


class InsideFile(pytest.File):
    """A file of tests that run inside machines."""

    def collect(self) -> Iterable[pytest.Item]:
        """One item for each test, machine and user."""
        module = importlib.import_module(f"tests.machines.inside.{self.path.stem}")
        tests = {name: value for name, value in vars(module).items() if name.startswith("test_")}
        for (shape_name, user), words in _plan(self.config).items():
            shape = SHAPES[shape_name]
            for name, test in tests.items():
                chosen = not words or any(word in f"{self.path.name}::{name}" for word in words)
                if chosen and fits(test, shape, user):
                    yield InsideItem.from_parent(
                        self, name=f"{name}[{shape_name}-{user}]", test=test, shape=shape, user=user
                    )


class MachineFailure(Exception):
    """What a test inside, or the machine itself, said when it failed."""


class InsideItem(pytest.Item):
    """One test on one machine as one user: as many tests inside as it has parameters."""

    def __init__(self, *, test: Callable[..., Any], shape: Shape, user: str, **more: Any) -> None:
        super().__init__(**more)
        self.shape, self.user = shape, user
        self.inside = f"{self.path.relative_to(_ROOT)}::{test.__name__}"

    def runtest(self) -> None:
        """Boot the machine unless another test has; then look at the reports of this one."""
        booted = self.config.stash.setdefault(_BOOTED, {})
        if self.shape.name not in booted:
            booted[self.shape.name] = self._boot()
        machine = booted[self.shape.name]
        reports = machine.sessions[self.user].reports.get(self.inside, [])
        failed = [f"{report['test']}\n{report['text']}" for report in reports if report["outcome"] == "failed"]
        if failed:
            raise MachineFailure("\n\n".join(failed))
        if not reports or machine.boot.status not in (0, 1):
            tail = "\n".join(machine.boot.console.splitlines()[-60:])
            raise MachineFailure(f"no result came out of the machine (status {machine.boot.status}):\n{tail}")
        if all(report["outcome"] == "skipped" for report in reports):
            pytest.skip(reports[0]["text"])

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The text of the guest, which already is a report."""
        if isinstance(excinfo.value, MachineFailure):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Where it is written and how it is called."""
        return self.path, None, self.name

    def _boot(self) -> Booted:
        sessions: dict[str, Session] = {}
        for item in self.session.items:
            if isinstance(item, InsideItem) and item.shape == self.shape:
                sessions.setdefault(item.user, Session(item.user, [])).tests.append(item.inside)
        write_model()
        return Booted(_run(self.config, self.shape, list(sessions.values())), sessions)


@pytest.fixture
def machine(pytestconfig: pytest.Config) -> Callable[..., Session]:
    """Boot a machine of any shape, run a selection of pytest's in it, and give what came back of each test."""

    def run(shape: Shape, *selection: str, user: str = ROOT) -> Session:
        session = Session(user, list(selection))
        done = _run(pytestconfig, shape, [session])
        if done.status is None:
            raise MachineFailure("no result came out of the machine:\n" + "\n".join(done.console.splitlines()[-60:]))
        return session

    return run


def _run(config: pytest.Config, shape: Shape, sessions: Sequence[Session]) -> Boot:
    """Boot and run, with the console on the terminal when it is to be seen."""
    verbose = config.get_verbosity() > 0
    # Here, since compiling is dear on an emulated processor.
    for folder in ("pytest_nriperf", "tests"):
        compileall.compile_dir(_ROOT / folder, quiet=2)
    with config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\n[{shape.name}] booting", flush=True)

        def hear(line: str) -> None:
            if verbose and line:
                print(f"[{shape.name}] {line}", flush=True)

        done = boot(shape, script(shape, sessions, _ROOT), hear)
        print(f"[{shape.name}] {done.seconds:.0f} s", flush=True)
    results_of(done, sessions)
    return done


def _plan(config: pytest.Config) -> Plan:
    named = any("machines" in argument for argument in config.invocation_params.args)
    return plan(named)
