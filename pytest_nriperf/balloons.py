"""placeholder for the type checker until the real module lands."""

from __future__ import annotations


class BalloonSpec: ...


class Placement: ...
