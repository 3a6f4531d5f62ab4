"""Types of ours in a node's policy: those of a whole session at once, as far as they go together."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from pytest_nriperf.balloons import BalloonSpec, Placement
from pytest_nriperf.errors import NriperfError, ProvisionError
from pytest_nriperf.provision.balloon_types import TypeChoice, TypePlan, fitting, plan_types
from pytest_nriperf.provision.node_policy import NodePolicy
from pytest_nriperf.topology import Topology


class SessionTypes:
    """What the policy has of a session's types, and what a balloon needs of them."""

    def __init__(self, policy: NodePolicy, session: str) -> None:
        self._policy = policy
        self._session = session
        self._plans: dict[str, TypePlan] = {}
        self._in_force: list[str] = []
        self._open = 0

    @contextlib.contextmanager
    def announced(
        self, specs: Sequence[BalloonSpec], place: Callable[[BalloonSpec], Placement], topology: Topology
    ) -> Iterator[None]:
        """The policy with the types of all balloons that fit; one that does not fails its own test only."""
        for spec in specs:
            with contextlib.suppress(NriperfError):
                self._plans[spec.canonical()] = plan_types(place(spec), topology, self._session)
        self._in_force = fitting(self._plans)
        with self._policy.changed([self._plans[key] for key in self._in_force], topology, self._session):
            yield

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """While a balloon is open the types that it uses must stay."""
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1

    def choices(self, placement: Placement, topology: Topology) -> Sequence[TypeChoice]:
        """Each replica's type, in force."""
        key = placement.spec.canonical()
        if key not in self._plans:
            self._plans[key] = plan_types(placement, topology, self._session)
        self._put_in_force(key)
        return self._plans[key].replicas

    def _put_in_force(self, key: str) -> None:
        """The types of a balloon, beside all others that they go with."""
        if key in self._in_force:
            return
        gone = [each for each in self._in_force if self._plans[each].excludes(self._plans[key])]
        if gone and self._open:
            raise ProvisionError(
                f"node {self._policy.node}: {key} and the types for a balloon that is open ({gone[0]}) need policies "
                "that exclude each other: one spreads over NUMA nodes, another keeps to one",
                "use them one after the other",
            )
        wanted = fitting(self._plans, key) if gone else [*self._in_force, key]
        plans = [self._plans[each] for each in wanted if gone or each not in self._in_force]
        try:
            self._policy.extend(plans, self._session, instead=bool(gone))
        except ProvisionError:
            # What was refused would stand in the way of every balloon that comes after it.
            del self._plans[key]
            with contextlib.suppress(ProvisionError):
                self._policy.extend([self._plans[each] for each in self._in_force], self._session, instead=True)
            raise
        self._in_force = wanted
