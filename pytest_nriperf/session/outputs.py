"""What a session leaves behind besides recordings: verdicts as JSON, a Markdown summary, a page, a GitHub job's own."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from pytest_nriperf.baselines import BaselineStore, Verdict
from pytest_nriperf.baselines.noise import NOISE_FILE
from pytest_nriperf.errors import BaselineError, SettingsError
from pytest_nriperf.metrics import Measurement
from pytest_nriperf.report.document import verdict_document
from pytest_nriperf.report.markdown import markdown_summary, workflow_annotations
from pytest_nriperf.report.verdicts import printable
from pytest_nriperf.settings import Settings

# GitHub cuts a step's summary off at 1 MiB, and shows ten annotations of a kind.
LARGEST_SUMMARY = 1 << 20


def write_outputs(
    verdicts: Sequence[Verdict],
    settings: Settings,
    environment: Mapping[str, str],
    *,
    node: str,
    recordings: Sequence[Path] = (),
    left_out: Sequence[str] = (),
) -> Iterator[str]:
    """Write the files that were asked for and yield lines for the terminal: annotations, and where the files are.

    In a GitHub job the summary is also added to the job's page, and verdicts become annotations.
    """
    if settings.json:
        yield _written(settings.path(settings.json), verdict_document(verdicts, node=node) + "\n", "verdicts")
    if settings.report and recordings:
        from pytest_nriperf.report.contents import gather
        from pytest_nriperf.report.html import write_report

        path = settings.path(settings.report)
        try:
            write_report(gather(recordings, verdicts, left_out=left_out), path)
        except OSError as error:
            raise SettingsError(f"report: {path} cannot be written ({error.strerror})", "name another file") from error
        yield f"report written to {path}"
    text = markdown_summary(verdicts, node=node)
    if settings.summary:
        yield _written(settings.path(settings.summary), text, "summary")
    if not verdicts:
        return
    if environment.get("GITHUB_STEP_SUMMARY"):
        with Path(environment["GITHUB_STEP_SUMMARY"]).open("a", encoding="utf-8") as file:
            file.write(text.encode()[:LARGEST_SUMMARY].decode(errors="ignore"))
    if environment.get("GITHUB_ACTIONS") == "true":
        yield from workflow_annotations(verdicts, fail_on=settings.fail_on)


def unjudged(passed: Sequence[str], judged: Sequence[Measurement]) -> Iterator[str]:
    """A warning for every gated test that passed without a verdict: it would stay green whatever became slower."""
    seen = {str(measurement.document["test"]) for measurement in judged}
    for test in passed:
        if test not in seen:
            yield (
                f"warning: {printable(test)} passed although its gate judged nothing; "
                "let it call baseline.check with what it measured"
            )


def left_unmeasured(skipped: Sequence[tuple[str, str]], stores: Sequence[BaselineStore]) -> Iterator[str]:
    """A warning for every gated test (its id and its function) that was skipped though a baseline waits for it."""
    for test, function in skipped:
        try:
            known = [each for store in stores for each in store.load(test.partition("::")[0]).values()]
        except BaselineError as error:
            yield f"warning: {printable(str(error))}"
            continue
        found = [baseline for baseline in known if baseline.key.test == function]
        if found:
            count = max(len(baseline.sessions) for baseline in found)
            sessions = "1 session" if count == 1 else f"{count} sessions"
            words = f"was skipped: a baseline of its function ({sessions}) was compared with nothing"
            yield f"warning: {printable(test)} {words}"


def abandoned(functions: Mapping[str, Collection[str]], stores: Sequence[BaselineStore], root: Path) -> Iterator[str]:
    """A warning for every baseline whose test is not there any more: nothing would ever be compared with it.

    `functions` are those of each test file that was collected as a whole; files beside them are looked at too.
    """
    for store in dict.fromkeys(stores):
        for file, present in functions.items():
            try:
                gone = {key.test for key in store.load(file)} - set(present)
            except BaselineError as error:
                yield f"warning: {printable(str(error))}"
                continue
            for test in sorted(gone):
                yield (
                    f"warning: {printable(f'{file}::{test}')} has a baseline but is no test any more (renamed, or its "
                    f"parameters changed?): accept it under its new name, and delete its entry from {store.path(file)}"
                )
        for folder in dict.fromkeys(PurePosixPath(file).parent for file in functions):
            for path in sorted(store.path(str(folder / "test.py")).parent.glob("*.json")):
                file = str(folder / path.with_suffix(".py").name)
                if path.name != NOISE_FILE and not (root / file).exists():
                    yield f"warning: {path} has baselines of {printable(file)}, which is not there: delete it"


def _written(path: Path, text: str, what: str) -> str:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"{what}: {path} cannot be written ({error.strerror})", "name another file") from error
    return f"{what} written to {path}"
