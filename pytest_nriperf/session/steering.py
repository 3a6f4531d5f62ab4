"""Sweeps in pytest, while they run: order, search, repeats, budget, resuming, what is told.

pytest's own loop walks over `session.items` by index. After each cell the items behind it are rearranged: the cell
that the search or the plan wants next comes next, and cells that will not be measured are taken out and reported as
deselected, once. A cell that is measured again stays one item: its repeats run silently behind it (a failing one is
reported). What stays set up between tests is undone for the item that really follows.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from _pytest.runner import runtestprotocol

from pytest_nriperf.errors import NriperfError, RecordingError, UsageError
from pytest_nriperf.metrics import Measurement
from pytest_nriperf.report.contents import make_row
from pytest_nriperf.session.collecting import cell_of, function_id
from pytest_nriperf.session.config import SESSION, STEERING, SWEEPS, session_settings
from pytest_nriperf.session.course import Course
from pytest_nriperf.session.sweeping import Sweeps, leave_out, name_of
from pytest_nriperf.session.telling import Telling, cells_text, clock, gates_left_alone
from pytest_nriperf.sessions import note_cell, read_cells, resumable
from pytest_nriperf.settings import Settings
from pytest_nriperf.sweep.axes import LeftOut, expected_seconds, fits_budget, parse_overrides
from pytest_nriperf.sweep.existence import Site
from pytest_nriperf.sweep.rows import Row
from pytest_nriperf.topology import Topology
from pytest_nriperf.units import format_seconds, format_text

# The expected end is told that often at most, seconds.
TELL_EVERY_S = 30.0


def begin_steering(config: pytest.Config) -> Steering:
    """The plugin that steers the sweeps of the session, made and registered at the first call."""
    steering = config.stash.get(STEERING, None)
    if steering is None:
        steering = Steering(config, session_settings(config), config.stash.setdefault(SWEEPS, Sweeps()))
        config.stash[STEERING] = steering
        config.pluginmanager.register(steering, "nriperf-steering")
    return steering


def steer(config: pytest.Config, items: list[pytest.Item], ours: list[pytest.Item]) -> list[pytest.Item]:
    """After collection, before selection: tell mistakes, take out what does not exist on its node.

    Returns those of `ours` that are left.
    """
    settings, sweeps = session_settings(config), config.stash.get(SWEEPS, Sweeps())
    if sweeps.mistakes:
        raise pytest.UsageError("\n".join(sweeps.mistakes))
    try:
        named = parse_overrides(settings.axes)
    except UsageError as error:
        raise pytest.UsageError(str(error)) from None
    known = {axis for sweep in sweeps.found.values() for axis in sweep.request.axes}
    for axis in named:
        if axis not in known:
            has = f"known are {', '.join(sorted(known))}" if known else "no test with a sweep mark was collected"
            raise pytest.UsageError(f"--nri-set {axis}: no sweep has an axis of that name; {has}")
    if settings.dry_run:
        begin_steering(config)
    gone = {item for item in items if not _exists(item, sweeps, settings)}
    if gone:
        config.hook.pytest_deselected(items=list(gone))
        items[:] = [item for item in items if item not in gone]
    return [item for item in ours if item not in gone]


def _exists(item: pytest.Item, sweeps: Sweeps, settings: Settings) -> bool:
    sweep, cell = sweeps.of(item), cell_of(item)
    return sweep is None or cell is None or sweep.exists(cell, node_of(item, settings))


def node_of(item: pytest.Item, settings: Settings) -> str:
    """The node that an item will run on, as --nri-node names it."""
    callspec = getattr(item, "callspec", None)
    named = callspec.params.get("nri_node") if callspec is not None else None
    return str(named or settings.nodes_named[0])


class Steering:
    """The pytest plugin of a session with sweeps."""

    def __init__(self, config: pytest.Config, settings: Settings, sweeps: Sweeps) -> None:
        self.config, self.settings, self.sweeps = config, settings, sweeps
        self.courses: list[Course] = []
        self._told = Telling(settings, lambda node: name_of(config, node))
        self.again = False
        self.paths: list[Path] = []
        self.spent = False
        self._fresh: list[Row] = []
        self._folder: Path | None = None
        self._course_of: dict[pytest.Item, Course] = {}
        self._started_s = self._told_s = time.monotonic()
        self._durations: list[float] = []
        self._resumed: list[str] = []

    # ------------------------------------------------------------------------------------------- pytest hooks

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Bring what was selected into the order in which it is measured; each sweep keeps the places it had."""
        groups: dict[tuple[str, ...], list[pytest.Item]] = {}
        for item in items:
            sweep = self.sweeps.of(item)
            if sweep is not None and cell_of(item) is not None:
                key = (function_id(item), node_of(item, self.settings))
                rest = _parameters(item) if sweep.request.strategy == "front" else ""
                groups.setdefault((*key, rest), []).append(item)
        for (function, node, _), members in groups.items():
            sweep = self.sweeps.found[function]
            seed = sweep.request.seed if self.settings.seed is None else self.settings.seed
            once = self.settings.cell_runs.most == 1 and not sweep.request.gate
            course = Course(sweep, node, members, seed, repeating=once)
            self.courses.append(course)
            self._course_of |= dict.fromkeys(members, course)
        self._arrange(items)

    def pytest_report_collectionfinish(self) -> list[str]:
        """The plan, before anything runs."""
        if self.config.option.collectonly:
            return []
        return [self._told.plan(course) for course in self.courses]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """Begin; with --nri-dry-run nothing runs."""
        if self.config.option.collectonly:
            return None
        if self.settings.dry_run:
            reporter: Any = self.config.pluginmanager.get_plugin("terminalreporter")
            others = sum(item not in self._course_of for item in session.items)
            for line in self._told.dry_run(self.courses, others, everything=self.config.get_verbosity() > 0):
                reporter.write_line(format_text(line))
            return True
        if self.settings.resume:
            self._resume(session)
        self._started_s = self._told_s = time.monotonic()
        for course in self.courses:
            self._begin(session, course)
        session.testscollected -= sum(len(course.pending) - course.left for course in self.courses)
        return None

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        """Measure a cell, then decide what comes next."""
        course = self._course_of.get(item)
        if course is None:
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        self._run(item, course, again=False)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        session = item.session
        self._begin(session, course)
        following, again = self._next(session, course)
        while following is not None and again:
            self._run(following, course, again=True)
            following, again = self._next(session, course)
        self._go_on(item, course, following)
        return True

    # ----------------------------------------------------------------------------------------------- measuring

    def measured(self, measurement: Measurement, topology: Topology) -> None:
        """Hear of a finished measurement of the running cell."""
        self._fresh.append(make_row(measurement, topology))
        self.paths.append(measurement.path)
        self._folder = measurement.path.parent

    def _run(self, item: pytest.Item, course: Course, *, again: bool) -> None:
        self._fresh, self.again, known = [], again, len(self.paths)
        session = self.config.stash.get(SESSION, None)
        if session is not None and again:
            session.keeper.release()  # a repeat in the same process would be the same run
        began_s = time.monotonic()
        # A collector as the next item: all that the tests of this function share stays set up.
        reports = runtestprotocol(item, log=not again, nextitem=cast("pytest.Item", item.parent))
        seconds = time.monotonic() - began_s
        self.again = False
        self._durations.append(seconds)
        failed = [report for report in reports if report.failed]
        for report in failed if again else ():
            item.ihook.pytest_runtest_logreport(report=report)
        # Measurements of one cell with several workloads: the first stands for it.
        course.took(item, self._fresh[0] if self._fresh else None, again=again)
        if session is not None and failed:
            session.keeper.release()
        if self._folder is not None and self.paths[known:]:
            outcome = "failed" if failed else "passed"
            names = [path.name for path in self.paths[known:]]
            note_cell(self._folder, test=item.nodeid, outcome=outcome, seconds=seconds, again=again, recordings=names)

    def _next(self, session: pytest.Session, course: Course) -> tuple[pytest.Item | None, bool]:
        if session.shouldstop or session.shouldfail:
            return None, False
        if not fits_budget(time.monotonic() - self._started_s, self._durations, self.settings.budget):
            self.spent = True
            return None, False
        self._tell()
        return course.next()

    def _go_on(self, item: pytest.Item, course: Course, following: pytest.Item | None) -> None:
        """Bring the items behind this one into line, and undo what the one that follows does not need."""
        session = item.session
        if session.shouldstop or session.shouldfail:
            return
        if self.spent:
            for each in self.courses:
                self._drop(session, each, "the time budget was spent; --nri-resume goes on")
        elif following is None:
            self._drop(session, course, "by what was measured they cannot matter for the front")
        else:
            session.items.remove(following)
            session.items.insert(session.items.index(item) + 1, following)
        place = session.items.index(item) + 1
        behind = session.items[place] if place < len(session.items) else None
        call = pytest.CallInfo.from_call(
            lambda: self._undo(session, behind), when="teardown", reraise=(KeyboardInterrupt, pytest.exit.Exception)
        )
        if call.excinfo is not None:
            # Not by the hook: its implementations expect the item as it was before its own teardown.
            report = pytest.TestReport.from_item_and_call(item, call)
            if isinstance(call.excinfo.value, NriperfError):
                report.longrepr = f"{item.nodeid}: {call.excinfo.value}"
            item.ihook.pytest_runtest_logreport(report=report)

    def _undo(self, session: pytest.Session, following: pytest.Item | None) -> None:
        own = self.config.stash.get(SESSION, None)
        if own is not None:
            own.keeper.release_unless(following)
        session._setupstate.teardown_exact(following)

    def _begin(self, session: pytest.Session, course: Course) -> None:
        """Where the node was not known before it was held: leave out what does not exist, and let the search begin."""
        site = self.sweeps.sites.get(course.node) or self._held_site(course.node)
        if site is None:
            return
        if course.node not in course.sweep.existing:
            leave_out(course.sweep, course.node, site)
        gone = [item for item in course.pending if not _exists(item, self.sweeps, self.settings)]
        self._take_out(session, course, gone)
        course.start(site)

    def _held_site(self, node: str) -> Site | None:
        own = self.config.stash.get(SESSION, None)
        bench = own.held(node) if own is not None else None
        if bench is None:
            return None
        site = Site.of(bench.topology, bench.description)
        self.sweeps.sites[node] = site
        return site

    def _drop(self, session: pytest.Session, course: Course, reason: str) -> None:
        gone = list(course.pending)
        if gone:
            course.sweep.left_out.setdefault(course.node, []).append(LeftOut(reason, len(gone)))
        if self.spent and (own := self.config.stash.get(SESSION, None)) is not None:
            own.break_off()
        counted = len(gone) - course.left if course.search is not None else 0
        self._take_out(session, course, gone)
        session.testscollected += counted

    def _take_out(self, session: pytest.Session, course: Course, gone: Sequence[pytest.Item]) -> None:
        if not gone:
            return
        leaving = set(gone)
        course.pending = [item for item in course.pending if item not in leaving]
        session.items[:] = [item for item in session.items if item not in leaving]
        session.testscollected -= len(leaving)
        self.config.hook.pytest_deselected(items=list(gone))

    def _arrange(self, items: list[pytest.Item]) -> None:
        places: dict[int, list[int]] = {}
        for place, item in enumerate(items):
            if item in self._course_of:
                places.setdefault(id(self._course_of[item]), []).append(place)
        for course in self.courses:
            for place, item in zip(places[id(course)], course.pending, strict=True):
                items[place] = item

    # ------------------------------------------------------------------------------------------------ resuming

    def _resume(self, session: pytest.Session) -> None:
        """Take the cells that the newest unfinished session has done as done."""
        out = self.settings.path(self.settings.out)
        for node in dict.fromkeys(course.node for course in self.courses):
            folder = resumable(out, node=name_of(self.config, node))
            for course in (each for each in self.courses if each.node == node and folder is not None):
                self._take_up(session, course, cast("Path", folder))

    def _take_up(self, session: pytest.Session, course: Course, folder: Path) -> None:
        cells = read_cells(folder)
        passed = {str(cell["test"]) for cell in cells if cell.get("outcome") == "passed"}
        gone = [item for item in course.pending if item.nodeid in passed]
        if len(gone) == len(session.items):
            gone = gone[:-1]  # one is run again, from what it recorded, so that the session can be finished
        site = self.sweeps.sites.get(course.node)
        named = {item.nodeid: item for item in gone}
        for cell in cells:
            if (item := named.get(str(cell["test"]))) is None:
                continue
            for recording in cell["recordings"]:
                try:
                    measurement = Measurement.from_recording(folder / str(recording))
                except RecordingError:
                    continue
                course.rows.setdefault(item.nodeid, []).append(make_row(measurement, site.topology if site else None))
                self.paths.append(measurement.path)
            course.repeats += bool(cell.get("again"))
        self._take_out(session, course, gone)
        course.done |= named
        if gone:
            self._resumed.append(f"{cells_text(len(gone))} of {course.sweep.function} taken from {folder}")

    # ------------------------------------------------------------------------------------------------- telling

    @property
    def rows(self) -> list[Row]:
        """All that the sweeps have measured, what was resumed included."""
        return [row for course in self.courses for rows in course.rows.values() for row in rows]

    @property
    def left_out(self) -> list[str]:
        """What was not measured, in words, each reason once."""
        return [line for sweep in self.sweeps.found.values() for line in sweep.told()]

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Takeaways, front and tables of wisdom; what was left out and why."""
        if not self.courses and not self.left_out:
            return
        terminalreporter.section("nriperf sweep")
        lines = [*self._resumed, *(self._told.done(course) for course in self.courses if course.done)]
        if self.rows:
            from pytest_nriperf.report.wisdom import wisdom_lines

            lines += [*gates_left_alone(self.courses), *wisdom_lines(self.rows)]
        for line in [*lines, *self.left_out]:
            terminalreporter.line(format_text(line))

    def _tell(self) -> None:
        """The expected end, now and then."""
        now = time.monotonic()
        left = sum(course.left for course in self.courses)
        own = self.config.stash.get(SESSION, None)
        if own is None or not left:
            return
        seconds = expected_seconds(self._durations, left) or 0.0
        if self.settings.budget is not None:
            seconds = min(seconds, max(0.0, self.settings.budget - (now - self._started_s)))
        own.progress.remark = f"{cells_text(left)} left, ends about {clock(seconds)}"
        if now - self._told_s >= TELL_EVERY_S:
            self._told_s = now
            about = f"about {format_seconds(seconds)}, ends about {clock(seconds)}"
            own.progress.note(f"sweep: {cells_text(left)} left, {about}")


def _parameters(item: pytest.Item) -> str:
    """The parameters of an item that are no axis of its sweep."""
    cell, callspec = cell_of(item), getattr(item, "callspec", None)
    if callspec is None or cell is None:
        return ""
    axes = {"nri_cell", "nri_node", *cell.labels}
    return repr(sorted((name, index) for name, index in callspec.indices.items() if name not in axes))
