"""A scenario of the test's own: each replica is driven by a thread, the measured parts begin together."""

from __future__ import annotations

import threading

from pytest_nriperf.experiment.workload import Workload
from pytest_nriperf.seams import ClockAnchor, Completion, Generator, Prompt, RequestRow, RunData, TokenEvents


def drive_scenario(generator: Generator, workload: Workload, replicas: int) -> RunData:
    """Let the scenario drive each replica in a thread of its own, all measured parts beginning together."""
    data = RunData(requests=[], tokens=TokenEvents())
    together = threading.Barrier(replicas, action=workload.work.rendezvous)
    failures: list[BaseException] = []
    found: dict[int, list[tuple[str, Completion]]] = {replica: [] for replica in range(replicas)}

    def drive(replica: int) -> None:
        phase = "warmup"

        def generate(prompt: str, max_new_tokens: int | None = None) -> Completion:
            wanted = max_new_tokens or workload.work.max_new_tokens
            completion = generator.generate(Prompt("scenario", text=prompt), wanted, replica)
            found[replica].append((phase, completion))
            return completion

        try:
            assert workload.scenario is not None
            for _ in range(workload.work.warmup):
                workload.scenario(generate)
            together.wait(workload.work.timeout_s)
            phase = "measure"
            for _ in range(workload.work.requests):
                workload.scenario(generate)
        except BaseException as error:  # noqa: BLE001 - raised again below, in the caller's thread
            failures.append(error)
            together.abort()

    threads = [threading.Thread(target=drive, args=(replica,), daemon=True) for replica in range(replicas)]
    before = {replica: ClockAnchor.now() for replica in range(replicas)}
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise next((error for error in failures if not isinstance(error, threading.BrokenBarrierError)), failures[0])
    for replica, completions in found.items():
        for request, (phase, completion) in enumerate(completions):
            data.requests.append(RequestRow.from_completion(replica, request, phase, "scenario", completion))
            data.tokens.add(replica, request, completion.stamps_ns, completion.tokens)
        data.anchors[replica] = (before[replica], ClockAnchor.now())
    return data
