"""The simulated engine: real time stamps of made-up work. Standard library only, deterministic by seed.

Its mistakes (`fail=...`) are for tests of everything around it.
"""

from __future__ import annotations

import hashlib
import math
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from pytest_nriperf.generate.child.engine import Engine, EngineError, Input, Setting
from pytest_nriperf.generate.child.recorder import Recorder

SPIN_NS = 150_000
FILL_BYTES = 1 << 30


class SimEngine(Engine):
    """Waits instead of computing: `ttft` (plus `prefill` a prompt token) to the first token, `itl` between tokens.

    Gaps are lognormal with mean as asked and coefficient of variation `cv`; `chunk` tokens arrive in one event.
    `wait=sleep` sleeps until shortly before the moment and spins the rest, `wait=spin` keeps a CPU busy throughout.
    """

    def __init__(self, setting: Setting) -> None:
        numbers = setting.numbers
        self._setting = setting
        self._itl_ns = int(numbers.get("itl_ns", 10_000_000))
        self._ttft_ns = int(numbers.get("ttft_ns", 5 * self._itl_ns))
        self._prefill_ns = int(numbers.get("prefill_ns", 0))
        self._cv = float(numbers.get("cv", 0.02))
        self._seed = int(numbers.get("seed", 1))
        self._chunk = max(1, int(numbers.get("chunk", 1)))
        self._spin = numbers.get("wait") == "spin"
        self._memory = b""
        mine = int(numbers.get("fail_replica", setting.replica)) == setting.replica
        self._fail = str(numbers.get("fail", "")) if mine else ""
        self._fail_at = int(numbers.get("fail_at", 0))
        self.threads = int(numbers.get("threads", 1))

    def load(self) -> dict[str, Any]:
        """Wait for the load time, touch the memory, start the threads that were asked for."""
        time.sleep(int(self._setting.numbers.get("load_ns", 0)) / 1e9)
        if self._fail in ("load", "missing"):
            raise EngineError("the simulated model does not exist", "leave fail= out")
        if self._fail == "memory":
            raise MemoryError
        if self._fail == "repin":
            os.sched_setaffinity(0, range(os.cpu_count() or 1))
        if self._fail == "crowd":
            self._crowd()
        size = int(self._setting.numbers.get("memory_bytes", 0))
        self._memory = b"\x01" * size
        for _ in range(self.threads - 1):
            threading.Thread(target=threading.Event().wait, daemon=True).start()
        return {
            "name": "simulated",
            "simulated": True,
            "weight_bytes": size,
            "kv_bytes_per_token": 0,
            "weights": "private",
            "seed": self._seed,
        }

    def versions(self) -> dict[str, str]:
        return {"python": sys.version.split()[0]}

    def encode(self, text: str | None, tokens: int | None) -> Input:
        """A word is a token."""
        return Input(tokens if tokens is not None else max(1, len((text or "").split())), text)

    def recorder(self, rows: int) -> Recorder:
        return Recorder(rows)

    def generate(self, inputs: Sequence[Input], max_new_tokens: int, recorder: Recorder, request: int) -> None:
        if self._fail and request >= self._fail_at:
            self._go_wrong(request)
        put = recorder.put
        put(inputs[0].tokens)
        numbers = random.Random(f"{self._seed}/{self._setting.replica}/{request}")  # noqa: S311 - made to repeat
        due = recorder.submit_ns + (self._ttft_ns + self._prefill_ns * inputs[0].tokens) * self._factor(numbers)
        done = 0
        while done < max_new_tokens:
            tokens = min(self._chunk if done else 1, max_new_tokens - done)
            self._until(int(due))
            put(tokens)
            done += tokens
            following = min(self._chunk, max_new_tokens - done)
            # From the last token on, as work would: what was late delays the rest and is not made up for.
            gap = sum(self._itl_ns * self._factor(numbers) for _ in range(following))
            due = recorder.stamps[-1] + gap

    def decode(self, recorder: Recorder, row: int) -> tuple[str, list[int]]:  # noqa: ARG002
        ids = list(range(sum(recorder.events()[1])))
        return " ".join(f"word{number}" for number in ids), ids

    def _factor(self, numbers: random.Random) -> float:
        """Lognormal of mean 1 and coefficient of variation cv."""
        if not self._cv:
            return 1.0
        variance = math.log1p(self._cv**2)
        return numbers.lognormvariate(-variance / 2, math.sqrt(variance))

    def _until(self, due_ns: int) -> None:
        clock = time.perf_counter_ns
        rest = due_ns - clock()
        if rest > SPIN_NS and not self._spin:
            time.sleep((rest - SPIN_NS) / 1e9)
        while clock() < due_ns:
            pass

    def _go_wrong(self, request: int) -> None:
        if self._fail == "exit":
            print("simulated: leaving on purpose", file=sys.stderr, flush=True)
            os._exit(7)
        elif self._fail == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self._fail == "hang":
            threading.Event().wait()
        elif self._fail == "freeze":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif self._fail == "garbage":
            os.write(self._setting.output, b"Segfault? No: just a chatty library\n")
        elif self._fail == "fill":
            self._fill()
        elif self._fail == "print":
            print("a library that prints to standard output", flush=True)
            os.write(1, b"and one that does not ask Python\n")
        elif self._fail == "request":
            raise EngineError(f"request {request} failed on purpose", kind="engine")

    def _crowd(self) -> None:
        """A thread for each CPU of the machine, as of a library that does not ask what it may use."""

        def work() -> None:
            while True:
                hashlib.sha256(block).digest()

        block = bytes(1 << 20)
        for _ in range(max(4, os.cpu_count() or 1)):
            threading.Thread(target=work, daemon=True).start()

    def _fill(self) -> None:
        """Take memory until the kernel ends it, up to a limit for where it does not."""
        taken: list[bytes] = []
        piece = 16 << 20
        while piece * len(taken) < FILL_BYTES:
            taken.append(b"\x01" * piece)
        raise EngineError(f"{FILL_BYTES >> 20} MiB were there to be had", "leave fail= out", kind="engine")
