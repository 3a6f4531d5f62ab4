"""Zones as a real plugin publishes them: whose a balloon is, late ones, empty ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from pytest_nriperf.provision import policy_zones
from pytest_nriperf.provision.policy_zones import Published, Zone, cpus_by_type, is_showing, published
from pytest_nriperf.units import parse_cpus


def zone(name: str, cpus: str, parent: str = "", shared: str = "") -> Zone:
    return Zone(name, parent, parse_cpus(cpus), parse_cpus(shared))


# Recorded: two pods of own balloons, one of a composite, and two balloons that containers which are gone have left.
RECORDED = [
    zone("reserved[0]", "0"),
    zone("a[0]", "12-15"),
    zone("default[0]", "1", shared="2-3"),
    zone("n2[0]", "10-11"),
    zone("perf/v6/c", "10-11", "n2[0]"),
    zone("both[0]", "4-5,8-9"),
    zone("perf/v7/c", "4-5,8-9", "both[0]"),
]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_zones, "ZONE_S", 0.2)


@pytest.mark.parametrize(
    ("container", "cpus", "shown", "found"),
    [
        ("perf/v7/c", "4-5,8-9", True, Published(parse_cpus("4-5,8-9"), parse_cpus("4-5,8-9"))),
        # What the kernel says does not choose the zone where containers are shown.
        ("perf/v6/c", "12-13", True, Published(parse_cpus("10-11"), parse_cpus("10-11"))),
        ("perf/v8/c", "12-15", True, Published(frozenset())),
        ("perf/v8/c", "12,14", False, Published(parse_cpus("12-15"))),
        # Idle CPUs that are shared belong to the balloon's containers too.
        ("perf/v8/c", "1-3", False, Published(parse_cpus("1"))),
        ("perf/v8/c", "0-15", False, Published(frozenset())),
    ],
)
def test_a_containers_balloon_is_found(container: str, cpus: str, shown: bool, found: Published) -> None:
    assert published(lambda: RECORDED, container, parse_cpus(cpus), shown=shown) == found


def test_others_in_the_balloon_are_named() -> None:
    zones = [*RECORDED, zone("default/shop/c", "10-11", "n2[0]")]
    found = published(lambda: zones, "perf/v6/c", parse_cpus("10-11"), shown=True)
    assert found is not None
    assert found.others == ("default/shop/c",)


def test_a_zone_that_comes_late_is_waited_for() -> None:
    answers: Iterator[Sequence[Zone]] = iter([[], RECORDED[:4], RECORDED])
    found = published(lambda: next(answers), "perf/v6/c", parse_cpus("10-11"), shown=True)
    assert found == Published(parse_cpus("10-11"), parse_cpus("10-11"))


def test_where_nothing_is_published_nothing_is_concluded() -> None:
    assert published(lambda: None, "perf/v6/c", parse_cpus("10-11"), shown=True) is None
    assert published(list, "perf/v6/c", parse_cpus("10-11"), shown=True) is None


def test_what_balloons_hold_is_counted_by_type_without_the_reserved_one() -> None:
    assert dict(cpus_by_type(RECORDED)) == {"a": 4, "default": 1, "n2": 2, "both": 4}
    assert not cpus_by_type(None)


@pytest.mark.parametrize(
    ("policy", "own", "shown"),
    [
        ({}, {}, False),
        ({"showContainersInNrt": True}, {}, True),
        ({}, {"showContainersInNrt": True}, True),
        ({"showContainersInNrt": True}, {"showContainersInNrt": False}, False),
    ],
)
def test_a_types_own_word_on_showing_containers_counts(
    policy: dict[str, bool], own: dict[str, bool], shown: bool
) -> None:
    spec = {**policy, "balloonTypes": [{"name": "other"}, {"name": "a", **own}]}
    assert is_showing(spec, "a") is shown
    assert not is_showing({}, "a")
