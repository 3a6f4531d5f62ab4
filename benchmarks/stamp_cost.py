"""What one token stamp costs, beside other ways to get one, and what share of a SmolLM2 token our instrument takes."""

from __future__ import annotations

import argparse
import contextlib
import functools
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from pytest_nriperf.balloons import BalloonSpec
from pytest_nriperf.errors import NriperfError
from pytest_nriperf.generate.child.recorder import Recorder
from pytest_nriperf.generate.models import parse_model
from pytest_nriperf.generate.process import WorkerGenerator
from pytest_nriperf.instrument.stamps import stamped
from pytest_nriperf.instrument.wrap import wrap
from pytest_nriperf.provision.local import LocalProvisioner
from pytest_nriperf.seams import Prompt, Work
from pytest_nriperf.units import format_percent, format_value

CALLS, ROUNDS = 2000, 15


class Streamer:
    """What an engine calls for every token."""

    def put(self, value: Any) -> None:
        """Take a token."""


def nanoseconds(call: Callable[[Any], Any], value: Any, calls: int = CALLS) -> tuple[float, float]:
    """Median and minimum over the rounds of the mean cost of a call, loop subtracted."""
    results = []
    for _ in range(ROUNDS):
        before = time.perf_counter_ns()
        for _ in range(calls):
            pass
        middle = time.perf_counter_ns()
        for _ in range(calls):
            call(value)
        results.append((time.perf_counter_ns() - middle - (middle - before)) / calls)
    return statistics.median(results), min(results)


def show(name: str, cost: tuple[float, float], base: tuple[float, float] = (0.0, 0.0)) -> None:
    """One line."""
    median, least = (value - without for value, without in zip(cost, base, strict=True))
    print(f"  {name:44} {format_value(median * 1e-9, 's'):>9} {format_value(least * 1e-9, 's'):>9}")


def ours() -> None:
    """The closure of the worker, and a wrapped method."""
    show("token stamp (one closure)", nanoseconds(Recorder().put, 1))
    streamer = Streamer()
    plain = nanoseconds(streamer.put, 1)
    events: list[tuple[str, int, int]] = []
    undo = wrap(Streamer, "put", stamped(events.append))
    show("instrument.wrap of a method, start and end", nanoseconds(streamer.put, 1), plain)
    undo()


def others() -> None:
    """wrapt, an OpenTelemetry span, hooks of transformers; each says so when it is not installed."""
    plain = nanoseconds(Streamer().put, 1)
    with missing("wrapt"):
        import wrapt

        stamps: list[int] = []

        def around(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:  # noqa: ARG001 - wrapt's signature
            stamps.append(time.perf_counter_ns())
            return wrapped(*args, **kwargs)

        wrapt.wrap_function_wrapper(sys.modules[__name__], "Streamer.put", around)
        show("wrapt around a method", nanoseconds(Streamer().put, 1), plain)
        Streamer.put = Streamer.put.__wrapped__  # type: ignore[attr-defined,method-assign]
    with missing("opentelemetry"):
        from opentelemetry.sdk.trace import TracerProvider

        tracer = TracerProvider().get_tracer("cost")

        def span(_: Any) -> None:
            with tracer.start_as_current_span("token"):
                pass

        show("OpenTelemetry span, no exporter", nanoseconds(span, 1))
    with missing("transformers"):
        transformers_hooks()


def transformers_hooks() -> None:
    """The hooks that others use inside generate()."""
    import torch
    import transformers

    class Stamp(transformers.LogitsProcessor):  # type: ignore[misc]
        def __call__(self, input_ids: Any, scores: Any) -> Any:  # noqa: ARG002 - the library's signature
            stamps.append(time.perf_counter_ns())
            return scores

    class Stop(transformers.StoppingCriteria):  # type: ignore[misc]
        def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:  # noqa: ARG002 - the library's signature
            stamps.append(time.perf_counter_ns())
            return torch.zeros(input_ids.shape[0], dtype=torch.bool)

    stamps: list[int] = []
    ids, scores = torch.zeros((1, 32), dtype=torch.long), torch.zeros((1, 50000))
    for name, kind, hook in (
        ("transformers LogitsProcessor", transformers.LogitsProcessorList, Stamp()),
        ("transformers StoppingCriteria", transformers.StoppingCriteriaList, Stop()),
    ):
        empty, full = kind(), kind([hook])
        without = nanoseconds(functools.partial(empty, ids), scores, 300)
        show(name, nanoseconds(functools.partial(full, ids), scores, 300), without)


@contextlib.contextmanager
def missing(name: str) -> Any:
    """Say that a package is not there instead of failing."""
    try:
        yield
    except ImportError:
        print(f"  {name}: not installed")


def share(model: str, tokens: int) -> None:
    """Our part of a token's time, of a real model in a worker of this machine."""
    provisioner = LocalProvisioner()
    with (
        provisioner.session([]),
        provisioner.provision(BalloonSpec()) as grant,
        contextlib.closing(WorkerGenerator(parse_model(model), reference=False)) as generator,
    ):
        info = generator.load(grant)[0]
        data = generator.measure(Work((Prompt("p", "What happens at KubeCon?"),), tokens, requests=2), lambda _: None)
    stamps, counts = data.tokens.t_ns, data.tokens.n
    gaps = [late - early for early, late, n in zip(stamps, stamps[1:], counts[1:], strict=False) if n]
    gap_ns = statistics.median(gaps)
    measured = sum(row.output_tokens for row in data.requests if row.phase == "measure")
    reporter_ns = data.cost["reporter_cpu_ns"] / measured
    ours_ns = data.cost["stamp_ns"] + reporter_ns
    print(f"{info.model['name']}, {info.threads} threads: {format_value(gap_ns / 1e9, 's')} a token (median)")
    print(
        f"  ours: stamp {format_value(data.cost['stamp_ns'] / 1e9, 's')}, reporter thread "
        f"{format_value(reporter_ns / 1e9, 's')} of CPU time a token: "
        f"{format_percent(ours_ns / gap_ns, digits=4)} of a token"
    )


def main() -> None:
    """Print median and minimum of every way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2", help="a model as --nri-model takes it; 'none' to leave it out")
    parser.add_argument("--tokens", type=int, default=32, help="new tokens a request")
    options = parser.parse_args()
    print(f"cost of one stamp                              {'median':>9} {'min':>9}   (goal: 300 ns)")
    ours()
    others()
    if options.model != "none":
        try:
            share(options.model, options.tokens)
        except NriperfError as error:
            print(f"{options.model}: {error}")


if __name__ == "__main__":
    main()
