"""A session's end of an observer on another node: what it chose, and a sampler whose readings come from there.

Whatever goes wrong there is said in `warnings`; a run is never held up for longer than starting and stopping may take.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from pytest_nriperf.collect.wire import Message, decode, encode, pack_target, rows_of
from pytest_nriperf.errors import CollectorError, NriperfError, UsageError
from pytest_nriperf.seams import CounterRow, Observer, Target, WorkerStream

START_S = 30.0
STOP_S = 30.0
TICK_S = 1.0
GRACE_S = 2.0


def choose_there(
    observer: Observer, names: Sequence[str] | str, pcm_url: str, timeout_s: float = START_S
) -> tuple[list[str], str]:
    """Names of the collectors that the node offers, and the line that says what they give (`choose`, there).

    Raises UsageError and CollectorError as `choose` does, and EnvironmentFault when the observer does not answer.
    """
    message = _asked(observer, timeout_s, op="choose", collect=names, pcm=pcm_url)
    if message["type"] == "refused":
        raise (UsageError if message["usage"] else CollectorError)(message["fact"], message["next_step"])
    return list(message["names"]), str(message["line"])


def health_there(observer: Observer, pcm_url: str, timeout_s: float = START_S) -> dict[str, Any]:
    """`counter_facts` of the node. Raises EnvironmentFault when the observer does not answer."""
    return dict(_asked(observer, timeout_s, op="health", pcm=pcm_url)["facts"])


def _asked(observer: Observer, timeout_s: float, **request: Any) -> Message:
    """The answer to one question, after which the observer ends."""
    try:
        observer.stream.send(encode({**request, "hidden": observer.hidden}))
        line = observer.stream.receive(timeout_s)
    except TimeoutError:
        raise CollectorError(f"the node's observer did not answer in {timeout_s:g} s") from None
    finally:
        ended = observer.stream.close(GRACE_S)
    if line is None:
        raise CollectorError(f"the node's observer ended without an answer: {ended}")
    return decode(line)


class RemoteSampler:
    """As `Sampler`, over there: reads `collectors` by name around the body of a `with`; `rows`, `cost`, `warnings`.

    `open_` starts an observer. Readings arrive each second; those that came before an observer was lost are kept.
    """

    def __init__(
        self,
        open_: Callable[[], Observer],
        collectors: Sequence[str],
        target: Target,
        hz: float = 1.0,
        *,
        pcm_url: str = "",
        start_timeout_s: float = START_S,
        stop_timeout_s: float = STOP_S,
    ) -> None:
        self.rows: list[CounterRow] = []
        self.cost: dict[str, float] = {}
        self.warnings: list[str] = []
        self._open = open_
        self._request = {
            "op": "sample",
            "collectors": list(collectors),
            "pcm": pcm_url,
            "hz": hz,
            "target": pack_target(target),
        }
        self._start_timeout_s = start_timeout_s
        self._stop_timeout_s = stop_timeout_s
        self._stream: WorkerStream | None = None
        self._changed = threading.Condition()
        self._stage = ""
        self._ending = False
        self._reader: threading.Thread | None = None

    def __enter__(self) -> RemoteSampler:
        try:
            self._begin()
        except NriperfError as error:
            self._lost(error)
        except BaseException:
            self._end()
            raise
        return self

    def _begin(self) -> None:
        observer = self._open()
        self._stream = observer.stream
        self._stream.send(encode({**self._request, "hidden": observer.hidden}))
        self._reader = threading.Thread(target=self._read, name="nriperf-observer", daemon=True)
        self._reader.start()
        if not self._wait_for(("started", "stopped", "lost"), self._start_timeout_s):
            self.warnings.append(f"observer: it did not begin to read within {self._start_timeout_s:g} s")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with contextlib.suppress(NriperfError):
                if self._stream is not None and self._stage != "lost":
                    self._stream.send(encode({"op": "stop"}))
            if self._reader is not None and not self._wait_for(("stopped", "lost"), self._stop_timeout_s):
                self.warnings.append(f"observer: it did not come to an end within {self._stop_timeout_s:g} s")
        finally:
            self._end()

    def _read(self) -> None:
        """Take what comes until the end of the stream."""
        assert self._stream is not None
        while not self._ending:
            try:
                line = self._stream.receive(TICK_S)
                if line is None:
                    if self._stage != "stopped":
                        self._lost(CollectorError(f"it ended: {self._stream.close(GRACE_S)}"))
                    return
                self._take(decode(line))
            except TimeoutError:
                continue
            except (NriperfError, KeyError, TypeError, ValueError, AttributeError) as error:
                self._lost(error)
                return

    def _take(self, message: Message) -> None:
        kind = message["type"]
        if kind == "rows":
            self.rows.extend(rows_of(message))
        elif kind == "stopped":
            self.cost = {str(name): float(value) for name, value in message["cost"].items()}
            self.warnings.extend(map(str, message["warnings"]))
        if kind in ("started", "stopped"):
            self._now(kind)

    def _lost(self, error: Exception) -> None:
        if self._ending:
            return
        fact = error.fact if isinstance(error, NriperfError) else f"{type(error).__name__}: {error}"
        kept = f"; {len(self.rows)} readings until then are kept" if self.rows else ""
        self.warnings.append(f"observer: lost, counters of this run are missing or end early ({fact.strip()}){kept}")
        self._now("lost")

    def _now(self, stage: str) -> None:
        with self._changed:
            self._stage = stage
            self._changed.notify_all()

    def _wait_for(self, stages: Sequence[str], timeout_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._stage in stages, timeout_s)

    def _end(self) -> None:
        """Nothing is left: neither the process nor the thread that reads it."""
        self._ending = True
        if self._stream is not None:
            with contextlib.suppress(NriperfError):
                self._stream.close(GRACE_S)
        if self._reader is not None:
            self._reader.join(GRACE_S)
