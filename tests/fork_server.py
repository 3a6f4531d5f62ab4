"""Starts pytest runs by forking, so that 200 of them cost seconds and not minutes of imports.

Run as a program; says "ready". Each line on standard input is a JSON object {"arguments", "folder", "environment"}: the
answer is the process number of a child that runs pytest with them and writes to `output` in that folder; the line
"wait" is answered with its status once it has ended.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from typing import Any

import pytest

import pytest_nriperf.plugin
import pytest_nriperf.recording
import pytest_nriperf.session.handles
import pytest_nriperf.session.working  # noqa: F401 - what a run needs is imported once, here


def run(order: dict[str, Any]) -> int:
    """In the child."""
    os.setsid()
    os.chdir(order["folder"])
    os.environ.update(order["environment"])
    output = os.open("output", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for target, source in ((0, nothing), (1, output), (2, output)):
        os.dup2(source, target)
    return int(pytest.main(order["arguments"]))


def main() -> None:
    """Serve until standard input ends."""
    child = 0
    gc.freeze()
    print("ready", flush=True)
    for line in sys.stdin:
        if line == "wait\n":
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
            continue
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            status = 70
            try:
                status = run(order)
            except KeyboardInterrupt:
                # Before pytest has begun or after it has ended.
                status = 2
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        print(child, flush=True)


if __name__ == "__main__":
    main()
