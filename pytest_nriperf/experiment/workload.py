"""What is asked of the engine in one measurement, and its canonical name."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pytest_nriperf.errors import SpecError
from pytest_nriperf.seams import Completion, Prompt, Work


class Generate(Protocol):
    """What a scenario is given: one generation on its replica."""

    def __call__(self, prompt: str, max_new_tokens: int | None = None) -> Completion: ...


Scenario = Callable[[Generate], Any]
PromptArgument = str | Sequence[str] | Scenario | None


@dataclass(frozen=True)
class Workload:
    """The work of one replica in one run, and the scenario that drives it when there is one."""

    work: Work
    scenario: Scenario | None = None
    name: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For the recording: no prompt text, which may be private."""
        return {
            "name": self.name,
            "prompts": [prompt.prompt_id for prompt in self.work.prompts],
            "max_new_tokens": self.work.max_new_tokens,
            "requests": self.work.requests,
            "concurrency": self.work.concurrency,
            "warmup": self.work.warmup,
            "timeout_s": self.work.timeout_s,
        }


def workload(
    prompt: PromptArgument,
    *,
    prompt_tokens: int | None,
    max_new_tokens: int,
    requests: int,
    concurrency: int,
    warmup: int,
    timeout_s: float,
) -> Workload:
    """Check the arguments of `measure` and name the work; SpecError names the argument that is wrong."""
    for name, value, least in (
        ("max_new_tokens", max_new_tokens, 1),
        ("requests", requests, 1),
        ("concurrency", concurrency, 1),
        ("warmup", warmup, 0),
        ("prompt_tokens", prompt_tokens if prompt_tokens is not None else 1, 1),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise SpecError(f"measure: {name} = {value!r} is no whole number from {least}", f"write {name}={least}")
    if timeout_s <= 0:
        raise SpecError(f"measure: timeout = {timeout_s!r} is not above 0", "give seconds that a request may take")
    if (prompt is None) == (prompt_tokens is None):
        raise SpecError(
            "measure: give either a prompt (text, list of texts or scenario) or prompt_tokens",
            'for example measure("What happens at KubeCon?", max_new_tokens=32)',
        )
    scenario = prompt if callable(prompt) else None
    if scenario is not None and concurrency > 1:
        raise SpecError("measure: a scenario runs one call at a time on each replica", "leave concurrency out")
    prompts = () if scenario is not None else _prompts(prompt, prompt_tokens)
    what = f"scenario={_scenario_name(scenario)}" if scenario is not None else f"prompts={_digest(prompts)}"
    return Workload(
        work=Work(prompts, max_new_tokens, requests, concurrency, warmup, timeout_s),
        scenario=scenario,
        name=f"{what},max_new_tokens={max_new_tokens},requests={requests},concurrency={concurrency},warmup={warmup}",
    )


def _prompts(prompt: Any, prompt_tokens: int | None) -> tuple[Prompt, ...]:
    if prompt_tokens is not None:
        return (Prompt(prompt_id=f"{prompt_tokens}-tokens", tokens=prompt_tokens),)
    texts = [prompt] if isinstance(prompt, str) else list(prompt)
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise SpecError("measure: the prompts are no list of non-empty texts", 'write measure(["...", "..."], ...)')
    return tuple(
        Prompt(prompt_id=f"{index}-{hashlib.sha256(text.encode()).hexdigest()[:8]}", text=text)
        for index, text in enumerate(texts)
    )


def _digest(prompts: Sequence[Prompt]) -> str:
    """One prompt by its own id, several by their number and a hash of their ids."""
    if len(prompts) == 1:
        return prompts[0].prompt_id
    together = hashlib.sha256(" ".join(prompt.prompt_id for prompt in prompts).encode()).hexdigest()[:8]
    return f"{len(prompts)}-{together}"


def _scenario_name(scenario: Scenario) -> str:
    return str(getattr(scenario, "__qualname__", type(scenario).__qualname__)).replace("<locals>.", "")
