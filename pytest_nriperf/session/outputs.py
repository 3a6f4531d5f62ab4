"""What a session leaves behind besides recordings: verdicts as JSON, a Markdown summary, a page, a GitHub job's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pytest_nriperf.baselines import Verdict
from pytest_nriperf.errors import SettingsError
from pytest_nriperf.report.document import verdict_document
from pytest_nriperf.report.markdown import markdown_summary, workflow_annotations
from pytest_nriperf.report.unseen import Unseen
from pytest_nriperf.settings import Settings

# GitHub cuts a step's summary off at 1 MiB, and shows ten annotations of a kind.
LARGEST_SUMMARY = 1 << 20


def write_outputs(
    verdicts: Sequence[Verdict],
    settings: Settings,
    environment: Mapping[str, str],
    *,
    node: str,
    unseen: Unseen,
    recordings: Sequence[Path] = (),
    left_out: Sequence[str] = (),
) -> Iterator[str]:
    """Write the files that were asked for and yield lines for the terminal: annotations, and where the files are.

    In a GitHub job the summary is also added to the job's page, and verdicts become annotations.
    """
    if settings.json:
        document = verdict_document(verdicts, node=node, unseen=unseen)
        yield _written(settings.path(settings.json), document + "\n", "verdicts")
    if settings.report and recordings:
        from pytest_nriperf.report.contents import gather
        from pytest_nriperf.report.html import write_report

        path = settings.path(settings.report)
        try:
            write_report(gather(recordings, verdicts, left_out=left_out), path)
        except OSError as error:
            raise SettingsError(f"report: {path} cannot be written ({error.strerror})", "name another file") from error
        yield f"report written to {path}"
    text = markdown_summary(verdicts, node=node, unseen=unseen)
    if settings.summary:
        yield _written(settings.path(settings.summary), text, "summary")
    if not verdicts and not unseen.tests:
        return
    if environment.get("GITHUB_STEP_SUMMARY"):
        with Path(environment["GITHUB_STEP_SUMMARY"]).open("a", encoding="utf-8") as file:
            file.write(text.encode()[:LARGEST_SUMMARY].decode(errors="ignore"))
    if environment.get("GITHUB_ACTIONS") == "true":
        top = Path(environment.get("GITHUB_WORKSPACE") or settings.root)
        folder = str(settings.root.relative_to(top)) if settings.root.is_relative_to(top) else ""
        yield from workflow_annotations(verdicts, fail_on=settings.fail_on, unseen=unseen, folder=folder)


def _written(path: Path, text: str, what: str) -> str:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"{what}: {path} cannot be written ({error.strerror})", "name another file") from error
    return f"{what} written to {path}"
