"""What is said of sweeps: the plan and what it costs before they run, what was done after."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pytest_nriperf.session.course import Course
from pytest_nriperf.sessions import CELLS, find_sessions, read_cells
from pytest_nriperf.settings import Settings
from pytest_nriperf.sweep.axes import expected_seconds
from pytest_nriperf.units import format_seconds

# A dry run lists that many cells of a sweep; with -v all.
LISTED = 10
# Earlier sessions that are asked how long a cell takes.
ASKED = 5


@dataclass(frozen=True)
class Telling:
    """`name_of` gives the name that recordings have for a node as --nri-node names it."""

    settings: Settings
    name_of: Callable[[str], str]

    def plan(self, course: Course) -> str:
        """The sweep in a line: cells, order, and how long it will take where earlier sessions tell."""
        kind = f"random order in blocks, seed {course.seed}"
        if course.adaptive:
            kind = f"at most {course.limit} of them, chosen for the front as they come in, seed {course.seed}"
        line = f"sweep {self._name(course)}: {cells_text(len(course.pending))}, {kind}"
        seconds = self.earlier(course)
        return line if seconds is None else f"{line}; about {format_seconds(seconds * course.left)}"

    def done(self, course: Course) -> str:
        """What was measured of it."""
        again = f", {course.repeats} repeat{'' if course.repeats == 1 else 's'}" if course.repeats else ""
        return f"{self._name(course)}: {cells_text(len(course.done))} measured{again}; seed {course.seed}"

    def dry_run(self, courses: Sequence[Course], others: int, *, everything: bool) -> Iterator[str]:
        """The cells in the order in which they would be measured, and what that costs; `others` are other tests."""
        seconds, known = 0.0, True
        for course in courses:
            shown = course.pending if everything else course.pending[:LISTED]
            yield from (f"  {item.nodeid}" for item in shown)
            if len(shown) < len(course.pending):
                yield f"  ... and {len(course.pending) - len(shown)} more (-v lists all)"
            each = self.earlier(course)
            known = known and each is not None
            seconds += (each or 0.0) * course.left
        if others:
            yield f"  and {others} tests that are no sweep"
        budget = self.settings.budget
        words = [f"{sum(course.left for course in courses)} measurements would be made"]
        words.append(f"about {format_seconds(seconds)}" if known else "of unknown length: none was measured here yet")
        words += [f"at most {format_seconds(budget)}"] if budget else []
        words += [f"ends about {clock(min(seconds, budget or seconds))}"] if known else []
        yield f"dry run: nothing was measured; {', '.join(words)}"

    def earlier(self, course: Course) -> float | None:
        """Seconds that a cell of the sweep took on the node in earlier sessions, None where there were none."""
        durations: list[float] = []
        folders = [each for each in find_sessions(self.settings.path(self.settings.out)) if (each / CELLS).exists()]
        for folder in folders[-ASKED:]:
            durations += [
                float(cell["seconds"])
                for cell in read_cells(folder, node=self.name_of(course.node))
                if str(cell["test"]).partition("[")[0] == course.sweep.function
            ]
        return expected_seconds(durations, 1)

    def _name(self, course: Course) -> str:
        several = len(self.settings.nodes_named) > 1
        return f"{course.sweep.function} on {course.node}" if several else course.sweep.function


def gates_left_alone(courses: Sequence[Course]) -> list[str]:
    """A line for each sweep whose test has a gate that judges no cell: one that passes has not been judged."""
    return [
        f"{course.sweep.function}: its gate judges no cell of the sweep; sweep(..., gate=True) asks for that"
        for course in courses
        if not course.sweep.request.gate and any(item.get_closest_marker("gate") for item in course.done.values())
    ]


def cells_text(count: int) -> str:
    """A number of cells in words."""
    return "1 cell" if count == 1 else f"{count} cells"


def clock(seconds: float) -> str:
    """The time of day that many seconds from now; with the day where that is another one."""
    now = datetime.now()
    end = now + timedelta(seconds=seconds)
    return f"{end:%H:%M}" if end.date() == now.date() else f"{end:%a %H:%M}"
