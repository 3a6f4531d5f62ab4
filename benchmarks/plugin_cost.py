"""What the installed plugin costs a pytest run that does not use it: its own import time, in milliseconds."""

from __future__ import annotations

import re
import statistics
import subprocess
import sys


def import_milliseconds() -> float:
    """Self time of every module of ours that pytest loads at start, milliseconds."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import pytest; import pytest_nriperf.plugin"],
        capture_output=True,
        text=True,
        check=True,
    )
    own = re.findall(r"import time:\s+(\d+) \|\s+\d+ \|\s+pytest_nriperf", done.stderr)
    return sum(map(int, own)) / 1000


def main() -> None:
    """Print the median of eleven fresh interpreters."""
    times = sorted(import_milliseconds() for _ in range(11))
    print(
        f"import of the plugin, self time: median {statistics.median(times):.2f} ms, min {times[0]:.2f} ms (goal: 2 ms)"
    )


if __name__ == "__main__":
    main()
