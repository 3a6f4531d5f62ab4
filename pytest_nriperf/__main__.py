"""`python -m pytest_nriperf`, also installed as `nriperf`."""

from __future__ import annotations

import sys

from pytest_nriperf.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
