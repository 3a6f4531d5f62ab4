"""What the installed plugin costs a pytest run that does not use it, in milliseconds: its imports and its hooks."""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile

IMPORTS = "import pytest, argparse, dataclasses, typing; import pytest_nriperf.plugin, pytest_nriperf.fixtures"

# The hooks that every run calls, on a fresh parser and plug-in manager, and the setup hook of one test.
HOOKS = """
import time
import pytest, pytest_nriperf.plugin as plugin
from _pytest.config import get_config

config = get_config(["-p", "no:nriperf"])
parser = config._parser
class Item:
    config = config
begin = time.perf_counter_ns()
plugin.pytest_addhooks(config.pluginmanager)
plugin.pytest_addoption(parser)
options = time.perf_counter_ns()
for _ in range(1000):
    plugin.pytest_runtest_setup(Item)
print((options - begin) / 1e6, (time.perf_counter_ns() - options) / 1e6)
"""


def fresh(cache: str, *words: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter with bytecode in `cache`, as an installed package has it."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": cache}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment)


def import_milliseconds(cache: str) -> float:
    """Self time of every module of ours that pytest loads at its start."""
    done = fresh(cache, "-X", "importtime", "-c", IMPORTS)
    own = re.findall(r"import time:\s+(\d+) \|\s+\d+ \|\s+pytest_nriperf", done.stderr)
    return sum(map(int, own)) / 1000


def hook_milliseconds(cache: str) -> tuple[float, float]:
    """Our option hooks, and our setup hook called for 1,000 tests."""
    done = fresh(cache, "-c", HOOKS)
    options, setups = map(float, done.stdout.split())
    return options, setups


def main() -> None:
    """Print medians of eleven fresh interpreters."""
    with tempfile.TemporaryDirectory() as cache:
        import_milliseconds(cache)
        imports = statistics.median(import_milliseconds(cache) for _ in range(11))
        pairs = [hook_milliseconds(cache) for _ in range(11)]
    options = statistics.median(pair[0] for pair in pairs)
    setups = statistics.median(pair[1] for pair in pairs)
    print(f"imports, self time     {imports:6.2f} ms")
    print(f"option hooks           {options:6.2f} ms")
    print(f"sum                    {imports + options:6.2f} ms (at most 2)")
    print(f"setup hook, 1000 tests {setups:6.2f} ms")


if __name__ == "__main__":
    main()
