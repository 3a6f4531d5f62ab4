"""Verdicts for a job's summary page and its annotations. Whatever comes from outside is escaped."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import PurePath

from pytest_nriperf.baselines import Verdict
from pytest_nriperf.report.unseen import ALL_SEEN, Unseen
from pytest_nriperf.report.verdicts import cells, counted, parted, printable, remarks

_MARKS = {"worse": "🔴", "incomparable": "⛔", "unknown": "⚪", "missing": "⚪", "better": "🟢", "same": "✅"}
_COLUMNS = ("test", "metric", "baseline", "now", "change", "interval", "MDE", "runs", "verdict")


def markdown_summary(
    verdicts: Sequence[Verdict], *, title: str = "Performance", node: str = "", unseen: Unseen = ALL_SEEN
) -> str:
    """A summary that a person reads in ten seconds: the count, a table, what was not judged, and what to do."""
    where = f" on {escaped(node)}" if node else ""
    simulated = " **SIMULATED**" if any(verdict.simulated for verdict in verdicts) else ""
    lines = [f"## {escaped(title)}{where}: {counted(verdicts)}{simulated}", ""]
    if verdicts:
        lines += [_row(_COLUMNS), _row(["---"] * len(_COLUMNS))]
        lines += [_row(_cells(verdict)) for verdict in verdicts]
    told = [verdict for verdict in verdicts if verdict.outcome != "same" or verdict.warnings]
    if told:
        lines += ["", "<details><summary>Reasons and next steps</summary>", ""]
        for test, group in itertools.groupby(told, lambda verdict: verdict.test):
            lines += _told(test, list(group))
        lines += ["", "</details>"]
    if unseen.tests:
        lines += ["", f"<details><summary>{escaped(unseen.counted)}</summary>", ""]
        lines += [*(f"- {escaped(str(one))}" for one in unseen.tests), "", "</details>"]
    if unseen.baselines:
        lines += ["", *(f"- {escaped(text)}" for text in unseen.baselines)]
    return "\n".join(lines) + "\n"


def workflow_annotations(
    verdicts: Sequence[Verdict],
    *,
    fail_on: Sequence[str] = ("worse",),
    unseen: Unseen = ALL_SEEN,
    folder: str = "",
) -> Iterator[str]:
    """Workflow commands that mark the test files on the pull request: errors for what fails, warnings for the rest.

    What is fine has none, nor has a baseline that begins with this session. `folder` is where the tests' root lies in
    the repository.
    """
    for verdict in verdicts:
        if verdict.begun or (verdict.outcome in ("same", "better") and verdict.outcome not in fail_on):
            continue
        level = "error" if verdict.outcome in fail_on else "warning"
        title = f"{verdict.metric} {verdict.outcome}"
        yield _annotation(
            level, folder, verdict.test, title, "; ".join([f"{verdict.test}: {title}", *remarks(verdict)])
        )
    for one in unseen.tests:
        if one.silent or one.why == "failed":
            level = "error" if one.why == "failed" else "warning"
            yield _annotation(level, folder, one.test, "not judged", str(one))


def _told(test: str, verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Each verdict of a test with what there is to say of it, then what is to be said of all."""
    own, shared = parted([list(remarks(verdict)) for verdict in verdicts])
    for verdict, texts in zip(verdicts, own, strict=True):
        if texts:
            yield f"- **{escaped(test)} · {escaped(verdict.metric)}: {verdict.word}**"
            yield from (f"  - {escaped(text)}" for text in texts)
    if shared:
        yield f"- **{escaped(test)} · {escaped(', '.join(verdict.metric for verdict in verdicts))}**"
        yield from (f"  - {escaped(text)}" for text in shared)


def _annotation(level: str, folder: str, test: str, title: str, text: str) -> str:
    file = (PurePath(folder) / test.partition("::")[0]).as_posix()
    return f"::{level} file={_property(file)},title={_property(title)}::{_data(text)}"


def escaped(text: str) -> str:
    """Text that Markdown and HTML show as it is, on one line.

    >>> escaped("a|b <b> *c*")
    'a\\\\|b &lt;b&gt; \\\\*c\\\\*'
    """
    flat = re.sub(r"\s+", " ", "".join(mark if mark.isprintable() else " " for mark in text))
    flat = flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~#@])", r"\\\1", flat)


def _cells(verdict: Verdict) -> list[str]:
    metric, baseline, now, change, interval, _, mde, runs, outcome = cells(verdict)
    found = (verdict.test, metric, baseline, now, change, interval, mde, runs)
    return [*map(escaped, found), f"{'✅' if verdict.begun else _MARKS[verdict.outcome]} {outcome}"]


def _row(row: Sequence[str]) -> str:
    return f"| {' | '.join(row)} |"


def _data(text: str) -> str:
    """Line ends as the runner reads them; all else that no terminal should get is shown as `?`."""
    lines = re.split(r"(\r|\n)", text.replace("%", "%25"))
    return "".join({"\r": "%0D", "\n": "%0A"}.get(part) or printable(part) for part in lines)


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
