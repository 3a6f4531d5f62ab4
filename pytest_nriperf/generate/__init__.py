"""Generators: engines in worker processes inside balloons, or servers with a client outside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_nriperf.seams import Generator, ModelChoice


def make_generator(
    choice: ModelChoice,
    *,
    python: str = "",
    environment: Mapping[str, str] | None = None,
    load_timeout_s: float = 1800.0,
    silence_s: float = 60.0,
    reference: bool | None = None,
    notice: Callable[[str], None] = lambda _: None,
) -> Generator:
    """The generator of one run for a model choice; see WorkerGenerator for the arguments."""
    if choice.kind == "openai":
        from pytest_nriperf.generate.openai import OpenAIGenerator

        return OpenAIGenerator(choice)
    from pytest_nriperf.generate.process import WorkerGenerator

    return WorkerGenerator(
        choice,
        python=python,
        environment=environment,
        load_timeout_s=load_timeout_s,
        silence_s=silence_s,
        reference=reference,
        notice=notice,
    )
