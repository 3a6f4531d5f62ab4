"""pytest hooks and options, nothing else.

The working object (`session.working.NriSession`) is made when a test first asks for a fixture of ours; until then
nothing of weight is imported.
"""

from __future__ import annotations

import pytest

from pytest_nriperf.session.config import (
    COLLECTED,
    CURRENT,
    FLAGS,
    MARKS,
    OPTIONS,
    OUR_MARKS,
    REPEATABLE,
    SETTINGS,
    SWEEPS,
    session_settings,
)

pytest_plugins = ["pytest_nriperf.fixtures"]


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Where suites bring nodes and engines of their own."""
    from pytest_nriperf.session import hooks

    pluginmanager.add_hookspecs(hooks)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Every option defaults to None, so that its ini twin is alive."""
    group = parser.getgroup("nriperf", "performance of LLM inference on CPUs (pytest-nriperf)")
    for name, metavar, line in OPTIONS:
        key = "nri_" + name.replace("-", "_")
        group.addoption(f"--nri-{name}", dest=key, metavar=metavar, default=None, help=line)
        parser.addini(key, line, default=None)
    for name, line in FLAGS:
        key = "nri_" + name.replace("-", "_")
        group.addoption(f"--nri-{name}", dest=key, action="store_true", default=None, help=line)
        parser.addini(key, line, type="bool", default=None)
    for name, metavar, line in REPEATABLE:
        group.addoption(f"--nri-{name}", dest=f"nri_{name}", metavar=metavar, action="append", default=None, help=line)
        parser.addini(f"nri_{name}", line, type="linelist", default=None)


def pytest_configure(config: pytest.Config) -> None:
    """Our marks; and a wrong option of ours is told before anything is collected."""
    for line in MARKS:
        config.addinivalue_line("markers", line)
    if any(value is not None for key, value in vars(config.option).items() if key.startswith("nri_")):
        session_settings(config)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Check the marks of all collected tests, before -k selects: a mistake is a usage error that names it."""
    ours = [
        item
        for item in items
        if "nri_node" in getattr(item, "fixturenames", ())
        or any(mark.name in OUR_MARKS for mark in item.iter_markers())
    ]
    if SWEEPS in config.stash or SETTINGS in config.stash:
        from pytest_nriperf.session.steering import steer

        ours = steer(config, items, ours)
    if ours:
        from pytest_nriperf.session.collecting import collected

        config.stash[COLLECTED] = collected(ours)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Tests that ask for verdicts are accounted for at the end, also where none gets so far as to ask for a fixture."""
    config, collected = session.config, session.config.stash.get(COLLECTED, None)
    if collected is None or not collected.gated or config.option.collectonly:
        return
    settings = session_settings(config)
    asked = settings.json or settings.summary or any(item.nodeid in collected.gated for item in session.items)
    if asked and not settings.dry_run:
        from pytest_nriperf.session.working import own_session

        own_session(config)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Which test is running, for measurements in fixtures of a wider scope."""
    item.config.stash[CURRENT] = item


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Several nodes are an axis; the cells of a sweep are items."""
    if "nri_node" in metafunc.fixturenames:
        nodes = session_settings(metafunc.config).nodes_named
        if len(nodes) > 1:
            metafunc.parametrize("nri_node", nodes, indirect=True, scope="session")
    if metafunc.definition.get_closest_marker("sweep"):
        from pytest_nriperf.session.steering import begin_steering
        from pytest_nriperf.session.sweeping import parametrize_cells

        begin_steering(metafunc.config)
        parametrize_cells(metafunc)
