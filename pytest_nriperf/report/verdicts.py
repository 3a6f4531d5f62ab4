"""Verdicts as an aligned table of plain text, for the commands that judge."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from pytest_nriperf.baselines import OUTCOMES, Verdict
from pytest_nriperf.units import format_percent, format_value

HEADINGS = ("metric", "baseline", "now", "change", "interval", "p", "MDE", "runs", "verdict")


def verdict_table(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """A heading a test, a line a metric, what there is to say beneath; a count at the end."""
    widths = [max(map(len, column)) for column in zip(HEADINGS, *map(cells, verdicts), strict=True)]
    for test, group in itertools.groupby(verdicts, lambda verdict: verdict.test):
        own = list(group)
        yield f"{printable(test)}{'  SIMULATED' if any(verdict.simulated for verdict in own) else ''}"
        yield "  " + _aligned(HEADINGS, widths)
        told, shared = parted([list(remarks(verdict)) for verdict in own])
        for verdict, texts in zip(own, told, strict=True):
            yield "  " + _aligned(cells(verdict), widths)
            yield from (f"      {printable(text)}" for text in texts)
        yield from (f"  all: {printable(text)}" for text in shared)
    yield counted(verdicts)


def parted(texts: Sequence[Sequence[str]]) -> tuple[list[list[str]], list[str]]:
    """Of several lists of texts, what is each one's own, and what all have: that is said once.

    >>> parted([["worse", "steal"], ["steal"]])
    ([['worse'], []], ['steal'])
    >>> parted([["worse", "steal"]])
    ([['worse', 'steal']], [])
    """
    shared = [text for text in texts[0] if all(text in other for other in texts)] if len(texts) > 1 else []
    return [[text for text in own if text not in shared] for own in texts], shared


def cells(verdict: Verdict) -> tuple[str, ...]:
    """What the columns of HEADINGS say of a verdict."""
    return (
        verdict.metric,
        format_value(verdict.baseline, verdict.unit),
        format_value(verdict.now, verdict.unit),
        format_percent(verdict.effect, signed=True),
        interval(verdict),
        "-" if verdict.p is None else f"{verdict.p:.2g}",
        format_percent(verdict.mde),
        f"{verdict.runs} v {verdict.baseline_runs}",
        verdict.word,
    )


def interval(verdict: Verdict) -> str:
    """The interval of the change, `-` where there is none.

    >>> interval(Verdict("itl", "unknown", "", interval=(-0.01, float("inf"))))
    '[-1.0, +inf] %'
    """
    if verdict.interval is None:
        return "-"
    low, high = (f"{limit * 100:+.1f}" for limit in verdict.interval)
    return f"[{low}, {high}] %"


def remarks(verdict: Verdict) -> Iterator[str]:
    """Everything beside the figures: reason, normalised figure, suspects, state, warnings, next step."""
    if verdict.reason:
        yield verdict.reason
    if verdict.normalised is not None:
        yield f"normalised by the reference load: {format_percent(verdict.normalised, signed=True)}"
    if verdict.suspects and verdict.outcome in ("worse", "better", "unknown"):
        yield f"since the baseline: {', '.join(map(str, verdict.suspects))}"
    if verdict.state_differences:
        yield f"machine state: {', '.join(map(str, verdict.state_differences))}"
    if verdict.session_spread is not None and verdict.outcome in ("worse", "better", "unknown"):
        yield f"sessions differ by {format_percent(verdict.session_spread)} ({verdict.session_spread_source})"
    if verdict.explanation:
        yield f"with it moved: {verdict.explanation}"
    yield from (f"warning: {text}" for text in verdict.warnings)
    if verdict.advice:
        yield f"next: {verdict.advice}"


def counted(verdicts: Sequence[Verdict]) -> str:
    """How many of each outcome; a baseline that begins is stored, no longer missing.

    >>> counted([Verdict("itl", "same", ""), Verdict("ttft", "worse", ""), Verdict("e2e", "same", "")])
    '1 worse, 2 same'
    """
    counts = {word: sum(one.word == word for one in verdicts) for word in (*OUTCOMES, "stored")}
    return ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count) or "nothing to judge"


def printable(text: str) -> str:
    """The text without control characters: names of tests and models are strangers' input."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    left, *middle, last = (
        cell.ljust(width) if not at else cell.rjust(width) for at, (cell, width) in _placed(row, widths)
    )
    return "  ".join([left, *middle, last.strip()])


def _placed(row: Sequence[str], widths: Sequence[int]) -> Iterator[tuple[int, tuple[str, int]]]:
    return enumerate(zip(row, widths, strict=True))
