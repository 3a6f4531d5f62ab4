"""A measurement that is interrupted: holds the machine and a balloon with simulated engines until it is ended.

Run as a program. Prints the workers' process numbers, and `undone` when everything has been undone.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from types import FrameType

from pytest_nriperf.balloons import BalloonSpec
from pytest_nriperf.generate.models import parse_model
from pytest_nriperf.generate.process import WorkerGenerator
from pytest_nriperf.provision.local import LocalProvisioner
from tests.machines.inside.kernel_view import PATIENCE_S


def interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def hold() -> None:
    signal.signal(signal.SIGTERM, interrupt)
    node = LocalProvisioner()
    spec = BalloonSpec(cpus=1, hyperthreads="spread", replicas=2)
    with node.session([spec]), node.provision(spec) as grant:
        generator = WorkerGenerator(parse_model("sim:itl=5ms"), silence_s=PATIENCE_S)
        try:
            infos = generator.load(grant)
            print(*(info.pid for info in infos), flush=True)
            word = sys.stdin.readline()
            if word == "fail\n":
                raise RuntimeError("failed on purpose")
        finally:
            generator.close()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt, RuntimeError):
        hold()
    print("undone", flush=True)
