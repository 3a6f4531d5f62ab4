"""What planning costs: `place` on 256 CPUs, the first call that builds the tree, a refusal, reading a topology."""

from __future__ import annotations

import time
from collections.abc import Callable

from pytest_nriperf.balloons import BalloonSpec, place
from pytest_nriperf.errors import PlacementError
from pytest_nriperf.topology import read_topology, simulated_topology

NODE = "sim:2s64c2t-snc2"
REPLICAS = 18


def best_of(call: Callable[[], object], repeats: int = 30) -> float:
    """The shortest of several calls, milliseconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter_ns()
        call()
        times.append(time.perf_counter_ns() - start)
    return min(times) / 1e6


def main() -> None:
    """Print the times."""
    topology = simulated_topology(NODE)
    print(f"place, {REPLICAS} replicas of 12 CPUs on {NODE}, shortest of 30 calls")
    for hyperthreads in ("paired", "spread", "hidden"):
        for numa in ("any", "single", "socket", "all"):
            spec = BalloonSpec(cpus=12 if numa != "all" else 8, hyperthreads=hyperthreads, numa=numa, replicas=REPLICAS)
            cost = best_of(lambda spec=spec: place(spec, topology, allowed=topology.online))  # type: ignore[misc]
            print(f"  {hyperthreads:7} numa={numa:7} {cost:7.2f} ms")
    print(f"  refused, with what would fit: {best_of(lambda: refuse(BalloonSpec(cpus=16, replicas=REPLICAS))):.2f} ms")
    print(f"  first call on a new topology: {best_of(first_call, 5):.2f} ms")
    print(f"reading this machine's topology ({len(read_topology().cpus)} CPUs): {best_of(read_topology):.2f} ms")


def refuse(spec: BalloonSpec) -> None:
    """Ask for more than there is."""
    topology = simulated_topology(NODE)
    try:
        place(spec, topology, allowed=topology.online)
    except PlacementError:
        return
    raise AssertionError("it fits")


def first_call() -> None:
    """A topology that no tree was built for yet: its name is part of it."""
    topology = simulated_topology(f"{NODE}-{time.perf_counter_ns() % 1_000_000 + 1}g")
    place(BalloonSpec(cpus=2), topology, allowed=topology.online)


if __name__ == "__main__":
    main()
