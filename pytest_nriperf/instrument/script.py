"""Run an unmodified Python program under probes in this process, and keep what they saw as a recording.

Without being asked, every `generate` call of transformers is a request and every token event is stamped: a streamer
that does nothing but stamp goes in, in front of the program's own where it has one. Further probes stamp what they are
told to.
"""

from __future__ import annotations

import inspect
import itertools
import json
import re
import runpy
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import reduce
from importlib import import_module
from pathlib import Path
from typing import Any

from pytest_nriperf.errors import UsageError
from pytest_nriperf.instrument.stamps import stamped
from pytest_nriperf.instrument.wrap import wrap, wrap_returned
from pytest_nriperf.recording import write_document, write_run
from pytest_nriperf.seams import RequestRow, TokenEvents

GENERATE = "transformers.generation.utils:GenerationMixin.generate"
EVENTS = "events.jsonl"


@dataclass(frozen=True)
class Target:
    """What a probe is put around: `path` below `module`, with `method` that of every object which `path` returns."""

    text: str
    module: str
    path: tuple[str, ...]
    method: str = ""

    @classmethod
    def parse(cls, text: str) -> Target:
        """`MODULE:NAME`, `MODULE:CLASS.METHOD` or `MODULE:FACTORY().METHOD`. Raises UsageError.

        >>> Target.parse("transformers:TextStreamer().put").method
        'put'
        """
        match = re.fullmatch(r"([\w.]+):([A-Za-z_]\w*(?:\.\w+)*)(?:\(\)\.(\w+))?", text)
        if match is None:
            raise UsageError(
                f"probe {text!r} names nothing", "write MODULE:FUNCTION, MODULE:CLASS.METHOD or MODULE:FACTORY().METHOD"
            )
        return cls(text, match[1], tuple(match[2].split(".")), match[3] or "")

    def put_around(self, decorate: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Callable[[], None]:
        """Wrap it; gives the undo. Raises UsageError when it is not there."""
        try:
            owner = reduce(getattr, self.path[:-1], import_module(self.module))
        except (ImportError, AttributeError) as error:
            raise UsageError(f"probe {self.text}: {error}", "look at its spelling and at what is installed") from error
        if self.method:
            return wrap_returned(owner, self.path[-1], self.method, decorate)
        return wrap(owner, self.path[-1], decorate)


@dataclass
class Call:
    """One `generate` call: stamps and what was put, the prompt first."""

    submit_ns: int = 0
    end_ns: int = 0
    error: str = ""
    stamps: list[int] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)


class StampingStreamer:
    """Stamps first, then gives the tokens on to the program's own streamer, if it has one."""

    def __init__(self, call: Call, own: Any) -> None:
        stamp, keep, clock = call.stamps.append, call.values.append, time.perf_counter_ns

        def put(value: Any) -> None:
            stamp(clock())
            keep(value)

        def put_both(value: Any) -> None:
            stamp(clock())
            keep(value)
            own.put(value)

        self.put = put if own is None else put_both
        self._own = own

    def end(self) -> None:
        """The program's own may have something to finish."""
        if self._own is not None:
            self._own.end()


class GenerateCalls:
    """Collects the `generate` calls of a program."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.unstamped = 0

    def decorate(self, generate: Callable[..., Any]) -> Callable[..., Any]:
        """Generate with a streamer that stamps. Beam search takes none: it is counted as not stamped."""
        signature = inspect.signature(generate)

        def generate_stamped(model: Any, *args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(model, *args, **kwargs)
            if _beams(model, bound.arguments) > 1:
                self.unstamped += 1
                return generate(model, *args, **kwargs)
            call = Call()
            bound.arguments["streamer"] = StampingStreamer(call, bound.arguments.get("streamer"))
            self.calls.append(call)
            call.submit_ns = time.perf_counter_ns()
            try:
                return generate(*bound.args, **bound.kwargs)
            except BaseException as error:
                call.error = f"{type(error).__name__}: {error}"
                raise
            finally:
                call.end_ns = time.perf_counter_ns()

        return generate_stamped


@dataclass(frozen=True)
class Seen:
    """What a program did under probes: its exit status, where the recording is, calls and events by probe."""

    status: int
    folder: Path
    requests: int
    unstamped: int
    events: dict[str, list[tuple[str, int, int]]]


def run_instrumented(program: Sequence[str], probes: Sequence[str], out: Path, *, generate: bool = True) -> Seen:
    """Run `program` (a script with its arguments, or `-m` and a module) and write what was seen below `out`.

    A program that fails is recorded as far as it came. Raises UsageError for a probe or a program that is not there.
    """
    targets = [Target.parse(text) for text in probes]
    if program[:1] != ["-m"] and not Path(program[0]).is_file():
        raise UsageError(f"{program[0]} is no file", "name a Python script, or -m and a module")
    calls, events = GenerateCalls(), {target.text: list[tuple[str, int, int]]() for target in targets}
    with ExitStack() as undo:
        if generate:
            undo.callback(Target.parse(GENERATE).put_around(calls.decorate))
        for target in targets:
            undo.callback(target.put_around(stamped(events[target.text].append)))
        status = _run(list(program))
    folder = _write(out, program, calls, events)
    return Seen(status, folder, len(calls.calls), calls.unstamped, events)


def _run(program: list[str]) -> int:
    """The program's exit status, as the interpreter would give it."""
    try:
        with _as_main(program):
            if program[0] == "-m":
                runpy.run_module(program[1], run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(program[0], run_name="__main__")
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BaseException:  # noqa: BLE001 - the program's own failure, shown as the interpreter shows it
        traceback.print_exc()
        return 1
    return 0


@contextmanager
def _as_main(program: list[str]) -> Iterator[None]:
    """The arguments and the import path that the program would have."""
    arguments, path = sys.argv, list(sys.path)
    sys.argv = program[1:] if program[0] == "-m" else program
    sys.path[0] = str(Path.cwd() if program[0] == "-m" else Path(program[0]).resolve().parent)
    try:
        yield
    finally:
        sys.argv, sys.path[:] = arguments, path


def _write(
    out: Path, program: Sequence[str], calls: GenerateCalls, events: dict[str, list[tuple[str, int, int]]]
) -> Path:
    now = datetime.now(UTC)
    name = Path(program[1] if program[0] == "-m" else program[0]).stem
    folder = next(
        path
        for number in itertools.count()
        if not (path := out / f"{name}-{now:%Y%m%dT%H%M%S}{f'-{number}' if number else ''}").exists()
    )
    folder.mkdir(parents=True)
    rows: list[RequestRow] = []
    tokens = TokenEvents()
    for call in calls.calls:
        for row, counts in _rows(call, len(rows)):
            rows.append(row)
            tokens.add(0, row.request, call.stamps, counts)
    warnings = [f"{calls.unstamped} calls with beam search were not stamped"] if calls.unstamped else []
    write_document(
        folder,
        {
            "test": f"instrument {name}",
            "node": "local",
            "time": now.isoformat(timespec="seconds"),
            "program": list(program),
            "runs": {"1": {}},
            "warnings": warnings,
        },
    )
    if rows:
        write_run(folder, 1, requests=rows, tokens=tokens)
    if events:
        with (folder / EVENTS).open("w") as file:
            for probe, seen in events.items():
                for kind, start_ns, t_ns in seen:
                    line = {"probe": probe, "kind": kind, "start_ns": start_ns, "t_ns": t_ns}
                    file.write(json.dumps(line) + "\n")
    return folder


def _rows(call: Call, first: int) -> Iterator[tuple[RequestRow, list[int]]]:
    """A request for each row of the call's batch; an event of V tokens gives each row its part."""
    prompt = call.values[0] if call.values else None
    batch = int(prompt.shape[0]) if prompt is not None and len(prompt.shape) == 2 else 1
    counts = [int(value.numel()) // batch for value in call.values]
    tokens = [0, *counts[1:]] if counts else []
    for row in range(batch):
        visible = [stamp for stamp, n in zip(call.stamps, tokens, strict=True) if n]
        yield (
            RequestRow(
                replica=0,
                request=first + row,
                phase="measure",
                prompt_id="program",
                scheduled_ns=None,
                submit_ns=call.submit_ns,
                first_ns=visible[0] if visible else None,
                last_ns=visible[-1] if visible else None,
                end_ns=call.end_ns,
                prompt_tokens=counts[0] if counts else 0,
                output_tokens=sum(tokens),
                status="failed" if call.error else "ok",
                error=call.error[:500],
            ),
            tokens,
        )


def _beams(model: Any, arguments: dict[str, Any]) -> int:
    """How many beams a call is going to use."""
    given = arguments.get("kwargs", {}).get("num_beams")
    for config in (arguments.get("generation_config"), getattr(model, "generation_config", None)):
        given = given if given is not None else getattr(config, "num_beams", None)
    return int(given or 1)
