"""How the counters of a node are read: here, by an observer on the node, or (PCM) over the network."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol

from pytest_nriperf.collect import choose
from pytest_nriperf.collect.remote import RemoteSampler, choose_there
from pytest_nriperf.collect.sampler import Sampler
from pytest_nriperf.collect.select import words_of
from pytest_nriperf.errors import CollectorError, EnvironmentFault, NodeBusyError
from pytest_nriperf.generate.archive import worker_archive
from pytest_nriperf.seams import Collector, CounterRow, Launch, Observed, Observer, Provisioner, Target

OBSERVE = ("observe",)


class Sampling(Protocol):
    """What reads counters around the body of a `with`."""

    rows: list[CounterRow]
    cost: dict[str, float]
    warnings: list[str]

    def __enter__(self) -> object:
        """Begin; readings before the run are taken."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End; readings after the run are taken."""


class Counting:
    """The collectors of a session. `line` says what they give, what is missing and why."""

    def __init__(self, line: str, collectors: Sequence[Collector] = ()) -> None:
        self.line = line
        self.collectors = list(collectors)

    def sampler(self, target: Target, hz: float) -> Sampling:
        """What reads them during a run."""
        return Sampler(self.collectors, target, hz)


class CountingThere(Counting):
    """The collectors `names` run in an observer on the node, `collectors` here."""

    def __init__(
        self, line: str, observed: Observed, names: Sequence[str], pcm_url: str, collectors: Sequence[Collector]
    ) -> None:
        super().__init__(line, collectors)
        self._observed = observed
        self._names = tuple(names)
        self._pcm_url = pcm_url

    def sampler(self, target: Target, hz: float) -> Sampling:
        """Those over there, and those here if there are any."""
        if not self._names:
            return super().sampler(target, hz)
        there = RemoteSampler(lambda: observer_on(self._observed), self._names, target, hz, pcm_url=self._pcm_url)
        return Both(there, Sampler(self.collectors, target, hz)) if self.collectors else there


class Both:
    """Two samplings at once; the first one's `cost` is the node's, of the second only its collectors' is told."""

    def __init__(self, there: Sampling, here: Sampling) -> None:
        self.rows: list[CounterRow] = []
        self.cost: dict[str, float] = {}
        self.warnings: list[str] = []
        self._parts = (there, here)
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> Both:
        with contextlib.ExitStack() as undo:
            for part in self._parts:
                undo.enter_context(part)
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.close()
        there, here = self._parts
        self.rows = [*there.rows, *here.rows]
        self.warnings = [*there.warnings, *here.warnings]
        own = {name: value for name, value in here.cost.items() if name.startswith("collector_")}
        self.cost = {**own, **there.cost}


def observer_on(observed: Observed) -> Observer:
    """An observer's process."""
    return observed.observe(Launch(worker_archive(), arguments=OBSERVE))


def counting_here(names: str, pcm_url: str) -> Counting:
    """The collectors of this machine."""
    collectors, line = choose(names, pcm_url=pcm_url)
    return Counting(line, collectors)


def counting_there(provisioner: Provisioner, node: str, names: str, pcm_url: str) -> Counting:
    """The collectors of another node: what its observer offers; PCM also from here where only we reach it.

    Where no observer can be started PCM is all there is, and the line says why. Raises UsageError, and CollectorError
    for a collector that was named and cannot work.
    """
    words = words_of(names) or ["auto"]
    if not isinstance(provisioner, Observed) or words == ["none"]:
        collectors, line = choose(words, pcm_url=pcm_url, here=False)
        return Counting(line, collectors)
    automatic = words == ["auto"]
    collectors = []
    try:
        chosen, line, address = _offered(provisioner, words, pcm_url)
    except NodeBusyError:
        raise
    except EnvironmentFault as error:
        collectors = _pcm_from_here(pcm_url) if automatic or "pcm" in words else []
        if not automatic and not collectors:
            raise
        others = [] if automatic else [word for word in words if word != "pcm"]
        nothing = f"counters: none of the node itself ({error.fact})"
        chosen, line, address = _offered(provisioner, others, pcm_url) if others else ([], nothing, "")
    if automatic and "pcm" not in chosen and not collectors:
        collectors = _pcm_from_here(pcm_url)
    line = line.replace("counters:", f"counters on {node}:", 1)
    line = f"{line}; pcm from here" if collectors else line
    return CountingThere(line, provisioner, chosen, address, collectors)


def _offered(observed: Observed, words: Sequence[str], pcm_url: str) -> tuple[list[str], str, str]:
    """What an observer chooses, its line, and the address of PCM that it asked. Raises EnvironmentFault."""
    observer = observer_on(observed)
    address = pcm_url or observer.address
    return *choose_there(observer, words, address), address


def _pcm_from_here(pcm_url: str) -> list[Collector]:
    """A PCM server that only this machine reaches (a forwarded port)."""
    if not pcm_url:
        return []
    try:
        return choose(["pcm"], pcm_url=pcm_url, here=False)[0]
    except CollectorError:
        return []
