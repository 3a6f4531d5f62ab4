"""What a check is given, and what it says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_nriperf.topology import Topology

Read = Callable[[str], bytes | None]

# Worst first. `spoils`: figures of this node are not worth judging; `disturbs`: they spread or shift, and repeat less
# well; `notice`: good to know when figures are read; `unknown`: the node does not tell; `good`.
LEVELS = ("spoils", "disturbs", "notice", "unknown", "good")
SURE = ("certain", "likely", "possible")


@dataclass(frozen=True)
class Finding:
    """One check's answer: what it `found`, the `effect` on a measurement, how `sure` we are of the effect (certain,
    likely, possible), and the command or step that `mend`s it. Effect and mend are empty where all is good."""

    check: str
    level: str
    found: str
    effect: str = ""
    sure: str = ""
    mend: str = ""

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise ValueError(f"{self.check}: level {self.level!r} is none of {', '.join(LEVELS)}")
        if self.sure and self.sure not in SURE:
            raise ValueError(f"{self.check}: {self.sure!r} is none of {', '.join(SURE)}")
        if self.level in ("spoils", "disturbs") and not (self.effect and self.sure and self.mend):
            raise ValueError(f"{self.check}: a finding that {self.level} says its effect, how sure, and what mends it")


@dataclass(frozen=True)
class Examined:
    """A node under examination.

    `read` returns a file of the node or None; `allowed` are the CPUs that may be given out; `earlier` are contents of
    files as they were `seconds` before, for what only a difference tells; `facts` are what no file tells:
    `numactl` (its path or None), `bind_memory` and `lock` (empty, or why not), `cpuset` (the mechanism), and those of
    `collect.health`.
    """

    read: Read
    topology: Topology
    allowed: frozenset[int]
    earlier: Mapping[str, bytes] = field(default_factory=dict)
    seconds: float = 0.0
    facts: Mapping[str, Any] = field(default_factory=dict)

    def text(self, path: str) -> str | None:
        """A file as stripped text, None when it is absent or may not be read."""
        content = self.read(path)
        return None if content is None else content.decode(errors="replace").strip()

    def number(self, path: str) -> int | None:
        """A file that holds one number, None when it is absent or holds something else."""
        text = self.text(path)
        return int(text) if text is not None and text.lstrip("-").isdigit() else None

    def chosen(self, path: str) -> str | None:
        """The bracketed word of a file that offers choices, else its text."""
        text = self.text(path)
        if text is None or "[" not in text:
            return text
        return text.partition("[")[2].partition("]")[0]

    def before_and_now(self, path: str) -> tuple[str, str] | None:
        """A file's two readings; without an earlier one the first is empty: since boot. None when it is absent."""
        now = self.text(path)
        return None if now is None else (self.earlier.get(path, b"").decode(errors="replace"), now)


@dataclass(frozen=True)
class Check:
    """A question to a node. `look` gives one or more findings, none where the question has no meaning."""

    name: str
    question: str
    look: Callable[[Examined], Sequence[Finding]]


def examine_with(checks: Sequence[Check], node: Examined) -> list[Finding]:
    """Findings of the checks, worst first; a check never stops another one."""
    found = [finding for check in checks for finding in check.look(node)]
    return sorted(found, key=lambda finding: LEVELS.index(finding.level))
