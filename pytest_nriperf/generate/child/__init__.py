"""What runs inside the balloon: the worker and one file an engine. Standard library, Python 3.9 or newer."""

from __future__ import annotations
