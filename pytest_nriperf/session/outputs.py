"""What a session leaves behind besides recordings: verdicts as JSON, a Markdown summary, a page, a GitHub job's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_nriperf.baselines import Verdict
from pytest_nriperf.report.document import verdict_document
from pytest_nriperf.report.markdown import markdown_summary, workflow_annotations
from pytest_nriperf.report.unseen import Unseen
from pytest_nriperf.settings import Settings
from pytest_nriperf.units import short_path

# GitHub cuts a step's summary off at 1 MiB, and shows ten annotations of a kind.
LARGEST_SUMMARY = 1 << 20


@dataclass(frozen=True)
class Line:
    """A line for the terminal; `lost` says that something which was asked for could not be written."""

    text: str
    lost: bool = False


def write_outputs(
    verdicts: Sequence[Verdict],
    settings: Settings,
    environment: Mapping[str, str],
    *,
    node: str,
    unseen: Unseen,
    recordings: Sequence[Path] = (),
    left_out: Sequence[str] = (),
) -> Iterator[Line]:
    """Write the files that were asked for and yield lines for the terminal: annotations, and where the files are.

    In a GitHub job the summary is also added to the job's page, and verdicts become annotations. What cannot be
    written keeps nothing else from being written.
    """
    text = markdown_summary(verdicts, node=node, unseen=unseen)
    if settings.json:
        document = verdict_document(verdicts, node=node, unseen=unseen)
        yield _written("verdicts", settings.path(settings.json), lambda path: _replace(path, document + "\n"))
    if settings.report and recordings:

        def page(path: Path) -> None:
            from pytest_nriperf.report.contents import gather
            from pytest_nriperf.report.html import write_report

            write_report(gather(recordings, verdicts, left_out=left_out), path)

        yield _written("report", settings.path(settings.report), page)
    if settings.summary:
        yield _written("summary", settings.path(settings.summary), lambda path: _replace(path, text))
    if not verdicts and not unseen.tests:
        return
    if environment.get("GITHUB_STEP_SUMMARY"):
        added = _written("summary", Path(environment["GITHUB_STEP_SUMMARY"]), lambda path: _add(path, text))
        yield from [added] if added.lost else []
    if environment.get("GITHUB_ACTIONS") == "true":
        top = Path(environment.get("GITHUB_WORKSPACE") or settings.root)
        folder = str(settings.root.relative_to(top)) if settings.root.is_relative_to(top) else ""
        yield from map(Line, workflow_annotations(verdicts, fail_on=settings.fail_on, unseen=unseen, folder=folder))


def _written(what: str, path: Path, write: Callable[[Path], None]) -> Line:
    try:
        write(path)
    except OSError as error:
        return Line(f"error: {what}: {short_path(path)} cannot be written ({error.strerror}); name another file", True)
    return Line(f"{what} written to {short_path(path)}")


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _add(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text.encode()[:LARGEST_SUMMARY].decode(errors="ignore"))
