"""What one run of all replicas leaves behind on a simulated server, in virtual time: SIMULATED, never evidence.

Nothing waits: a run of minutes is computed in milliseconds. The same seed gives the same stamps, bit for bit.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pytest_nriperf.seams import ClockAnchor, Completion, CounterRow, Prompt, RequestRow, RunData, TokenEvents, Work
from pytest_nriperf.simulate.llm import ModelSize
from pytest_nriperf.simulate.machine import Load, Machine, Speed, speeds
from pytest_nriperf.units import NANOSECONDS

WORDS_PER_TOKEN = 0.75
VOCABULARY = (
    "the",
    "node",
    "reads",
    "its",
    "weights",
    "once",
    "for",
    "every",
    "token",
    "and",
    "waits",
    "for",
    "memory",
)


@dataclass(frozen=True)
class Noise:
    """How real engines stray from the expected time; all shares.

    `token_cv` from token to token, `run_cv` from run to run (page layout, frequency), `stall_rate` the share of
    tokens that wait for the kernel or a neighbour, `disturbed_cv` and `disturbed_stalls` what full disturbance by
    neighbours adds.
    """

    token_cv: float = 0.015
    run_cv: float = 0.008
    stall_rate: float = 0.001
    disturbed_cv: float = 0.06
    disturbed_stalls: float = 0.02


@dataclass(frozen=True)
class Engine:
    """A model served by replicas on a machine; `seed` makes every run reproducible."""

    machine: Machine
    size: ModelSize
    loads: tuple[Load, ...]
    seed: int = 0
    noise: Noise = Noise()

    def run(self, work: Work, number: int, start_ns: int) -> RunData:
        """One run: all replicas begin at `start_ns`, each does the work in a closed loop."""
        data = RunData(requests=[], tokens=TokenEvents())
        served = speeds(self.machine, self.size, [_batched(load, work) for load in self.loads])
        for replica, speed in enumerate(served):
            random = self._random(number, replica)
            pace = self._pace(random)
            for row, completion in self._requests(work, replica, speed, pace, random, start_ns):
                data.requests.append(row)
                data.tokens.add(replica, row.request, completion.stamps_ns, completion.tokens)
        end_ns = max((row.end_ns or start_ns for row in data.requests), default=start_ns)
        data.counters.extend(self._bandwidth(served, start_ns, end_ns))
        return data

    def complete(self, prompt: Prompt, new_tokens: int, replica: int, number: int, submit_ns: int) -> Completion:
        """One generation while the other replicas are busy too."""
        speed = speeds(self.machine, self.size, self.loads)[replica]
        random = self._random(number, replica)
        return self._complete(prompt, new_tokens, speed, self._pace(random), random, submit_ns)

    def expected_tokens_per_second(self, context: int = 64) -> list[float]:
        """Tokens per second of each replica's decode, batch times rate, without noise."""
        served = speeds(self.machine, self.size, self.loads)
        return [speed.batch / float(self._steps(speed, np.array([float(context)]))[0]) for speed in served]

    def _requests(
        self, work: Work, replica: int, speed: Speed, pace: float, random: np.random.Generator, start_ns: int
    ) -> Iterator[tuple[RequestRow, Completion]]:
        """Requests of a replica in order of their number; each slot of the batch takes the next when it is free."""
        free = [start_ns] * max(1, work.concurrency)
        for request in range(work.warmup + work.requests):
            slot = free.index(min(free))
            prompt = work.prompts[request % len(work.prompts)]
            completion = self._complete(prompt, work.max_new_tokens, speed, pace, random, free[slot])
            free[slot] = completion.end_ns
            phase = "warmup" if request < work.warmup else "measure"
            yield RequestRow.from_completion(replica, request, phase, prompt.prompt_id, completion), completion

    def _complete(
        self, prompt: Prompt, new: int, speed: Speed, pace: float, random: np.random.Generator, submit_ns: int
    ) -> Completion:
        length = prompt_tokens(prompt)
        times = np.empty(new + 1)
        times[0] = 0.0
        times[1] = self.size.ttft_s if self.size.ttft_s is not None else speed.prefill(self.size, length)
        times[2:] = self._steps(speed, length + np.arange(1.0, float(new)))
        times[1:] *= pace * self._stray(random, new, speed.disturbed)
        stamps = submit_ns + np.rint(np.cumsum(times) * NANOSECONDS).astype(np.int64)
        stamps[0] = submit_ns + min(1000, int(stamps[1] - submit_ns) // 2)
        return Completion(
            text=" ".join(VOCABULARY[index % len(VOCABULARY)] for index in range(new)),
            token_ids=tuple(index % len(VOCABULARY) for index in range(new)),
            submit_ns=submit_ns,
            stamps_ns=tuple(stamps.tolist()),
            tokens=(0,) + (1,) * new,
            end_ns=int(stamps[-1]) + 1000,
            prompt_tokens=length,
        )

    def _steps(self, speed: Speed, context: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.size.itl_s is not None:
            return np.full(len(context), self.size.itl_s)
        return speed.step_s(self.size, context)

    def _stray(self, random: np.random.Generator, count: int, disturbed: float) -> NDArray[np.float64]:
        """Factors of token times with mean close to one: log-normal, and now and then a stall."""
        if "noise" in self.machine.off:
            return np.ones(count)
        own = self.noise.token_cv if self.size.cv is None else self.size.cv
        sigma = float(np.hypot(own, self.noise.disturbed_cv * disturbed))
        factors = np.exp(random.normal(0.0, sigma, count) - sigma**2 / 2)
        stalled = random.random(count) < self.noise.stall_rate + self.noise.disturbed_stalls * disturbed
        return np.where(stalled, factors + random.exponential(0.6, count), factors)

    def _pace(self, random: np.random.Generator) -> float:
        """The run's own factor: what stays the same inside a process and differs between processes."""
        if "noise" in self.machine.off or self.size.cv == 0:
            return 1.0
        return float(np.exp(random.normal(0.0, self.noise.run_cv)))

    def _random(self, number: int, replica: int) -> np.random.Generator:
        """Random numbers of this placement, run and replica: another placement gets others, the same the same."""
        where = repr([sorted(load.visible) for load in self.loads]).encode()
        return np.random.default_rng([self.seed, zlib.crc32(where), number, replica])

    def _bandwidth(self, served: Sequence[Speed], start_ns: int, end_ns: int) -> Iterator[CounterRow]:
        """Simulated memory counters: bytes read per NUMA node, 20 readings a run."""
        if "bandwidth" in self.machine.off or end_ns <= start_ns:
            return
        random = self._random(-1 % 2**32, 0)
        step = (end_ns - start_ns) / 20
        for node in self.machine.nodes:
            mean = sum(
                speed.rate * load.homes(self.machine.node_of).get(node, 0.0)
                for speed, load in zip(served, self.loads, strict=True)
            )
            for index in range(20):
                stamp = start_ns + round((index + 1) * step)
                value = mean * (1 + 0.01 * float(random.normal()))
                yield CounterRow(
                    stamp, stamp, "simulated", "memory_read_bandwidth", "interval", value, "B/s", node=node
                )


def prompt_tokens(prompt: Prompt) -> int:
    """Tokens of a prompt: as many as it says, else three words in four tokens.

    >>> prompt_tokens(Prompt("a", text="What happens at KubeCon?")), prompt_tokens(Prompt("b", tokens=512))
    (5, 512)
    """
    if prompt.tokens is not None:
        return prompt.tokens
    return max(1, round(len((prompt.text or "").split()) / WORDS_PER_TOKEN))


def _batched(load: Load, work: Work) -> Load:
    return replace(load, batch=max(1, min(work.concurrency, work.requests)))


class VirtualClock:
    """The clock of a simulated node: nothing passes but what the model says. Counts the runs of each placement, so
    that every run has noise of its own, whatever else was measured before.

    `wall_ns` is the wall-clock time at the clock's zero.
    """

    def __init__(self, wall_ns: int = 0) -> None:
        self.now_ns = NANOSECONDS
        self.wall_ns = wall_ns
        self._runs: dict[str, int] = {}

    def anchor(self) -> ClockAnchor:
        """Now, on all three clocks."""
        return ClockAnchor(self.wall_ns + self.now_ns, self.now_ns, self.now_ns)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now_ns += round(seconds * NANOSECONDS)

    def run_number(self, what: str) -> int:
        """How many runs of this were there before: 0, 1, 2 ..."""
        self._runs[what] = self._runs.get(what, -1) + 1
        return self._runs[what]
