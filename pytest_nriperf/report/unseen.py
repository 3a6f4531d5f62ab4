"""What a gate did not look at: a session that silently judged nothing is green by accident."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pytest_nriperf.units import format_text

Why = Literal["skipped", "passed", "failed", "xfailed", "not selected", "not run"]

_WORDS: dict[Why, str] = {
    "skipped": "was skipped",
    "passed": "passed without a verdict; let it call baseline.check with what it measured",
    "failed": "failed before it judged anything",
    "xfailed": "failed as expected, before it judged anything",
    "not selected": "was not selected",
    "not run": "was not run",
}


@dataclass(frozen=True)
class Unjudged:
    """A test that asks for verdicts and got none: why, the reason that was given, and how many sessions waited for it.

    >>> print(Unjudged("test_a.py::test_a", "skipped", "not today", sessions=1))
    test_a.py::test_a was skipped (not today): its baseline (1 session) was compared with nothing
    """

    test: str
    why: Why
    reason: str = ""
    sessions: int = 0

    def __str__(self) -> str:
        reason = f" ({self.reason})" if self.reason else ""
        count = "1 session" if self.sessions == 1 else f"{self.sessions} sessions"
        waiting = f": its baseline ({count}) was compared with nothing" if self.sessions else ""
        return f"{self.test} {_WORDS[self.why]}{reason}{waiting}"

    @property
    def silent(self) -> bool:
        """Whether nothing else says so: the test is green or grey, and something should have been compared."""
        return self.why == "passed" or (self.why == "skipped" and self.sessions > 0)


@dataclass(frozen=True)
class Unseen:
    """Of a session: tests that were not judged, of how many that ask for it; and sentences on baselines of no test."""

    tests: Sequence[Unjudged] = ()
    asking: int = 0
    baselines: Sequence[str] = ()

    @property
    def counted(self) -> str:
        """How many tests were judged, and what became of the others; empty where all were.

        >>> Unseen([Unjudged("a", "skipped"), Unjudged("b", "not run"), Unjudged("c", "skipped")], asking=5).counted
        '2 of 5 gated tests judged; 2 skipped, 1 not run'
        """
        if not self.tests:
            return ""
        counts = Counter("passed without a verdict" if one.why == "passed" else one.why for one in self.tests)
        others = ", ".join(f"{count} {why}" for why, count in counts.items())
        return f"{self.asking - len(self.tests)} of {self.asking} gated tests judged; {others}"

    @property
    def silent(self) -> list[str]:
        """Sentences on what nothing else tells of."""
        return [*(str(one) for one in self.tests if one.silent), *self.baselines]

    def lines(self) -> Iterator[str]:
        """For a terminal: the count, and a warning for each that nothing else tells of."""
        if self.counted:
            yield self.counted
        yield from (f"warning: {format_text(text)}" for text in self.silent)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"not_judged": [asdict(one) for one in self.tests], "unused_baselines": list(self.baselines)}


ALL_SEEN = Unseen()
