"""What the plugin and the session share: options and marks as data, and where things are kept. Costs nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_nriperf.seams import Provisioner
    from pytest_nriperf.session.collecting import Collected
    from pytest_nriperf.session.steering import Steering
    from pytest_nriperf.session.sweeping import Sweeps
    from pytest_nriperf.session.working import NriSession
    from pytest_nriperf.settings import Settings

# Option name, its metavar, help. The ini twin is nri_<name with underscores>.
OPTIONS: tuple[tuple[str, str, str], ...] = (
    ("node", "LIST", "where to run: local (default), sim:SHAPE, node profiles, Kubernetes nodes; several = an axis"),
    (
        "model",
        "MODEL",
        "instead of what the marks say: smollm2, org/name, a folder, file.gguf, dummy:..., sim:..., openai:URL",
    ),
    ("runs", "N|N..M", "independent runs a measurement (default 5); a range stops when the gate is settled"),
    ("out", "DIR", "where recordings go (default .nriperf)"),
    ("baselines", "DIR", "where baselines are (default 'baselines' beside the ini file)"),
    ("accept", "missing|all", "add this session to the baselines: only where none exists, or everywhere"),
    ("fail-on", "LIST", "verdicts that fail a test: worse (default), unknown, missing, incomparable, or nothing"),
    ("alpha", "A", "false-alarm rate of the whole suite (default 0.05)"),
    ("collect", "LIST", "counter collectors, 'auto' (default) or 'none'"),
    ("sample-hz", "HZ", "samples of the counters a second (default 1, at most 10)"),
    ("reference", "auto|on|off", "a short reference load around each run: did the machine change? (default auto)"),
    ("repeats", "N", "disturbed runs (steal, throttling, waiting for a CPU) that a measurement repeats (default 2)"),
    ("pcm", "URL", "the node's PCM sensor server (default: the profile's; else the node's standard port)"),
    ("seed", "N", "seed of the order in which the cells of a sweep are measured (default: the mark's, else 0)"),
    ("budget", "TIME", "time that the sweeps may take, such as 2h; go on another night with --nri-resume"),
    ("report", "FILE", "write an HTML report"),
    ("summary", "FILE", "write a Markdown summary (a GitHub job's summary file is found by itself)"),
    ("json", "FILE", "write all verdicts as JSON"),
)

FLAGS: tuple[tuple[str, str], ...] = (
    ("resume", "go on with the newest unfinished session in the out folder"),
    ("manage", "let us write the Kubernetes node's balloons policy for the session, and put back what was there"),
    ("dry-run", "print the plan of the sweeps with what it costs, and measure nothing"),
)

REPEATABLE: tuple[tuple[str, str, str], ...] = (
    ("set", "AXIS=V1,V2", "values of a sweep's axis instead of the mark's: cpus=4..64:4, replicas=1..16*2"),
)

MARKS = (
    "balloon(cpus, hyperthreads, numa, memory, replicas, placement, snc): the CPUs that the test's model runs on",
    "llm(model, dtype, weights, keep_loaded): the model of the test",
    "gate(*metrics, tolerance, floor): metrics that are judged against the stored baseline",
    "variants(a={...}, b={...}, mode='turns'|'duet'): two variants (llm and balloon arguments, env, python) measured "
    "in pairs and judged against each other",
    "sweep(AXIS=[...], strategy, seed, repeats, share, gate): an item a cell; axes of the balloon, model or test",
    "requires_node(min_cpus, min_cores, threads_per_core, ...): skip with the fact that does not hold on the node",
)

OUR_MARKS = frozenset(line.partition("(")[0] for line in MARKS)


COLLECTED: pytest.StashKey[Collected] = pytest.StashKey()
PROVISIONERS: pytest.StashKey[dict[str, Provisioner]] = pytest.StashKey()
SWEEPS: pytest.StashKey[Sweeps] = pytest.StashKey()
STEERING: pytest.StashKey[Steering] = pytest.StashKey()
CURRENT: pytest.StashKey[pytest.Item] = pytest.StashKey()
SESSION: pytest.StashKey[NriSession] = pytest.StashKey()
SETTINGS: pytest.StashKey[Settings] = pytest.StashKey()


def session_settings(config: pytest.Config) -> Settings:
    """The settings of this session: option, ini twin, configuration file, default."""
    from pytest_nriperf.errors import UsageError
    from pytest_nriperf.settings import read_settings

    if SETTINGS not in config.stash:
        values: dict[str, Any] = {}
        for name in (entry[0] for entry in (*OPTIONS, *FLAGS, *REPEATABLE)):
            key = name.replace("-", "_")
            value = config.getoption(f"nri_{key}")
            values[key] = config.getini(f"nri_{key}") if value is None else value
        values["forced_model"] = values.pop("model")
        values["cell_runs"] = values["runs"]
        values["axes"] = values.pop("set")
        try:
            config.stash[SETTINGS] = read_settings(config.rootpath).with_values(values)
        except UsageError as error:
            raise pytest.UsageError(str(error)) from None
    return config.stash[SETTINGS]
