"""The working object of one pytest session: nodes held, measurements judged, what is said at the end.

`own_session` makes and registers it when a test first asks for a fixture of ours; it is a pytest plugin itself from
then on.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import textwrap
import threading
from collections.abc import Generator as Steps
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import pytest
from _pytest.outcomes import Failed

from pytest_nriperf.baselines import BaselineStore
from pytest_nriperf.errors import BaselineError, NriperfError
from pytest_nriperf.experiment.bench import Bench
from pytest_nriperf.experiment.judging import accept_measurement, judge_measurement, remember_gate, settled
from pytest_nriperf.experiment.llm import Llm
from pytest_nriperf.experiment.subject import Caller
from pytest_nriperf.generate import make_generator
from pytest_nriperf.generate.simulated import SimulatedGenerator
from pytest_nriperf.marks import GateMark, gate_of
from pytest_nriperf.metrics import Measurement
from pytest_nriperf.provision.simulated import SimulatedProvisioner
from pytest_nriperf.report.terminal import ProgressLine, failure_message, summary
from pytest_nriperf.report.unseen import Unseen
from pytest_nriperf.seams import ChecksModels, EngineOptions, Generator, ModelChoice
from pytest_nriperf.session.collecting import (
    Collected,
    arguments_of,
    cell_labels,
    cell_of,
    function_of,
    shares_of,
    variants_on,
)
from pytest_nriperf.session.config import COLLECTED, CURRENT, SESSION, STEERING, session_settings
from pytest_nriperf.session.gated import GatedTests, orphaned
from pytest_nriperf.session.keeping import Keeper
from pytest_nriperf.session.outputs import write_outputs
from pytest_nriperf.session.screen import Screen
from pytest_nriperf.session.summing import Result, junit_properties, summarised
from pytest_nriperf.session.sweeping import provisioner_of
from pytest_nriperf.settings import Settings
from pytest_nriperf.stats import suite_share
from pytest_nriperf.sweep.existence import Site
from pytest_nriperf.units import format_lines

if TYPE_CHECKING:
    from pytest_nriperf.session.steering import Steering


class VerdictFailure(Failed):
    """A test fails by its verdicts, and by nothing else."""

    __module__ = "builtins"  # as pytest's own: a short name in its summary


def own_session(config: pytest.Config) -> NriSession:
    """The session's working object, made and registered at the first call."""
    session = config.stash.get(SESSION, None)
    if session is None:
        session = NriSession(config, session_settings(config))
        config.stash[SESSION] = session
        config.pluginmanager.register(session, "nriperf-session")
        config.add_cleanup(session.close)
    return session


@dataclass
class NriSession:
    """Everything that lives as long as the pytest session."""

    config: pytest.Config
    settings: Settings
    results: list[Result] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._benches: dict[str, Bench] = {}
        self.keeper = Keeper()
        self._judged_now: dict[Path, Result] = {}
        self._lost = False
        self.gated = GatedTests(self.config.stash.get(COLLECTED, Collected()).gated)
        self._undo = contextlib.ExitStack()
        screen = Screen(self.config)
        self.progress = ProgressLine(screen.write, screen.fresh_line, terminal=screen.terminal)
        self._undo.callback(self.progress.clear)
        self._undo.enter_context(_terminated_like_interrupted())

    @property
    def nodes(self) -> list[str]:
        """The nodes that --nri-node names, in order."""
        return self.settings.nodes_named

    @contextlib.contextmanager
    def bench(self, node: str) -> Iterator[Bench]:
        """Hold a node until the context ends."""
        self._refuse_workers()
        hook = self.config.hook
        provisioner = provisioner_of(self.config, node)

        def generator(choice: ModelChoice, options: EngineOptions) -> Generator:
            if isinstance(provisioner, ChecksModels):
                provisioner.check_model(choice)
            made: Generator | None = hook.pytest_nriperf_generator(choice=choice, node=node, options=options)
            if made is None and isinstance(provisioner, SimulatedProvisioner):
                return SimulatedGenerator(choice, provisioner.topology(), provisioner.clock)
            return made or make_generator(
                choice,
                python=options.python,
                environment=options.environment,
                reference=options.reference,
                notice=self.progress.note,
            )

        bench = Bench(
            provisioner,
            self.settings,
            show=self.progress,
            generator=generator,
            profile=self.settings.nodes.get(node),
        )
        collected = self.config.stash.get(COLLECTED, Collected())
        with bench.held(collected.needed(Site.of(bench.topology, bench.description))):
            self._benches[node] = bench
            try:
                yield bench
            finally:
                self.keeper.release()
                if self._steering is not None:
                    bench.notes["left_out"] = self._steering.left_out

    def caller(self) -> Caller:
        """The test that is running."""
        item = self.config.stash[CURRENT]
        gate = gate_of(arguments_of(item, "gate"))
        asked = {
            "metrics": list(gate.metrics),
            "tolerance": self.settings.tolerance if gate.tolerance is None else gate.tolerance,
            "floor": self.settings.floor if gate.floor is None else gate.floor,
            "alpha": suite_share(self.settings.alpha, self._gated_metrics),
            "runs": [self.settings.runs.least, self.settings.runs.most],
        }
        cell, steering = cell_of(item), self._steering
        return Caller(
            test=item.nodeid,
            function=function_of(item),
            measured=self._measured,
            judged=bool(shares_of(item)),
            gate=asked,
            cell=cell_labels(item),
            runs=self.settings.cell_runs if cell is not None and not gate.metrics else None,
            again=steering is not None and steering.again,
        )

    def settled(self, measurement: Measurement) -> bool:
        """Whether the running test's gate is settled, so that more runs would be for nothing."""
        gate = gate_of(arguments_of(self.config.stash[CURRENT], "gate"))
        return settled(measurement, gate, **self._judging(measurement))

    def judge(self, measurement: Measurement, gate: GateMark, uncounted: frozenset[str] = frozenset()) -> str:
        """Judge and remember; returns the message of a failure, empty when nothing fails.

        A measurement that is judged in several calls has one verdict a metric, and is accepted when its test ends.
        """
        judged = judge_measurement(measurement, gate.metrics, gate, uncounted=uncounted, **self._judging(measurement))
        result = next((each for each in self.results if each.measurement.path == measurement.path), None)
        if result is None:
            result = Result(measurement)
            self.results.append(result)
        result.judged = judged if result.judged is None else result.judged.joined(judged)
        self._judged_now[measurement.path] = result
        self.gated.judged(self.config.stash[CURRENT].nodeid)
        failing = judged.failing(self.settings.fail_on, accepting=bool(self.settings.accept))
        first, second = measurement.variants or ("baseline", "now")
        return failure_message(failing, str(measurement.path), (first, second)) if failing else ""

    def tell_benchmark(self, request: pytest.FixtureRequest, llm: Llm) -> None:
        """Where pytest-benchmark drove `llm.generate`: our metrics as extra information of its record."""
        if "benchmark" in request.fixturenames and llm.completions:
            request.getfixturevalue("benchmark").extra_info.update(llm.extra_info())

    def keeps(self, item: pytest.Item) -> bool:
        """Whether a cell's engines may serve the next one too: each cell is one run, and no verdict rests on it."""
        once = self.settings.cell_runs.most == 1 and variants_on(item) is None
        return cell_of(item) is not None and once and not gate_of(arguments_of(item, "gate")).metrics

    def held(self, node: str) -> Bench | None:
        """The bench of a node that is held, None before the first test that needs it."""
        return self._benches.get(node)

    def break_off(self) -> None:
        """Leave the session's folders unfinished: they can be resumed."""
        for bench in self._benches.values():
            bench.broken_off = True

    def close(self) -> None:
        """Undo what is left, also after an interrupted session. May be called twice."""
        self._undo.close()

    # ------------------------------------------------------------------------------------------- pytest hooks

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Steps[None, pytest.TestReport, pytest.TestReport]:
        """An error of ours is a sentence with its next step: no traceback through our own frames.

        What the test judged is accepted where that was asked for, and told to JUnit.
        """
        unwritten = self._conclude(item, call) if call.when != "setup" else ""
        report = yield
        if unwritten:
            report.outcome, report.longrepr = "failed", "\n".join(filter(None, (report.longreprtext, unwritten)))
        if call.excinfo is not None and isinstance(call.excinfo.value, NriperfError) and report.failed:
            report.longrepr = format_lines(call.excinfo.value)
        if call.excinfo is not None and isinstance(call.excinfo.value, VerdictFailure):
            # The short summary has one line a test, also where pytest would print all of them (CI=true).
            crash: Any = getattr(report.longrepr, "reprcrash", None)
            if crash is not None:
                crash.message = str(call.excinfo.value).partition("\n")[0]
        self.gated.reported(report)
        return report

    def pytest_keyboard_interrupt(self) -> None:
        """What was interrupted can be resumed."""
        self.break_off()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> None:
        """What is stopped early (-x) can be resumed too; pytest undoes everything with the test that stops it."""
        if item.session.shouldstop or item.session.shouldfail:
            self.break_off()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Steps[None, None, None]:
        """What was stopped between tests can be resumed too; a session of which something is lost has failed."""
        self.gated.selected = {item.nodeid for item in session.items}
        if session.shouldstop or session.shouldfail:
            self.break_off()
        yield
        if self._lost and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """The table people look at."""
        unseen = self._unseen()
        if not self._benches and not unseen.tests:
            return
        terminalreporter.section("nriperf")
        for bench in self._benches.values():
            simulated = "  SIMULATED" if bench.simulated else ""
            terminalreporter.line(f"node {bench.name}: {bench.topology.summary()}{simulated}")
        for text, markup in summary([summarised(result) for result in self.results]):
            terminalreporter.line(text, **markup)
        for text in (text for bench in self._benches.values() for text in bench.closing_words()):
            width = shutil.get_terminal_size().columns - 2
            # Paths and options stay whole: people copy them.
            for line in textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False):
                terminalreporter.line(line)
        for line in unseen.lines():
            terminalreporter.line(line, yellow=True)
        verdicts = [verdict for result in self.results if result.judged for verdict in result.judged.verdicts]
        nodes = dict.fromkeys(str(result.measurement.document["baseline_node"]) for result in self.results)
        measured = [result.measurement for result in self.results]
        paths = [each.path for one in measured for each in one.variants.values() or [one]]
        steering = self._steering
        left_out = steering.left_out if steering is not None else []
        paths = list(dict.fromkeys([*paths, *(steering.paths if steering is not None else ())]))
        for written in write_outputs(
            verdicts,
            self.settings,
            os.environ,
            node=", ".join(nodes),
            unseen=unseen,
            recordings=paths,
            left_out=left_out,
        ):
            terminalreporter.line(written.text, red=written.lost)
            self._lost = self._lost or written.lost

    # -------------------------------------------------------------------------------------------------- inside

    def _conclude(self, item: pytest.Item, call: pytest.CallInfo[None]) -> str:
        """The test is over: accept what it judged, unless it failed for another reason than its verdicts.

        Returns why the baselines could not be written, empty when they were or nothing was to be.
        """
        concluded, self._judged_now = self._judged_now, {}
        otherwise = call.excinfo is not None and not isinstance(call.excinfo.value, VerdictFailure)
        unwritten = ""
        for result in concluded.values():
            assert result.judged is not None
            remember_gate(result.measurement, [verdict.metric for verdict in result.judged.verdicts])
            if otherwise and self.settings.accept and not result.measurement.variants:
                result.judged = replace(result.judged, refused="not accepted: the test failed for another reason")
            elif not otherwise:
                store = self._store(result.measurement)
                try:
                    result.judged = accept_measurement(
                        result.measurement, result.judged, store=store, settings=self.settings
                    )
                except BaselineError as error:
                    unwritten = str(error)
            for verdict in result.judged.verdicts:
                item.user_properties.extend(junit_properties(verdict))
        return unwritten

    def _unseen(self) -> Unseen:
        """What no verdict of this session speaks of."""
        stores = [store for bench in self._benches.values() for store in bench.baseline_stores()]
        # Of a file of which only a part was collected (named, or what failed last) we do not know what else is in it.
        last_failed = getattr(self.config.option, "lf", False)
        whole = not last_failed and not any("::" in argument for argument in self.config.args)
        functions = self.config.stash.get(COLLECTED, Collected()).functions if whole else {}
        return self.gated.unseen(stores, list(orphaned(functions, stores, self.config.rootpath)))

    def _measured(self, measurement: Measurement) -> None:
        steering = self._steering
        if steering is None or not measurement.document.get("cell"):
            self.results.append(Result(measurement))
            return
        topology = next(each.topology for each in self._benches.values() if each.name == measurement.document["node"])
        steering.measured(measurement, topology)

    @property
    def _steering(self) -> Steering | None:
        return self.config.stash.get(STEERING, None)

    def _store(self, measurement: Measurement) -> BaselineStore:
        document, folder = measurement.document, self.settings.path(self.settings.baselines)
        return BaselineStore(folder, document["baseline_node"], simulated=document["simulated"])

    def _judging(self, measurement: Measurement) -> dict[str, Any]:
        return {
            "store": self._store(measurement),
            "settings": self.settings,
            "gated_metrics": self._gated_metrics,
        }

    @property
    def _gated_metrics(self) -> int:
        return max(1, self.config.stash.get(COLLECTED, Collected()).gated_metrics)

    def _refuse_workers(self) -> None:
        count = os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")
        if hasattr(self.config, "workerinput") and count != "1":
            pytest.fail(
                f"{count} pytest-xdist workers would measure on one node at the same time and spoil each other; "
                "run without -n (or with -n 1), or one pytest a node",
                pytrace=False,
            )


@contextlib.contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM undoes everything as Ctrl-C does, instead of ending the process on the spot."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a signal handler's arguments
        raise KeyboardInterrupt("SIGTERM")

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
