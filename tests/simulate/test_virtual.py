"""A virtual run records what a real one would, at once and reproducibly."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_nriperf.seams import Prompt, Work
from pytest_nriperf.simulate.llm import ModelSize
from pytest_nriperf.simulate.virtual import Engine
from tests.simulate.servers import balloons, server

WORK = Work(prompts=(Prompt("kubecon", text="What happens at KubeCon?"),), max_new_tokens=16, requests=3, warmup=1)


def engine(*off: str, replicas: int = 2, size: ModelSize | None = None, seed: int = 0) -> Engine:
    machine = server(*off)
    return Engine(machine, size or ModelSize(), tuple(balloons(machine, replicas, 32, "hidden")), seed)


def test_every_replica_does_all_the_work_in_a_closed_loop() -> None:
    data = engine().run(WORK, number=0, start_ns=1000)
    for replica in (0, 1):
        rows = [row for row in data.requests if row.replica == replica]
        assert [row.phase for row in rows] == ["warmup", "measure", "measure", "measure"]
        assert rows[0].submit_ns == 1000
        assert [row.submit_ns for row in rows[1:]] == [row.end_ns for row in rows[:-1]]
        assert all(row.output_tokens == 16 for row in rows)
    assert len(data.tokens) == 2 * 4 * (1 + 16)


def test_stamps_never_run_backwards_and_the_prompt_event_has_no_token() -> None:
    data = engine().run(WORK, number=0, start_ns=5)
    stamps = np.array(data.tokens.t_ns).reshape(8, 17)
    assert (np.diff(stamps, axis=1) > 0).all()
    assert np.array(data.tokens.n).reshape(8, 17)[:, 0].tolist() == [0] * 8


def test_the_same_seed_gives_the_same_run_and_another_run_differs() -> None:
    first, again, other = (engine().run(WORK, number, 0) for number in (0, 0, 1))
    assert first.tokens.t_ns == again.tokens.t_ns
    assert first.tokens.t_ns != other.tokens.t_ns
    assert engine(seed=1).run(WORK, 0, 0).tokens.t_ns != first.tokens.t_ns


def test_without_noise_every_gap_is_what_the_model_says() -> None:
    calm = engine("noise", replicas=1)
    data = calm.run(WORK, 0, 0)
    gaps = np.diff(np.array(data.tokens.t_ns).reshape(4, 17)[1:, 1:], axis=1) / 1e9
    assert gaps.mean() == pytest.approx(1 / calm.expected_tokens_per_second()[0], rel=0.01)


def test_noise_leaves_the_typical_gap_where_the_model_puts_it() -> None:
    work = Work(prompts=WORK.prompts, max_new_tokens=200, requests=10)
    loud, calm = (engine(*off, replicas=1).run(work, 0, 0) for off in ((), ("noise",)))
    typical = [np.median(np.diff(np.array(data.tokens.t_ns))) for data in (loud, calm)]
    assert typical[0] == pytest.approx(typical[1], rel=0.03)


def test_fixed_times_of_the_model_override_the_machine() -> None:
    size = ModelSize(itl_s=0.005, ttft_s=0.02, cv=0.0)
    data = engine("noise", size=size).run(WORK, 0, 0)
    row = data.requests[0]
    assert row.first_ns == 20_000_000
    assert row.last_ns == 20_000_000 + 15 * 5_000_000


def test_requests_in_flight_together_overlap() -> None:
    work = Work(prompts=WORK.prompts, max_new_tokens=16, requests=4, concurrency=4, warmup=0)
    rows = engine(replicas=1).run(work, 0, 7).requests
    assert [row.submit_ns for row in rows] == [7] * 4


def test_simulated_counters_show_the_bytes_that_the_replicas_read() -> None:
    data = engine(replicas=1).run(WORK, 0, 0)
    busy = [row.value for row in data.counters if row.node == 0]
    assert np.mean(busy) == pytest.approx(engine().expected_tokens_per_second()[0] * ModelSize().weight_bytes, rel=0.05)
    assert {row.value for row in data.counters if row.node == 3} != set(busy)


def test_one_call_takes_the_place_of_a_request() -> None:
    completion = engine().complete(Prompt("p", tokens=100), 8, replica=1, number=0, submit_ns=50)
    assert completion.prompt_tokens == 100
    assert len(completion.stamps_ns) == 9
    assert completion.stamps_ns[0] > completion.submit_ns == 50
