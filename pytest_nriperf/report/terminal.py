"""What a terminal shows: progress while measuring, and the summary at the end. Text in, text out."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_nriperf.baselines import Verdict
from pytest_nriperf.units import format_percent, format_seconds, format_text, format_value

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
    """One metric of one measurement. `spread` is the relative range between runs, None for one run."""

    metric: str
    value: float
    unit: str
    spread: float | None
    verdict: Verdict | None = None
    note: str = ""


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


def summary(measurements: Sequence[MeasurementSummary]) -> Iterator[tuple[str, dict[str, bool]]]:
    """Lines with their markup: a heading a measurement, one aligned line a metric, reasons and warnings beneath."""
    rows = {id(line): _cells(line) for each in measurements for line in each.lines}
    widths = [max((len(cells[column]) for cells in rows.values()), default=0) for column in range(5)]
    for each in measurements:
        simulated = "  SIMULATED" if each.simulated else ""
        runs = f"{each.runs} run" + ("s" if each.runs != 1 else "")
        yield f"{format_text(each.test)}{simulated}", {"bold": True}
        yield f"  {each.sizes} · {format_text(each.model)} · {runs} · {format_text(each.path)}", {}
        for line in each.lines:
            yield "  " + "  ".join(_aligned(rows[id(line)], widths)).rstrip(), _markup(line.verdict)
            yield from ((f"      {format_text(text)}", {}) for text in _beneath(line))
        if each.failures:
            yield f"      {each.failures} requests failed; they are not in the figures", {"yellow": True}
        if any(line.verdict and line.verdict.outcome == "missing" and not line.note for line in each.lines):
            yield "      no baseline yet: store one with --nri-accept missing, or later with `nriperf accept`", {}
        yield from ((f"      {format_text(text)}", {}) for text in each.remarks)
        yield from ((f"      warning: {format_text(text)}", {"yellow": True}) for text in each.warnings)


def _cells(line: MetricLine) -> list[str]:
    """metric, value, spread, baseline, change with interval, verdict."""
    verdict = line.verdict
    cells = [line.metric, format_value(line.value, line.unit), ""]
    if line.spread is not None:
        cells[2] = f"±{line.spread * 100:.1f} %"
    if verdict is None:
        return [*cells, "", "", line.note]
    change = ""
    if verdict.effect is not None:
        change = format_percent(verdict.effect, signed=True)
        if verdict.interval is not None:
            low, high = (format_percent(limit, signed=True).removesuffix(" %") for limit in verdict.interval)
            change += f" [{low}, {high}]"
    baseline = "" if verdict.baseline is None else f"baseline {format_value(verdict.baseline, verdict.unit)}"
    return [*cells, baseline, change, line.note or verdict.outcome]


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    left = [cells[0].ljust(widths[0])]
    return [*left, *(cell.rjust(width) for cell, width in zip(cells[1:5], widths[1:5], strict=True)), cells[5]]


def _beneath(line: MetricLine) -> Iterator[str]:
    verdict = line.verdict
    if verdict is None or verdict.outcome in ("same", "missing"):
        return
    if verdict.reason:
        yield verdict.reason
    if verdict.advice and verdict.outcome != "better":
        yield verdict.advice
    if verdict.suspects and verdict.outcome in ("worse", "better"):
        yield "since the baseline: " + ", ".join(map(str, verdict.suspects))


def _markup(verdict: Verdict | None) -> dict[str, bool]:
    return {} if verdict is None else MARKUP[verdict.outcome]


def failure_message(verdicts: Sequence[Verdict], path: str) -> str:
    """All failing metrics in one message: baseline, now, change, evidence, suspects, next step."""
    lines = []
    for verdict in verdicts:
        change = format_percent(verdict.effect, signed=True)
        if verdict.interval is not None:
            low, high = (format_percent(limit, signed=True).removesuffix(" %") for limit in verdict.interval)
            change += f" [{low}, {high}]"
        simulated = " (SIMULATED)" if verdict.simulated else ""
        lines.append(
            f"{verdict.metric} {verdict.outcome}{simulated}: baseline {format_value(verdict.baseline, verdict.unit)}, "
            f"now {format_value(verdict.now, verdict.unit)}, change {change}"
        )
        sessions = f"{verdict.baseline_runs} runs of {verdict.baseline_sessions} sessions"
        lines.append(f"  {verdict.reason}; {verdict.runs} runs against {sessions}")
        if verdict.mde is not None:
            lines.append(f"  smallest change that these runs detect: {format_percent(verdict.mde)}")
        for title, differences in (("treatment", verdict.suspects), ("state", verdict.state_differences)):
            if differences:
                lines.append(f"  {title} since the baseline: {', '.join(map(str, differences))}")
        lines.extend(f"  warning: {text}" for text in verdict.warnings)
        if verdict.advice:
            lines.append(f"  next: {verdict.advice}")
    lines.append(f"recorded in {path}: look at it with `nriperf show {path}`")
    return "\n".join(map(format_text, lines))


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
        text = stage_text(stage)
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
