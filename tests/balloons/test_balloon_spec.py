from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nriperf.balloons import BalloonSpec, Placement, place
from pytest_nriperf.errors import NriperfError, SpecError
from pytest_nriperf.topology import simulated_topology

ARGUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "cpus": st.one_of(st.integers(1, 500).map(lambda n: 2 * n), st.sampled_from(["numa", "socket", "all", "25%"])),
        "hyperthreads": st.sampled_from(["paired", "spread", "hidden"]),
        "numa": st.sampled_from(["any", "single"]),
        "memory": st.sampled_from(["local", "any", "interleave"]),
        "replicas": st.one_of(st.integers(1, 64), st.just("numa")),
        "placement": st.sampled_from(["balance", "pack"]),
        "snc": st.sampled_from([None, 1, 2, 3, 4]),
    },
)


@given(ARGUMENTS)
def test_the_canonical_text_is_the_spec(arguments: dict[str, Any]) -> None:
    spec = BalloonSpec.from_arguments(arguments)
    text = spec.canonical()
    assert BalloonSpec.parse("" if text == "default" else text) == spec
    assert BalloonSpec.from_arguments(dict(reversed(arguments.items()))).canonical() == text


def test_defaults_do_not_show_in_the_canonical_text() -> None:
    assert BalloonSpec(cpus=4, numa="any", replicas=1, memory="local").canonical() == "cpus=4"


def test_shares_are_written_in_one_way() -> None:
    assert BalloonSpec(cpus="25.0 %").canonical() == BalloonSpec(cpus="25%").canonical() == "cpus=25%"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"cpu": 4}, "unknown argument 'cpu'; did you mean 'cpus'?"),
        ({"threads": 4}, "unknown argument 'threads'; did you mean 'hyperthreads'?"),
        ({"x": 4}, "unknown argument 'x'; possible are cpus, hyperthreads"),
        ({"cpus": 0}, "cpus=0 is no size"),
        ({"cpus": -2}, "cpus=-2 is no size"),
        ({"cpus": True}, "cpus=True is no size"),
        ({"cpus": 2.0}, "cpus=2.0 is no size"),
        ({"cpus": "0%"}, "cpus='0%' is no size"),
        ({"cpus": "101%"}, "cpus='101%' is no size"),
        ({"cpus": "sockets"}, "did you mean 'socket'?"),
        ({"cpus": 7, "hyperthreads": "hidden"}, "leaves half a core; the nearest sizes are 6 and 8"),
        ({"hyperthreads": "hiden"}, "none of paired, spread, hidden; did you mean 'hidden'?"),
        ({"numa": "node"}, "numa='node' is none of any, single, socket, all"),
        ({"memory": 1}, "memory=1 is none of local, any, interleave"),
        ({"replicas": 0}, "replicas=0 is no number of replicas"),
        ({"replicas": "all"}, "replicas='all'"),
        ({"placement": "packed"}, "did you mean 'pack'?"),
        ({"snc": 5}, "snc=5 is none of 1, 2, 3, 4"),
        ({"snc": True}, "snc=True"),
        ({"replicas": "numa", "numa": "all"}, "one replica inside each NUMA node, numa='all' says otherwise"),
    ],
)
def test_a_wrong_argument_is_named(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError) as caught:
        BalloonSpec.from_arguments(arguments)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [("cpus", "no NAME=VALUE"), ("cpus=", "no NAME=VALUE"), ("cpus=1,cpus=2", "given twice"), ("cpus=x", "no size")],
)
def test_a_wrong_text_is_explained(text: str, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        BalloonSpec.parse(text)


def test_text_from_the_command_line_means_the_same_as_values() -> None:
    text = "cpus=16, hyperthreads=hidden, numa=single, replicas=4, snc=2"
    assert BalloonSpec.parse(text) == BalloonSpec(16, "hidden", "single", replicas=4, snc=2)


def test_a_placement_survives_json() -> None:
    topology = simulated_topology("sim:2s4c2t-snc2")
    placement = place(BalloonSpec(cpus="numa", replicas="numa"), topology, allowed=topology.online)
    assert Placement.from_dict(json.loads(json.dumps(placement.as_dict()))) == placement


def test_a_description_that_lacks_a_part_is_refused() -> None:
    topology = simulated_topology("sim:1s2c")
    data = place(BalloonSpec(), topology, allowed=topology.online).as_dict()
    del data["replicas"][0]["visible"]
    with pytest.raises(NriperfError, match="visible"):
        Placement.from_dict(data)
