"""Starts the worker when the archive is run."""

from __future__ import annotations

import sys

from pytest_nriperf.generate.child.worker import main

if __name__ == "__main__":
    sys.exit(main())
