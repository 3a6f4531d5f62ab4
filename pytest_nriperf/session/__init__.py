"""Between pytest and the experiment: the working object of a session, and what its fixtures hand out."""

from __future__ import annotations
