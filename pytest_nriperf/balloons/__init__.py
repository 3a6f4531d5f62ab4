"""Balloons: what CPUs a test asks for (`BalloonSpec`) and which it would get on a topology (`place`)."""

from __future__ import annotations

from pytest_nriperf.balloons.placing import most_replicas, place
from pytest_nriperf.balloons.spec import BalloonSpec, Placement, ReplicaPlacement

__all__ = ["BalloonSpec", "Placement", "ReplicaPlacement", "most_replicas", "place"]
