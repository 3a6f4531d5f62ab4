"""A node that does not exist: real placement on a made-up topology, nothing is started. SIMULATED."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_nriperf.balloons import BalloonSpec, Placement, place
from pytest_nriperf.errors import ProvisionError
from pytest_nriperf.seams import Grant, Launch, NodeDescription, WorkerStream
from pytest_nriperf.simulate.virtual import VirtualClock
from pytest_nriperf.topology import Topology, simulated_topology


class SimulatedProvisioner:
    """The node of a shape such as `sim:2s64c2t-snc2`. `clock` is its virtual clock, for the engines on it."""

    def __init__(self, shape: str, *, reserved: frozenset[int] = frozenset()) -> None:
        self._shape = shape
        self._topology = simulated_topology(shape)
        self._reserved = reserved & self._topology.online
        self._placed: dict[BalloonSpec, Placement] = {}
        self.clock = VirtualClock(time.time_ns())

    def topology(self) -> Topology:
        """The made-up topology."""
        return self._topology

    def describe(self) -> NodeDescription:
        """The node; it has no files."""
        return NodeDescription(
            name=self._shape,
            allowed=self._topology.online,
            reserved=self._reserved,
            read=lambda path: None,  # noqa: ARG005 - the seam's signature
            simulated=True,
            facts={"shape": self._shape},
        )

    @contextlib.contextmanager
    def session(self, specs: Sequence[BalloonSpec]) -> Iterator[None]:
        """Nothing to hold: a simulated node belongs to its session. Specs are placed, to fail early."""
        for spec in specs:
            self._place(spec)
        yield

    @contextlib.contextmanager
    def provision(self, spec: BalloonSpec) -> Iterator[Grant]:
        """One allocation, by the placement that a real node would get."""
        yield SimulatedGrant(self._place(spec))

    def _place(self, spec: BalloonSpec) -> Placement:
        if spec not in self._placed:
            self._placed[spec] = place(spec, self._topology, allowed=self._topology.online, reserved=self._reserved)
        return self._placed[spec]


@dataclass(frozen=True)
class SimulatedGrant:
    """CPUs of a node that does not exist."""

    placement: Placement
    mechanism: str = "simulated"

    def start_worker(self, replica: int, launch: Launch) -> WorkerStream:  # noqa: ARG002 - the seam's signature
        """Refused: there is nothing that a process could run on."""
        raise ProvisionError(
            f"replica {replica}: no process can run on a simulated node",
            "run with --nri-node local, or use sim: models",
        )

    def verify(self, replica: int, stream: WorkerStream) -> Mapping[str, Any]:  # noqa: ARG002 - the seam's signature
        """What was placed, since nothing enforces it."""
        granted = self.placement.replicas[replica]
        return {"simulated": True, "cpus": sorted(granted.visible), "memory_nodes": list(granted.memory_nodes)}
