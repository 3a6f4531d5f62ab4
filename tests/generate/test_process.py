"""Worker processes end to end, with the simulated engine."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_nriperf.errors import MemoryFault, ModelError, SpecError, WorkerError
from pytest_nriperf.generate import make_generator
from pytest_nriperf.generate.models import parse_model
from pytest_nriperf.generate.process import WorkerGenerator, thread_environment
from pytest_nriperf.seams import Progress, Prompt, RunData, Work
from tests.generate.grants import PlainGrant, plain_grant

WORK = Work(prompts=(Prompt("a", "one two three"), Prompt("b", tokens=7)), max_new_tokens=5, requests=4)
FAST = "sim:itl=1ms,ttft=2ms"


@contextlib.contextmanager
def generator(model: str = FAST, replicas: int = 1, **settings: float) -> Iterator[tuple[WorkerGenerator, PlainGrant]]:
    with plain_grant(replicas) as grant, contextlib.ExitStack() as undo:
        made = make_generator(parse_model(model), silence_s=settings.get("silence_s", 60.0))
        assert isinstance(made, WorkerGenerator)
        undo.callback(made.close)
        yield made, grant


def measured(model: str = FAST, replicas: int = 1, work: Work = WORK) -> RunData:
    with generator(model, replicas) as (made, grant):
        made.load(grant)
        return made.measure(work, lambda _: None)


def test_every_request_has_its_rows_and_events() -> None:
    data = measured(replicas=2)
    assert [(row.replica, row.request, row.phase, row.prompt_id) for row in data.requests] == [
        (replica, request, "warmup" if request == 0 else "measure", "aabab"[request])
        for replica in range(2)
        for request in range(5)
    ]
    assert {row.output_tokens for row in data.requests} == {5}
    assert {row.prompt_tokens for row in data.requests} == {3, 7}
    assert len(data.tokens) == 2 * 5 * 6
    assert list(data.tokens.n[:6]) == [0, 1, 1, 1, 1, 1]
    for row in data.requests:
        assert row.first_ns
        assert row.last_ns
        assert row.end_ns
        assert row.submit_ns < row.first_ns < row.last_ns <= row.end_ns


def test_replicas_begin_at_one_instant() -> None:
    data = measured(replicas=2)
    starts = [row.submit_ns for row in data.requests if row.request == 1]
    assert not data.warnings
    assert abs(starts[0] - starts[1]) < 50_000_000


def test_gaps_are_those_of_the_seed_and_never_shorter_than_asked() -> None:
    data = measured("sim:itl=2ms,ttft=4ms,cv=0", work=Work((Prompt("a", "x"),), 4, requests=1))
    stamps = list(data.tokens.t_ns[-5:])
    row = data.requests[-1]
    assert stamps[1] - row.submit_ns >= 4_000_000
    assert all(late - early >= 2_000_000 for early, late in itertools.pairwise(stamps[1:]))


def test_chunks_of_several_tokens_are_counted() -> None:
    data = measured("sim:itl=1ms,ttft=1ms,chunk=3", work=Work((Prompt("a", "x"),), 8, requests=1, warmup=0))
    assert list(data.tokens.n) == [0, 1, 3, 3, 1]


def test_concurrent_requests_overlap() -> None:
    data = measured("sim:itl=5ms,ttft=20ms", work=Work((Prompt("a", "x"),), 4, requests=4, concurrency=2, warmup=1))
    rows = [row for row in data.requests if row.phase == "measure"]
    assert len(rows) == 4
    assert sum(row.phase == "warmup" for row in data.requests) == 2
    assert rows[1].submit_ns < (rows[0].end_ns or 0)


def test_progress_tells_requests_and_tokens() -> None:
    seen: list[Progress] = []
    with generator() as (made, grant):
        made.load(grant)
        made.measure(WORK, seen.append)
    assert seen[-1] == Progress(0, 5, 25)


def test_one_call_gives_text_ids_and_stamps() -> None:
    with generator() as (made, grant):
        made.load(grant)
        done = made.generate(Prompt("p", "hello world"), 3)
        assert done.text == "word0 word1 word2"
        assert done.token_ids == (0, 1, 2)
        assert done.tokens == (0, 1, 1, 1)
        assert done.prompt_tokens == 2
        assert done.submit_ns < done.stamps_ns[0] < done.stamps_ns[-1] <= done.end_ns
        with pytest.raises(SpecError, match="no replica 3"):
            made.generate(Prompt("p", "x"), 1, replica=3)


def test_a_long_completion_arrives_whole() -> None:
    with generator("sim:itl=1us,ttft=1us,chunk=1") as (made, grant):
        made.load(grant)
        done = made.generate(Prompt("p", "x"), 3000)
    assert done.token_ids == tuple(range(3000))
    assert sum(done.tokens) == 3000


def test_what_an_engine_prints_harms_nothing() -> None:
    assert len(measured("sim:itl=1ms,ttft=1ms,fail=print").requests) == 5


def test_a_failed_request_is_a_row_and_the_others_go_on() -> None:
    data = measured("sim:itl=1ms,ttft=1ms,fail=request,fail_at=3")
    assert [row.status for row in data.requests] == ["ok", "ok", "ok", "failed", "failed"]
    assert data.requests[3].error == "request 3 failed on purpose"
    assert data.requests[3].first_ns is None


@pytest.mark.parametrize(
    ("mistake", "error", "words"),
    [
        ("exit", WorkerError, "ended with status 7.*leaving on purpose"),
        ("kill", MemoryFault, "SIGKILL"),
        ("garbage", WorkerError, "no message: b'Segfault"),
    ],
)
def test_a_worker_that_ends_badly_is_named_and_nothing_stays(
    mistake: str, error: type[WorkerError], words: str
) -> None:
    with generator(f"{FAST},fail={mistake},fail_at=2,fail_replica=1", replicas=2) as (made, grant):
        made.load(grant)
        with pytest.raises(error, match=f"(?s)replica 1.*{words}"):
            made.measure(WORK, lambda _: None)


def test_a_worker_that_stands_still_is_found() -> None:
    with generator(f"{FAST},fail=freeze", silence_s=1.5) as (made, grant):
        made.load(grant)
        with pytest.raises(WorkerError, match="said nothing for"):
            made.measure(WORK, lambda _: None)


def test_a_hanging_engine_ends_at_the_timeout_with_what_was_done() -> None:
    with generator(f"{FAST},fail=hang,fail_at=1") as (made, grant):
        made.load(grant)
        work = Work(WORK.prompts, 5, requests=2, timeout_s=1.5)
        with pytest.raises(
            WorkerError, match=r"only 1 requests and 5 tokens and then no request while measuring within 1\.5 s"
        ):
            made.measure(work, lambda _: None)


@pytest.mark.parametrize(("mistake", "error"), [("missing", ModelError), ("memory", MemoryFault)])
def test_a_model_that_cannot_be_loaded_is_named(mistake: str, error: type[WorkerError]) -> None:
    with generator(f"sim:fail={mistake}", replicas=2) as (made, grant), pytest.raises(error, match=r"replica [01]"):
        made.load(grant)


def test_a_dummy_whose_configuration_is_none_is_named_before_anything_runs(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text("{}")
    with generator(f"dummy:{file}") as (made, grant), pytest.raises(ModelError, match="has no model_type"):
        made.load(grant)


def test_closing_twice_and_before_loading_is_allowed() -> None:
    with generator() as (made, grant):
        made.close()
        made.load(grant)
        made.close()
        made.close()


def test_two_generators_load_at_the_same_time() -> None:
    with generator() as (one, its), generator() as (other, others):
        one.start_loading(its)
        other.start_loading(others)
        pids = [generator.load(grant)[0].pid for generator, grant in ((one, its), (other, others))]
        assert len(set(pids)) == 2
        with pytest.raises(WorkerError, match="loaded already"):
            one.load(its)


def test_thread_pools_follow_the_visible_cpus() -> None:
    assert thread_environment(3)["OMP_NUM_THREADS"] == thread_environment(3)["MKL_NUM_THREADS"] == "3"
