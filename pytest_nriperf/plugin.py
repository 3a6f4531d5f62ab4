"""pytest hooks and options, nothing else."""

from __future__ import annotations
