"""The instrumented generator that a test holds."""

from __future__ import annotations

import contextlib
import itertools
import math
import statistics
from collections.abc import Callable, Iterator

from pytest_nriperf.errors import SpecError
from pytest_nriperf.experiment.bench import Balloon, Bench, ReferenceLoad
from pytest_nriperf.experiment.runs import Loaded, Settled, measure
from pytest_nriperf.experiment.subject import Caller, Subject
from pytest_nriperf.experiment.variants import Contest
from pytest_nriperf.experiment.workload import PromptArgument, workload
from pytest_nriperf.marks import VariantsMark
from pytest_nriperf.metrics import Measurement
from pytest_nriperf.seams import Completion, EngineOptions, Generator, ModelChoice, Prompt, WorkerInfo
from pytest_nriperf.units import NANOSECONDS


class Llm:
    """A model in a balloon. `measure` is evidence for a gate; `generate` is one call for loops of one's own.

    With `keep_loaded` the engines stay loaded between calls, and each measurement counts as one run.
    """

    def __init__(
        self,
        bench: Bench,
        balloon: Balloon | None,
        choice: ModelChoice,
        *,
        keep_loaded: bool,
        caller: Callable[[], Caller],
        settled: Settled,
        variants: VariantsMark | None = None,
    ) -> None:
        self.model = choice
        self._balloon = balloon
        self._variants = variants
        self.completions: list[Completion] = []
        self._bench = bench
        self._keep_loaded = keep_loaded
        self._caller = caller
        self._settled = settled
        self._generator: Generator | None = None
        self._infos: list[WorkerInfo] = []

    @property
    def balloon(self) -> Balloon:
        """The balloon; SpecError where variants have one each."""
        if self._balloon is None:
            raise SpecError("each variant has a balloon of its own", "look into m.variants[NAME].document['balloon']")
        return self._balloon

    def measure(
        self,
        prompt: PromptArgument = None,
        *,
        prompt_tokens: int | None = None,
        max_new_tokens: int = 32,
        requests: int = 1,
        concurrency: int = 1,
        warmup: int = 1,
        timeout: float = 600.0,
    ) -> Measurement:
        """Measure `requests` generations per replica and run, each of exactly `max_new_tokens` new tokens.

        `prompt` is a text, a list of texts taken in turn, or a scenario: a callable that gets `generate` and drives
        it (several turns, tools). `prompt_tokens` makes a prompt of that many tokens up instead. `warmup` requests
        before each run are recorded and not judged. `timeout` is in seconds a request. The number of runs comes from
        `--nri-runs`; with variants it is the number of pairs. All is on disk before this returns; raises WorkerError
        when an engine fails.
        """
        asked = workload(
            prompt,
            prompt_tokens=prompt_tokens,
            max_new_tokens=max_new_tokens,
            requests=requests,
            concurrency=concurrency,
            warmup=warmup,
            timeout_s=timeout,
        )
        if not self._keep_loaded:
            # Engines of earlier `generate` calls would share the balloon with the measured ones.
            self.close()
        caller = self._caller()
        plan = caller.runs or self._bench.settings.runs
        if self._variants is not None:
            contest = Contest(self._bench, self._variants, self._balloon)
            return contest.measure(asked, caller, plan, self._settled)
        spec, reference = self.balloon.spec, self._reference()
        subject = Subject(self._bench, spec, self.model, asked, caller, self._options(), reference)
        kept = (lambda: Loaded(self._loaded(), self._infos)) if self._keep_loaded else None
        return measure(subject, self.balloon, plan, self._settled, kept)

    def generate(self, prompt: str, max_new_tokens: int = 32, replica: int = 0) -> Completion:
        """One generation on one replica: text, token ids and stamps. The first call loads the model."""
        if self._variants is not None:
            raise SpecError("generate: a test with variants cannot say which of them", "use measure")
        if not isinstance(prompt, str) or not prompt:
            raise SpecError(f"generate: {prompt!r} is no prompt", "give a text")
        if not 0 <= replica < self.balloon.replicas:
            raise SpecError(f"generate: there is no replica {replica}", f"the balloon has {self.balloon.replicas}")
        completion = self._loaded().generate(Prompt("generate", text=prompt), max_new_tokens, replica)
        self.completions.append(completion)
        return completion

    def extra_info(self) -> dict[str, float | int | str]:
        """The metrics of the `generate` calls so far, for the record of another benchmark tool; seconds."""
        firsts, gaps = [], []
        for completion in self.completions:
            stamps = [stamp for stamp, n in zip(completion.stamps_ns, completion.tokens, strict=True) if n]
            firsts += [stamps[0] - completion.submit_ns] if stamps else []
            gaps += [later - earlier for earlier, later in itertools.pairwise(stamps)]
        return {
            "nriperf.ttft_median_s": statistics.median(firsts) / NANOSECONDS if firsts else math.nan,
            "nriperf.icl_median_s": statistics.median(gaps) / NANOSECONDS if gaps else math.nan,
            "nriperf.output_tokens": sum(sum(completion.tokens) for completion in self.completions),
            "nriperf.generations": len(self.completions),
            "nriperf.balloon": str(self.balloon),
            "nriperf.model": self.model.text,
        }

    def close(self) -> None:
        """End the engines that are kept loaded."""
        if self._generator is not None:
            self._generator.close()
            self._generator = None

    def _reference(self) -> ReferenceLoad:
        return self._bench.reference_load(self.model, judged=self._caller().judged)

    def _options(self) -> EngineOptions:
        return EngineOptions(reference=self._reference() is ReferenceLoad.EACH_RUN)

    def _loaded(self) -> Generator:
        if self._generator is None:
            with contextlib.ExitStack() as undo:
                generator = self._bench.generator(self.model, self._options())
                undo.callback(generator.close)
                self._infos = list(generator.load(self.balloon.grant))
                for info in self._infos:
                    if info.stream is not None:
                        self.balloon.grant.verify(info.replica, info.stream)
                undo.pop_all()
            self._generator = generator
        return self._generator


@contextlib.contextmanager
def open_llm(
    bench: Bench,
    balloon: Balloon | None,
    choice: ModelChoice,
    *,
    keep_loaded: bool = False,
    caller: Callable[[], Caller],
    settled: Settled,
    variants: VariantsMark | None = None,
) -> Iterator[Llm]:
    """An `Llm` whose engines end with the context."""
    llm = Llm(bench, balloon, choice, keep_loaded=keep_loaded, caller=caller, settled=settled, variants=variants)
    try:
        yield llm
    finally:
        llm.close()
