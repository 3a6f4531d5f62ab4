"""Which cells exist on a node, and what their placement says of them before anything is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pytest_nriperf.balloons import BalloonSpec, Placement, place
from pytest_nriperf.errors import PlacementError, SpecError
from pytest_nriperf.seams import NodeDescription
from pytest_nriperf.sweep.adaptive import Replica, placement_features
from pytest_nriperf.sweep.axes import Cell
from pytest_nriperf.sweep.rows import Floats
from pytest_nriperf.topology import Topology

# Axes that the placement tells of; the search knows others by their values alone.
PLACED_AXES = ("replicas", "cpus", "hyperthreads", "numa", "placement", "snc")

Refusal = tuple[str, str]


@dataclass
class Site:
    """A node as a sweep is planned on it: `allowed` CPUs may be given out, `reserved` of them may not."""

    topology: Topology
    allowed: frozenset[int]
    reserved: frozenset[int] = frozenset()
    _known: dict[str, Placement | Refusal] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, topology: Topology, node: NodeDescription) -> Site:
        """From what a provisioner says of its node."""
        return cls(topology, node.allowed, node.reserved)

    def refusal(self, spec: BalloonSpec) -> Refusal | None:
        """(reason, fact) when the balloons cannot be on the node as it is booted, None when they can."""
        found = self._place(spec)
        return None if isinstance(found, Placement) else found

    def placement(self, spec: BalloonSpec) -> Placement | None:
        """Where the replicas would run, None when they cannot."""
        found = self._place(spec)
        return found if isinstance(found, Placement) else None

    def _place(self, spec: BalloonSpec) -> Placement | Refusal:
        key = spec.canonical()
        if key not in self._known:
            self._known[key] = self._tried(spec)
        return self._known[key]

    def _tried(self, spec: BalloonSpec) -> Placement | Refusal:
        boot = spec.boot_needed(self.topology)
        if boot:
            return boot, ""
        room = len((self.allowed & self.topology.online) - self.reserved)
        # Most cells of a grid need more than there is: counting them is a thousand times cheaper than placing them.
        if isinstance(spec.cpus, int) and isinstance(spec.replicas, int) and spec.cpus * spec.replicas > room:
            return "more CPUs than the node has", f"{spec.cpus * spec.replicas} of {room}"
        try:
            return place(spec, self.topology, allowed=self.allowed, reserved=self.reserved)
        except PlacementError as error:
            return "the balloons do not fit", error.fact
        except SpecError as error:
            return "sizes that do not divide", error.fact


def cell_features(cells: Sequence[Cell], placements: Sequence[Placement], topology: Topology) -> tuple[Floats, Floats]:
    """What the search knows of each cell beforehand: features (cells x features), and the CPUs allocated.

    Of axes that the placement does not tell: numbers as their logarithm, words as one column each.
    """
    rows = [placement_features(_replicas(placement, topology)) for placement in placements]
    others = dict.fromkeys(axis for cell in cells for axis in cell.labels if axis not in PLACED_AXES)
    columns = [np.array(rows, dtype=float), *(_axis_columns([cell.labels for cell in cells], axis) for axis in others)]
    cpus = np.array([placement.cpus * len(placement.replicas) for placement in placements], dtype=float)
    return np.column_stack(columns), cpus


def _replicas(placement: Placement, topology: Topology) -> list[Replica]:
    def where(number: int) -> tuple[int, int, int]:
        cpu = topology.cpu(number)
        return cpu.core, cpu.node, cpu.socket

    return [Replica.of(replica.visible, where) for replica in placement.replicas]


def _axis_columns(labels: Sequence[Mapping[str, str]], axis: str) -> Floats:
    words = [label[axis] for label in labels]
    try:
        numbers = np.array([float(word) for word in words])
    except ValueError:
        numbers = np.array([-1.0])
    if (numbers > 0).all():
        column: Floats = np.log2(numbers)[:, None]
        return column
    table: Floats = np.array([[float(word == each) for each in dict.fromkeys(words)] for word in words])
    return table
