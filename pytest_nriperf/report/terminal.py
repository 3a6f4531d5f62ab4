"""What a terminal shows: progress while measuring, and the summary at the end. Text in, text out."""

from __future__ import annotations

import math
import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_nriperf.baselines import Verdict
from pytest_nriperf.report.verdicts import parted
from pytest_nriperf.units import format_percent, format_seconds, format_text, format_value, short_path

# How often a line is written where lines cannot be rewritten (a CI log), seconds.
QUIET_EVERY_S = 30.0

MARKUP = {
    "worse": {"red": True, "bold": True},
    "incomparable": {"red": True},
    "better": {"green": True, "bold": True},
    "same": {"green": True},
    "missing": {"yellow": True},
    "unknown": {"yellow": True},
}


@dataclass(frozen=True)
class MetricLine:
    """One metric of one measurement. `spread` is the relative range between runs, None for one run.

    Of variants, `name` is whose value this is, `against` the other's name and value.
    """

    metric: str
    value: float
    unit: str
    spread: float | None
    verdict: Verdict | None = None
    name: str = ""
    against: tuple[str, float] | None = None


@dataclass(frozen=True)
class MeasurementSummary:
    """One measurement as the summary shows it."""

    test: str
    sizes: str
    model: str
    runs: int
    path: str
    lines: Sequence[MetricLine]
    failures: int = 0
    simulated: bool = False
    remarks: Sequence[str] = ()
    warnings: Sequence[str] = ()
    counted: str = "run"
    function: str = ""
    node: str = ""


def summary(measurements: Sequence[MeasurementSummary]) -> Iterator[tuple[str, dict[str, bool]]]:
    """Lines with their markup: a heading a measurement, one aligned line a metric, reasons and warnings beneath."""
    rows = {id(line): _cells(line) for each in measurements for line in each.lines}
    widths = [max((len(cells[column]) for cells in rows.values()), default=0) for column in range(5)]
    for each in measurements:
        simulated = "  SIMULATED" if each.simulated else ""
        runs = f"{each.runs} {each.counted}" + ("s" if each.runs != 1 else "")
        yield f"{format_text(each.test)}{simulated}", {"bold": True}
        yield f"  {each.sizes} · {format_text(each.model)} · {runs} · {format_text(each.path)}", {}
        for line in each.lines:
            yield "  " + "  ".join(_aligned(rows[id(line)], widths)).rstrip(), _markup(line.verdict)
            yield from ((f"      {format_text(text)}", {}) for text in _beneath(line))
        if each.failures:
            yield f"      {each.failures} requests failed; they are not in the figures", {"yellow": True}
        judged = [line.verdict for line in each.lines if line.verdict is not None]
        yield from ((f"      {format_text(text)}", {}) for text in next_steps(judged))
        yield from ((f"      {format_text(text)}", {}) for text in each.remarks)
        yield from ((f"      warning: {format_text(text)}", {"yellow": True}) for text in each.warnings)
    yield from ((text, {}) for text in nodes_side_by_side(measurements))


def nodes_side_by_side(measurements: Sequence[MeasurementSummary]) -> Iterator[str]:
    """A table of what was measured on several nodes: a line a function and metric, a column a node."""
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for each in measurements:
        for line in each.lines:
            spread = "" if line.spread is None else f" ±{line.spread * 100:.1f} %"
            where = cells.setdefault((format_text(each.function or each.test), line.metric), {})
            where.setdefault(format_text(each.node), f"{format_value(line.value, line.unit)}{spread}")
    table = {row: found for row, found in cells.items() if len(found) > 1}
    nodes = list(dict.fromkeys(node for found in table.values() for node in found))
    rows = [("nodes side by side", "", *nodes)]
    rows += [
        (function, metric, *(found.get(node, "") for node in nodes)) for (function, metric), found in table.items()
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows if table else ():
        left = [cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)]
        yield "  ".join([*left, *(cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True))]).rstrip()


def _cells(line: MetricLine) -> list[str]:
    """metric, value, spread, what it is compared with, change with interval, verdict."""
    verdict = line.verdict
    cells = [line.metric, f"{format_text(line.name)} {format_value(line.value, line.unit)}".strip(), ""]
    if line.spread is not None:
        cells[2] = f"±{line.spread * 100:.1f} %"
    return [*cells, _compared(line), _change(line), verdict.word if verdict else ""]


def _compared(line: MetricLine) -> str:
    if line.against is not None:
        return f"{format_text(line.against[0])} {format_value(line.against[1], line.unit)}"
    if line.verdict is None or line.verdict.baseline is None:
        return ""
    return f"baseline {format_value(line.verdict.baseline, line.verdict.unit)}"


def _change(line: MetricLine) -> str:
    """The judged change with its interval; without a verdict the plain one of variants."""
    verdict = line.verdict
    if verdict is None:
        plain = line.value / line.against[1] - 1 if line.against and line.against[1] else None
        return "" if plain is None else format_percent(plain, signed=True)
    return "" if verdict.effect is None else change_text(verdict)


def change_text(verdict: Verdict) -> str:
    """The change in percent, its interval behind it where so many runs give one."""
    change = format_percent(verdict.effect, signed=True)
    if verdict.interval is None or not math.isfinite(verdict.interval[1]):
        return change
    low, high = (format_percent(limit, signed=True).removesuffix(" %") for limit in verdict.interval)
    return f"{change} [{low}, {high}]"


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    left = [cells[0].ljust(widths[0])]
    return [*left, *(cell.rjust(width) for cell, width in zip(cells[1:5], widths[1:5], strict=True)), cells[5]]


def _beneath(line: MetricLine) -> Iterator[str]:
    verdict = line.verdict
    if verdict is None or verdict.outcome in ("same", "missing"):
        return
    if verdict.reason:
        yield verdict.reason
    if verdict.normalised is not None:
        yield f"normalised by the reference load: {format_percent(verdict.normalised, signed=True)}"
    if verdict.explanation:
        yield f"with it moved: {verdict.explanation}"
    if verdict.suspects and verdict.outcome in ("worse", "better"):
        yield "since the baseline: " + ", ".join(map(str, verdict.suspects))


def _markup(verdict: Verdict | None) -> dict[str, bool]:
    return {} if verdict is None else MARKUP[verdict.outcome]


def failure_message(verdicts: Sequence[Verdict], path: str, sides: tuple[str, str] = ("baseline", "now")) -> str:
    """All failing metrics in one message: baseline, now, change, evidence, suspects, next step.

    `sides` are the names of what is compared.
    """
    own, shared = parted([list(_evidence(verdict, sides)) for verdict in verdicts])
    lines = []
    for verdict, texts in zip(verdicts, own, strict=True):
        simulated = " (SIMULATED)" if verdict.simulated else ""
        before, now = (format_value(value, verdict.unit) for value in (verdict.baseline, verdict.now))
        figures = f"{sides[0]} {before}, {sides[1]} {now}, change {change_text(verdict)}"
        lines.append(f"{verdict.metric} {verdict.outcome}{simulated}: {figures}")
        lines += [f"  {text}" for text in texts]
    if shared:
        lines += ["all of these:", *(f"  {text}" for text in shared)]
    lines += next_steps(verdicts)
    lines.append(f"recorded in {path}; look at it: nriperf show {shlex.quote(short_path(path))}")
    return "\n".join(map(format_text, lines))


def _evidence(verdict: Verdict, sides: tuple[str, str]) -> Iterator[str]:
    """What a verdict rests on, and what else may have caused it."""
    stored = sides == ("baseline", "now")
    sessions = f"{verdict.runs} runs against {verdict.baseline_runs} runs of {verdict.baseline_sessions} sessions"
    yield f"{verdict.reason}; {sessions if stored else f'{verdict.runs} pairs of runs'}"
    if verdict.p is not None and verdict.outcome not in ("worse", "better"):
        yield f"p = {verdict.p:.2g}, one-sided"
    if verdict.normalised is not None:
        yield f"normalised by the reference load: {format_percent(verdict.normalised, signed=True)}"
    if verdict.session_spread is not None:
        yield f"sessions differ by {format_percent(verdict.session_spread)} ({verdict.session_spread_source})"
    if verdict.mde is not None:
        yield f"smallest change that these runs detect: {format_percent(verdict.mde)}"
    for title, differences in (("treatment", verdict.suspects), ("state", verdict.state_differences)):
        if differences:
            yield f"{title} since {'the baseline' if stored else sides[0]}: {', '.join(map(str, differences))}"
    yield from (f"warning: {text}" for text in verdict.warnings)
    if verdict.explanation:
        yield f"with it moved: {verdict.explanation}"


def next_steps(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """What to do, each step once, ending as it can be pasted; whose step it is unless all have the same.

    >>> first, second = (Verdict(name, "unknown", "", advice="measure 9 runs") for name in ("itl", "ttft"))
    >>> list(next_steps([first, second]))
    ['next: measure 9 runs']
    >>> list(next_steps([first, second, Verdict("e2e", "unknown", "", advice="measure 7 runs")]))
    ['next for itl, ttft: measure 9 runs', 'next for e2e: measure 7 runs']
    """
    steps: dict[str, dict[str, None]] = {}
    for verdict in verdicts:
        if verdict.advice and verdict.outcome not in ("same", "better"):
            steps.setdefault(verdict.advice, {})[verdict.metric] = None
    for advice, metrics in steps.items():
        whose = f" for {', '.join(metrics)}" if len(metrics) < len(verdicts) else ""
        yield f"next{whose}: {advice}"


class ProgressLine:
    """Shows stages of a measurement: one rewritten line on a terminal, a quiet line now and then elsewhere.

    `write` takes text as it is (carriage returns included), `fresh_line` makes sure that a line begins.
    """

    def __init__(
        self,
        write: Callable[[str], Any],
        fresh_line: Callable[[], Any],
        *,
        terminal: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._write = write
        self._fresh_line = fresh_line
        self._terminal = terminal
        self._clock = clock
        self._shown_s: float | None = None
        self._open = False
        self.remark = ""

    def __call__(self, stage: Any) -> None:
        """Show a `Stage`; cheap enough for every token, since most calls show nothing."""
        now = self._clock()
        if stage.phase == "done":
            self._end()
            return
        if self._shown_s is None and not self._terminal:
            self._shown_s = now
        pause = 0.1 if self._terminal else QUIET_EVERY_S
        if self._shown_s is not None and now - self._shown_s < pause:
            return
        self._shown_s = now
        if not self._open:
            self._fresh_line()
            self._open = True
        text = f"{stage_text(stage)}; {self.remark}" if self.remark else stage_text(stage)
        if self._terminal:
            width = shutil.get_terminal_size().columns - 1
            self._write(f"\r\x1b[2K{text[:width]}")
        else:
            self._write(f"{text}\n")

    def _end(self) -> None:
        if self._open and self._terminal:
            self._write("\r\x1b[2K")
        self._open = False
        self._shown_s = None

    def note(self, text: str) -> None:
        """A line that stays, of something that happens once and takes long."""
        self._end()
        self._fresh_line()
        self._write(f"  {format_text(text)}\n")

    def clear(self) -> None:
        """Leave no half line behind, also after an error."""
        self._end()


def stage_text(stage: Any) -> str:
    """One stage in one line."""
    name = format_text(stage.test.rpartition("::")[2])
    text = f"  {name}: run {stage.run}/{stage.runs}"
    if stage.replicas > 1:
        text += f", {stage.replicas} replicas"
    if stage.phase == "measuring":
        text += f", {stage.tokens}/{stage.tokens_expected} tokens"
    else:
        text += f", {stage.phase}"
    text += f", {format_seconds(stage.elapsed_s)}"
    return text if stage.left_s is None else f"{text}, about {format_seconds(stage.left_s)} left"
