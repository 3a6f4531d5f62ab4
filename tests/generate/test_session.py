"""Workers that outlive their connection: nothing is lost, nobody is left alone."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

import pytest

from pytest_nriperf.errors import MemoryFault, WorkerError
from pytest_nriperf.generate.models import parse_model
from pytest_nriperf.generate.process import WorkerGenerator
from pytest_nriperf.seams import Progress, Prompt, Work
from tests.generate.grants import SessionGrant, SessionStream, plain_grant


@contextlib.contextmanager
def loaded(model: str) -> Iterator[tuple[WorkerGenerator, SessionStream, int]]:
    with plain_grant(kind=SessionGrant) as grant, contextlib.closing(WorkerGenerator(parse_model(model))) as made:
        info = made.load(grant)[0]
        stream = grant.streams[0]
        assert isinstance(stream, SessionStream)
        assert info.pid
        assert made._links[0].hello
        yield made, stream, made._links[0].hello["pid"]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def gone(pid: int, within_s: float = 8.0) -> bool:
    end = time.monotonic() + within_s
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.02)
    return not alive(pid)


def test_a_dropped_connection_loses_no_stamp() -> None:
    work = Work((Prompt("a", "x"),), max_new_tokens=40, requests=12, warmup=1)
    with loaded("sim:itl=2ms,ttft=2ms") as (made, stream, pid):
        cuts = iter([2, 5, 8])
        following = [next(cuts)]

        def cut(progress: Progress) -> None:
            if following and progress.requests >= following[0]:
                following[:] = list(cuts)[:1]
                stream.cut()

        data = made.measure(work, cut)
        assert stream.connections >= 2
        assert [row.request for row in data.requests] == list(range(13))
        assert all(row.output_tokens == 40 and row.status == "ok" for row in data.requests)
        assert len(data.tokens) == 13 * 41
    assert gone(pid)


def test_a_worker_whose_host_is_gone_ends_itself() -> None:
    with loaded("sim:") as (made, stream, pid):
        made._links[0]._closing = True
        stream.cut()
        assert gone(pid)


def test_an_ended_worker_is_not_reached_again_and_its_end_is_told() -> None:
    with (
        loaded("sim:itl=1ms,fail=kill,fail_at=1") as (made, _, _),
        pytest.raises((MemoryFault, WorkerError), match="ended while measuring: ended with status 137"),
    ):
        made.measure(Work((Prompt("a", "x"),), 5, requests=2), lambda _: None)
