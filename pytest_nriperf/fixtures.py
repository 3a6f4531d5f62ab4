"""The fixtures. Each is a few lines: what it does lives in `experiment` and `session`, imported when it is used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_nriperf.experiment.bench import Balloon, Bench
    from pytest_nriperf.experiment.llm import Llm
    from pytest_nriperf.session.handles import BaselineCheck, Nri
    from pytest_nriperf.sweep.axes import Cell


@pytest.fixture(scope="session")
def nri_node(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """The node: its topology, its fingerprint, what it can do. Held (locked) until the session ends."""
    from pytest_nriperf.session.working import own_session

    session = own_session(request.config)
    with session.bench(getattr(request, "param", None) or session.nodes[0]) as bench:
        yield bench


@pytest.fixture(scope="session")
def nri(request: pytest.FixtureRequest, nri_node: Bench) -> Nri:
    """Factory of balloons and models, for fixtures of any scope of one's own."""
    from pytest_nriperf.session.handles import Nri
    from pytest_nriperf.session.working import own_session

    return Nri(nri_node, own_session(request.config))


@pytest.fixture
def nri_requirements(request: pytest.FixtureRequest, nri_node: Bench) -> None:
    """Skips a test whose `requires_node` mark asks for what the node has not; such tests use it by themselves."""
    from pytest_nriperf.marks import unmet
    from pytest_nriperf.session.collecting import arguments_of

    lacking = unmet(nri_node.topology, arguments_of(request.node, "requires_node"))
    if lacking:
        pytest.skip(lacking)


@pytest.fixture
def nri_cell(request: pytest.FixtureRequest) -> Cell | None:
    """The cell of a sweep that this item is; None outside of sweeps."""
    return getattr(request, "param", None)


@pytest.fixture
def nri_balloon(
    request: pytest.FixtureRequest,
    nri_node: Bench,
    nri_cell: Cell | None,  # noqa: ARG001 - its values come before those of the marks
) -> Iterator[Balloon]:
    """The granted, verified allocation that the test's `balloon` mark asks for; in a duet both halves of it."""
    from pytest_nriperf.errors import SpecError
    from pytest_nriperf.session.collecting import balloons_of, cell_of
    from pytest_nriperf.session.working import own_session

    specs = balloons_of(request.node)
    if len(specs) > 1:
        raise SpecError("balloon: each variant of this test has a balloon of its own", "leave the balloon fixture out")
    other_boot = specs[0].boot_needed(nri_node.topology)
    if other_boot:
        pytest.skip(other_boot)
    if cell_of(request.node) is not None:
        yield own_session(request.config).keeper.balloon(request.node, nri_node)
        return
    with nri_node.balloon(specs[0]) as balloon:
        yield balloon


@pytest.fixture
def balloon(nri_balloon: Balloon) -> Balloon:
    """The granted, verified allocation that the test's `balloon` mark asks for."""
    return nri_balloon


@pytest.fixture
def nri_llm(
    request: pytest.FixtureRequest,
    nri_node: Bench,
    nri_cell: Cell | None,  # noqa: ARG001 - its values come before those of the marks
) -> Iterator[Llm]:
    """The instrumented generator of the test's `llm` mark, inside the test's balloon."""
    from pytest_nriperf.experiment.llm import open_llm
    from pytest_nriperf.marks import llm_request
    from pytest_nriperf.session.collecting import arguments_of, balloons_of, variants_on
    from pytest_nriperf.session.working import own_session

    session = own_session(request.config)
    asked = llm_request(arguments_of(request.node, "llm"))
    choice = nri_node.model(asked.model, asked.dtype, asked.weights)
    specs = balloons_of(request.node)
    other_boot = next(filter(None, (spec.boot_needed(nri_node.topology) for spec in specs)), "")
    if other_boot:
        pytest.skip(other_boot)
    keeps = session.keeps(request.node)
    opened = open_llm(
        nri_node,
        request.getfixturevalue("nri_balloon") if len(specs) == 1 else None,
        choice,
        keep_loaded=asked.keep_loaded or keeps,
        caller=session.caller,
        settled=session.settled,
        variants=variants_on(request.node),
    )
    with session.keeper.llm(opened) if keeps else opened as llm:
        yield llm
        session.tell_benchmark(request, llm)


@pytest.fixture
def llm(nri_llm: Llm) -> Llm:
    """The instrumented generator of the test's `llm` mark, inside the test's balloon."""
    return nri_llm


@pytest.fixture
def nri_baseline(request: pytest.FixtureRequest) -> BaselineCheck:
    """`check(measurement)`: what the test's gate names, against the stored baseline."""
    from pytest_nriperf.session.handles import BaselineCheck
    from pytest_nriperf.session.working import own_session

    return BaselineCheck(own_session(request.config), request.node)


@pytest.fixture
def baseline(nri_baseline: BaselineCheck) -> BaselineCheck:
    """`check(measurement)`: what the test's gate names, against the stored baseline."""
    return nri_baseline
