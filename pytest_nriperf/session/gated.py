"""Every test of the session that asks for verdicts, and what became of it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import pytest

from pytest_nriperf.baselines import BaselineStore
from pytest_nriperf.baselines.noise import NOISE_FILE
from pytest_nriperf.errors import BaselineError
from pytest_nriperf.report.unseen import Unjudged, Unseen, Why


class GatedTests:
    """`functions` are the tests that ask for verdicts, as collected, before any selection: id -> test function."""

    def __init__(self, functions: Mapping[str, str]) -> None:
        self._functions = functions
        self._judged: set[str] = set()
        self._became: dict[str, tuple[Why, str]] = {}
        self.selected: Collection[str] = functions

    def judged(self, test: str) -> None:
        """The test got verdicts."""
        self._judged.add(test)

    def reported(self, report: pytest.TestReport) -> None:
        """Hear how a phase of a test ended."""
        became = _became(report)
        if became is not None:
            self._became.setdefault(report.nodeid, became)

    def unseen(self, stores: Sequence[BaselineStore], orphans: Sequence[str]) -> Unseen:
        """What was not judged; `orphans` are sentences on baselines whose test is gone."""
        left = [test for test in self._functions if test not in self._judged]
        damaged: dict[str, None] = {}
        waiting = _waiting(dict.fromkeys(map(_file, left)), stores, damaged)
        tests = []
        for test in left:
            why, reason = self._became.get(test, ("not run" if test in self.selected else "not selected", ""))
            tests.append(Unjudged(test, why, reason, waiting.get((_file(test), self._functions[test]), 0)))
        return Unseen(tests, len(self._functions), list(dict.fromkeys([*damaged, *orphans])))


def _became(report: pytest.TestReport) -> tuple[Why, str] | None:
    """What a report says of its test; None while nothing is decided."""
    if report.skipped:
        if hasattr(report, "wasxfail"):
            return "xfailed", ""
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
        return "skipped", reason.removeprefix("Skipped: ")
    if report.failed and report.when != "teardown":
        crash = getattr(report.longrepr, "reprcrash", None)
        return "failed", str(getattr(crash, "message", report.longreprtext)).partition("\n")[0]
    return ("passed", "") if report.when == "call" and report.passed else None


def _file(test: str) -> str:
    return test.partition("::")[0]


def _waiting(
    files: Collection[str], stores: Sequence[BaselineStore], damaged: dict[str, None]
) -> dict[tuple[str, str], int]:
    """Test file and function -> how many accepted sessions wait for it; what cannot be read is added to `damaged` in
    words."""
    counts: dict[tuple[str, str], int] = {}
    for store in dict.fromkeys(stores):
        for file in files:
            try:
                known = store.load(file).values()
            except BaselineError as error:
                damaged[str(error)] = None
                continue
            for baseline in known:
                place = file, baseline.key.test
                counts[place] = max(counts.get(place, 0), len(baseline.sessions))
    return counts


def orphaned(functions: Mapping[str, Collection[str]], stores: Sequence[BaselineStore], root: Path) -> Iterator[str]:
    """A sentence on every baseline whose test is not there any more: nothing would ever be compared with it.

    `functions` are those of each test file that was collected as a whole; files beside them are looked at too.
    """
    for store in dict.fromkeys(stores):
        for file, present in functions.items():
            try:
                gone = {key.test for key in store.load(file)} - set(present)
            except BaselineError as error:
                yield str(error)
                continue
            for test in sorted(gone):
                yield (
                    f"{file}::{test} has a baseline but is no test any more (renamed, or its parameters changed?): "
                    f"accept it under its new name, and delete its entry from {store.path(file)}"
                )
        for folder in dict.fromkeys(PurePosixPath(file).parent for file in functions):
            for path in sorted(store.path(str(folder / "test.py")).parent.glob("*.json")):
                file = str(folder / path.with_suffix(".py").name)
                if path.name != NOISE_FILE and not (root / file).exists():
                    yield f"{path} has baselines of {file}, which is not there: delete it"
