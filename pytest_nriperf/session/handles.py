"""What the `nri` and `baseline` fixtures hand to a test."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_nriperf.errors import SpecError
from pytest_nriperf.experiment.bench import Balloon, Bench
from pytest_nriperf.experiment.llm import Llm, open_llm
from pytest_nriperf.marks import GateMark, balloon_spec, gate_of, llm_request
from pytest_nriperf.metrics import Measurement, parse_metric
from pytest_nriperf.session.collecting import arguments_of, judged_cell, shares_of
from pytest_nriperf.session.working import NriSession, VerdictFailure


class Nri:
    """Factory for fixtures of any scope of one's own: balloons and models as context managers.

    with nri.balloon(cpus=16, hyperthreads="hidden") as balloon, nri.llm(model="smollm2", balloon=balloon) as llm: ...
    """

    def __init__(self, bench: Bench, session: NriSession) -> None:
        self._bench = bench
        self._session = session

    @contextlib.contextmanager
    def balloon(self, **arguments: Any) -> Iterator[Balloon]:
        """A balloon with the arguments of the `balloon` mark."""
        with self._bench.balloon(balloon_spec([((), arguments)])) as balloon:
            yield balloon

    @contextlib.contextmanager
    def llm(
        self,
        *,
        balloon: Balloon,
        model: str = "",
        dtype: str = "",
        weights: str = "private",
        keep_loaded: bool = False,
    ) -> Iterator[Llm]:
        """A model in a balloon. With `keep_loaded` it stays loaded, and each measurement counts as one run."""
        asked = llm_request([((), {"model": model, "dtype": dtype, "weights": weights, "keep_loaded": keep_loaded})])
        choice = self._bench.model(asked.model, asked.dtype, asked.weights)
        with open_llm(
            self._bench,
            balloon,
            choice,
            keep_loaded=keep_loaded,
            caller=self._session.caller,
            settled=self._session.settled,
        ) as llm:
            yield llm


class BaselineCheck:
    """The stored baselines, from the point of view of one test."""

    def __init__(self, session: NriSession, item: pytest.Item) -> None:
        self._session = session
        self._item = item
        self._shares = list(shares_of(item))
        self._counted: set[tuple[Path, str]] = set()

    def check(
        self, measurement: Measurement, *metrics: str, tolerance: float | None = None, floor: float | None = None
    ) -> None:
        """Judge what the test's gate names, or `metrics`, against the baseline; one failure names all that fail.

        `tolerance` and `floor` are shares (0.05 is 5 %) and override the gate's. What fails a test is said by
        `--nri-fail-on`. In a cell of a sweep nothing is judged unless its mark says `gate=True`. What has no share of
        the suite's alarm rate, since collection could not know of it, is `unknown` where it would be `worse`. With
        `--nri-accept` the measurement is accepted when the test ends, unless a verdict was `worse` or the test failed
        for another reason.
        """
        __tracebackhide__ = True
        if not judged_cell(self._item):
            return
        gate = gate_of(arguments_of(self._item, "gate"))
        for name in metrics:
            parse_metric(name)
        asked = metrics or gate.metrics
        if not asked:
            raise SpecError(
                f"{self._item.name}: baseline.check has no metric to judge",
                'name some: baseline.check(m, "itl"), or mark the test with @pytest.mark.gate("ttft", "itl")',
            )
        own = GateMark(
            tuple(asked),
            gate.tolerance if tolerance is None else tolerance,
            gate.floor if floor is None else floor,
        )
        uncounted = frozenset(name for name in dict.fromkeys(asked) if not self._spend(measurement.path, name))
        message = self._session.judge(measurement, own, uncounted)
        if message:
            raise VerdictFailure(message, pytrace=False)

    def _spend(self, measured: Path, name: str) -> bool:
        """Take the share of a verdict that collection counted; False where there is none (left).

        The same metric of the same measurement is one verdict, however often it is asked for.
        """
        if (measured, name) in self._counted:
            return True
        share = next((each for each in self._shares if each in (name, "")), None)
        if share is not None:
            self._shares.remove(share)
            self._counted.add((measured, name))
        return share is not None
