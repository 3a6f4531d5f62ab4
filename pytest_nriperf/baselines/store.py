"""The folder of baselines: `<folder>/<node>/<test file>.json`, appended to, restarted, never damaged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pytest_nriperf.baselines.files import decode, encode, is_there, locked, read_json, render, write_json
from pytest_nriperf.baselines.sessions import Baseline, BaselineKey, SessionRecord
from pytest_nriperf.baselines.verdict import Verdict
from pytest_nriperf.errors import BaselineError

WINDOW = 10
ANCHORS = 3


@dataclass(frozen=True)
class BaselineStore:
    """Baselines of one node.

    `window` sessions are kept, the newest; besides them the first `anchors` since the last restart stay pinned, so
    that a slow drift is seen against them.
    """

    folder: Path
    node: str
    simulated: bool = False
    window: int = WINDOW
    anchors: int = ANCHORS

    def path(self, test_file: str) -> Path:
        """The file that holds the baselines of a test file (its path relative to the root of the tests).

        >>> BaselineStore(Path("baselines"), "xeon1").path("perf_suites/test_latency.py").as_posix()
        'baselines/xeon1/perf_suites/test_latency.json'
        """
        parts = [part for part in PurePosixPath(test_file).with_suffix(".json").parts if part not in ("/", "..", ".")]
        return self.folder.joinpath(_safe(self.node), *parts)

    def load(self, test_file: str) -> dict[BaselineKey, Baseline]:
        """All baselines of a test file, empty when there is none. Raises BaselineError when the file is damaged."""
        path = self.path(test_file)
        if not is_there(path):
            return {}
        document = read_json(path)
        if bool(document.get("simulated")) != self.simulated:
            kind = ("simulated", "real") if document.get("simulated") else ("real", "simulated")
            raise BaselineError(
                f"{path} is of a {kind[0]} node, this session is {kind[1]}", "use another --nri-baselines"
            )
        return decode(document, path)

    def find(self, test_file: str, key: BaselineKey) -> Baseline | None:
        """The baseline of one key, None where none was accepted."""
        return self.load(test_file).get(key)

    def append(
        self, test_file: str, key: BaselineKey, record: SessionRecord, verdicts: Sequence[Verdict] = ()
    ) -> Baseline:
        """Add a session; one of the same name is replaced.

        Raises BaselineError for a session judged worse or incomparable: it can only restart.
        """
        with locked(self.folder):
            return self._write(test_file, self.grown(test_file, key, record, verdicts))

    def restart(self, test_file: str, key: BaselineKey, record: SessionRecord) -> Baseline:
        """Forget what was accepted and begin with this session."""
        with locked(self.folder):
            return self._write(test_file, self.restarted(key, record))

    def grown(
        self, test_file: str, key: BaselineKey, record: SessionRecord, verdicts: Sequence[Verdict] = ()
    ) -> Baseline:
        """What `append` would make, nothing written. Raises BaselineError where it would."""
        worse = [verdict.metric for verdict in verdicts if verdict.outcome == "worse"]
        if worse:
            raise BaselineError(
                f"session {record.session} of {key.test} is worse than the baseline ({', '.join(worse)})",
                "mend it, or after an intended change start anew: nriperf accept --restart",
            )
        unlike = next((verdict.reason for verdict in verdicts if verdict.outcome == "incomparable"), "")
        if unlike:
            raise BaselineError(
                f"session {record.session} of {key.test} is of another machine than the baseline ({unlike})",
                "begin with it: nriperf accept --restart",
            )
        self._check(key, record)
        return self._with(self.find(test_file, key), key, record)

    def restarted(self, key: BaselineKey, record: SessionRecord) -> Baseline:
        """What `restart` would make, nothing written. Raises BaselineError where it would."""
        self._check(key, record)
        return self._with(None, key, record)

    def preview(self, test_file: str, baselines: Iterable[Baseline]) -> str:
        """The text of the file with these baselines in it, nothing written."""
        whole = self.load(test_file) | {baseline.key: baseline for baseline in baselines}
        return render(encode(whole, self.node, self.simulated)) + "\n"

    def _check(self, key: BaselineKey, record: SessionRecord) -> None:
        if record.simulated != self.simulated:
            raise BaselineError(
                f"session {record.session} is {'SIMULATED' if record.simulated else 'real'}, "
                f"the baseline of {self.node} is {'SIMULATED' if self.simulated else 'real'}",
                "simulated results never enter the baseline of a real node",
            )
        if not any(metric.runs for metric in record.metrics.values()):
            raise BaselineError(f"session {record.session} of {key.test} measured nothing", "see its warnings")

    def _with(self, old: Baseline | None, key: BaselineKey, record: SessionRecord) -> Baseline:
        kept = () if old is None else old.without([record.session]).sessions
        sessions = tuple(sorted((*kept, record), key=lambda one: (one.time, one.session)))
        pinned = set() if old is None else set(old.pinned & {one.session for one in sessions})
        if len(pinned) < self.anchors and len(sessions) <= self.anchors:
            pinned = {one.session for one in sessions[: self.anchors]}
        newest = {one.session for one in sessions[-self.window :]}
        return Baseline(key, tuple(one for one in sessions if one.session in newest | pinned), frozenset(pinned))

    def _write(self, test_file: str, baseline: Baseline) -> Baseline:
        baselines = self.load(test_file) | {baseline.key: baseline}
        write_json(self.path(test_file), encode(baselines, self.node, self.simulated))
        return baseline


def _safe(node: str) -> str:
    return node.replace("/", "_").replace(":", "-").lstrip(".") or "node"
