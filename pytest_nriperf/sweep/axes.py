"""The axes of a sweep and its cells: parsed, ordered, named. Standard library only, since collection loads it."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_nriperf.errors import SpecError, UsageError
from pytest_nriperf.units import format_seconds

Value = str | int | float | bool

BALLOON_AXES = ("replicas", "cpus", "hyperthreads", "numa", "memory", "placement", "snc")
LLM_AXES = ("model", "dtype", "weights")
STRATEGIES = ("full", "front")
OPTION_NAMES = ("strategy", "seed", "repeats", "share", "gate")
LARGEST_AXIS = 10_000


@dataclass(frozen=True)
class Cell:
    """One combination: axis and value in the order of the mark, and the words that stand for them in the id."""

    values: tuple[tuple[str, Any], ...]
    words: tuple[str, ...]

    @property
    def id(self) -> str:
        """The item's id: `replicas=4-cpus=8-hyperthreads=hidden`."""
        return "-".join(f"{axis}={word}" for (axis, _), word in zip(self.values, self.words, strict=True))

    def part(self, axes: Iterable[str]) -> dict[str, Any]:
        """The values of these axes, those that the cell has."""
        wanted = set(axes)
        return {axis: value for axis, value in self.values if axis in wanted}

    @property
    def balloon(self) -> dict[str, Any]:
        """What the cell says about the balloon."""
        return self.part(BALLOON_AXES)

    @property
    def llm(self) -> dict[str, Any]:
        """What the cell says about the model."""
        return self.part(LLM_AXES)

    @property
    def own(self) -> dict[str, Any]:
        """The user's own axes: arguments of the test function."""
        return {axis: value for axis, value in self.values if axis not in BALLOON_AXES + LLM_AXES}

    @property
    def labels(self) -> dict[str, str]:
        """Axis to word, for recordings and tables."""
        return {axis: word for (axis, _), word in zip(self.values, self.words, strict=True)}


@dataclass(frozen=True)
class SweepRequest:
    """What `@pytest.mark.sweep` asks for. `share` is the part of the cells that strategy `front` may measure; with
    `gate` the test's gate judges the cells too."""

    axes: Mapping[str, tuple[Any, ...]]
    strategy: str = "full"
    seed: int = 0
    repeats: int = 1
    share: float = 0.15
    gate: bool = False

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise SpecError(f"sweep: strategy = {self.strategy!r} is unknown", f"write {' or '.join(STRATEGIES)}")
        for name, kind in (("seed", int), ("repeats", int), ("gate", bool)):
            if type(getattr(self, name)) is not kind:
                raise SpecError(f"sweep: {name} = {getattr(self, name)!r} is no {kind.__name__}", "mend it")
        if self.repeats < 1 or not 0 < self.share <= 1:
            raise SpecError("sweep: repeats must be at least 1 and share in 0..1", "write repeats=1, share=0.15")
        if not self.axes:
            raise SpecError("sweep: no axis", "write for example sweep(replicas=[1, 2, 4], cpus=[4, 8])")


def sweep_request(named: Mapping[str, Any], overrides: Mapping[str, tuple[Any, ...]] | None = None) -> SweepRequest:
    """From the mark's arguments: lists, or text as `--nri-set` reads it. `overrides` (from there) replace the values of
    axes that the mark has.

    >>> sweep_request({"replicas": [1, 2], "seed": 3}, {"replicas": (4,)}).axes
    {'replicas': (4,)}
    >>> sweep_request({"cpus": "4..12:4,64"}).axes
    {'cpus': (4, 8, 12, 64)}
    """
    options = {name: named[name] for name in OPTION_NAMES if name in named}
    axes: dict[str, tuple[Any, ...]] = {}
    for axis, values in named.items():
        if axis in options:
            continue
        if isinstance(values, str):
            try:
                values = parse_values(axis, values)
            except UsageError as error:
                raise SpecError(f"sweep: {error.fact}", error.next_step) from error
        if not isinstance(values, Iterable):
            raise SpecError(f"sweep: {axis} = {values!r} is no list of values", f"write {axis}=[{values!r}]")
        axes[axis] = tuple(values)
        if not axes[axis]:
            raise SpecError(f"sweep: {axis} has no value", "give at least one, or drop the axis")
    for axis, values in (overrides or {}).items():
        if axis in axes:
            axes[axis] = values
    return SweepRequest(axes, **options)


def parse_overrides(texts: Iterable[str]) -> dict[str, tuple[Value, ...]]:
    """Axes of `AXIS=V1,V2` options.

    >>> parse_overrides(["cpus=4..12:4,64", "replicas=1..16*2", "hyperthreads=hidden"])
    {'cpus': (4, 8, 12, 64), 'replicas': (1, 2, 4, 8, 16), 'hyperthreads': ('hidden',)}
    """
    axes: dict[str, tuple[Value, ...]] = {}
    for text in texts:
        axis, equals, values = text.partition("=")
        if not equals or not axis.strip().isidentifier() or not values.strip():
            raise UsageError(f"--nri-set {text!r} is no axis with values", "write for example --nri-set cpus=4..64:4")
        axes[axis.strip()] = parse_values(axis.strip(), values)
    return axes


def parse_values(axis: str, text: str) -> tuple[Value, ...]:
    """Values of an axis: numbers, words, ranges `4..64:4` and powers `1..16*2`, each once, in the order given.

    >>> parse_values("replicas", "1,2..18:2")
    (1, 2, 4, 6, 8, 10, 12, 14, 16, 18)
    >>> parse_values("cpus", "numa,25%,3..5")
    ('numa', '25%', 3, 4, 5)
    """
    values: list[Value] = []
    for piece in (part.strip() for part in text.split(",")):
        match = re.fullmatch(r"(\d+)\.\.(\d+)(?:([:*])(\d+))?", piece)
        if match:
            values.extend(_range(axis, piece, int(match[1]), int(match[2]), match[3] or ":", int(match[4] or 1)))
        elif not piece or ".." in piece:
            raise UsageError(f"{axis}: {piece!r} is no value or range", "write 8, 4..64:4 (steps) or 1..16*2 (powers)")
        else:
            values.append(_scalar(piece))
    return tuple(dict.fromkeys(values))


def _range(axis: str, piece: str, first: int, last: int, kind: str, step: int) -> list[Value]:
    if last < first:
        raise UsageError(f"{axis}: {piece!r} runs backwards", f"write {last}..{first}")
    if step < (2 if kind == "*" else 1) or (kind == "*" and first == 0):
        raise UsageError(f"{axis}: {piece!r} never reaches its end", "use a step of 1, or a factor of 2, or more")
    if kind == ":":
        values: list[Value] = list(range(first, last + 1, step)[:LARGEST_AXIS])
        return values
    values = [first * step**power for power in range(last.bit_length() + 1)]
    return [value for value in values if isinstance(value, int) and value <= last]


def _scalar(piece: str) -> Value:
    if re.fullmatch(r"[+-]?\d+", piece):
        return int(piece)
    if re.fullmatch(r"[+-]?(\d+\.\d*|\.\d+)", piece):
        return float(piece)
    return {"true": True, "false": False}.get(piece.lower(), piece)


def make_cells(axes: Mapping[str, Sequence[Any]]) -> list[Cell]:
    """All combinations, the last axis running fastest.

    >>> [cell.id for cell in make_cells({"replicas": [1, 2], "prompt": ["Why?"]})]
    ['replicas=1-prompt=0', 'replicas=2-prompt=0']
    """
    worded = [
        [(axis, value, _word(value, index)) for index, value in enumerate(values)] for axis, values in axes.items()
    ]
    return [
        Cell(tuple((axis, value) for axis, value, _ in chosen), tuple(word for *_, word in chosen))
        for chosen in itertools.product(*worded)
    ]


def _word(value: Any, index: int) -> str:
    """What stands for a value in an id: itself when it is short and plain, else its place on the axis."""
    text = str(value)
    plain = isinstance(value, str | int | float | bool) and re.fullmatch(r"[\w.%:/+]{1,40}", text, re.ASCII)
    return text if plain else str(index)


@dataclass(frozen=True)
class LeftOut:
    """Cells that are not measured, by one reason: how many, and the first of them with the fact."""

    reason: str
    count: int
    example: str = ""

    def __str__(self) -> str:
        cells = "1 cell" if self.count == 1 else f"{self.count} cells"
        return f"{cells} left out: {self.reason}" + (f" (for example {self.example})" if self.example else "")


@dataclass(frozen=True)
class Plan:
    """The cells that exist on the node, in the order in which they are measured, and those left out."""

    cells: tuple[Cell, ...]
    left_out: tuple[LeftOut, ...] = ()
    repeats: int = 1
    seconds_per_cell: float | None = None
    axes: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    @property
    def runs(self) -> int:
        """Measurements of the whole plan."""
        return len(self.cells) * self.repeats

    def cost(self) -> str:
        """The plan in a sentence, for `--nri-dry-run` and the header of the session."""
        words = [f"{len(self.cells)} cells"]
        if self.repeats > 1:
            words.append(f"x {self.repeats} repeats = {self.runs} measurements")
        if self.seconds_per_cell is not None:
            words.append(f", about {format_seconds(self.runs * self.seconds_per_cell)}")
        return " ".join(words).replace(" ,", ",")


def existing(
    cells: Sequence[Cell], impossible: Callable[[Cell], tuple[str, str] | None]
) -> tuple[list[Cell], list[LeftOut]]:
    """Split into the cells that can be measured and, counted by reason, those that cannot.

    `impossible(cell)` gives (reason, fact), or None for a cell that exists.
    """
    kept: list[Cell] = []
    reasons: dict[str, list[str]] = {}
    for cell in cells:
        found = impossible(cell)
        if found is None:
            kept.append(cell)
        else:
            reasons.setdefault(found[0], []).append(f"{cell.id}: {found[1]}" if found[1] else cell.id)
    return kept, [LeftOut(reason, len(facts), facts[0]) for reason, facts in reasons.items()]


def order(cells: Sequence[Cell], seed: int, repeats: int = 1) -> list[Cell]:
    """Random blocked order: every block holds every cell once, in an order of its own, so that whatever drifts
    during the night falls on all cells alike. Cells of one balloon stay together: the model stays loaded.

    >>> cells = make_cells({"cpus": [1, 2], "prompt": ["a", "b"]})
    >>> [cell.id for cell in order(cells, seed=1)]
    ['cpus=1-prompt=b', 'cpus=1-prompt=a', 'cpus=2-prompt=b', 'cpus=2-prompt=a']
    """
    chance = random.Random(seed)  # noqa: S311 - an order, not a secret
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(repr((cell.balloon, cell.llm)), []).append(cell)
    ordered: list[Cell] = []
    for _ in range(repeats):
        for key in chance.sample(list(groups), len(groups)):
            ordered.extend(chance.sample(groups[key], len(groups[key])))
    return ordered


def expected_seconds(durations: Sequence[float], remaining: int) -> float | None:
    """Seconds that the remaining cells will take, by the mean of those done; None before the first.

    The mean, not the median: a long cell costs its length however rare it is.

    >>> expected_seconds([2.0, 4.0], 10), expected_seconds([], 10)
    (30.0, None)
    """
    return sum(durations) / len(durations) * remaining if durations else None


def fits_budget(elapsed_s: float, durations: Sequence[float], budget_s: float | None) -> bool:
    """Whether one more cell of average length ends within the budget; the first is always measured.

    >>> fits_budget(50.0, [20.0, 30.0], 70.0), fits_budget(50.0, [20.0, 30.0], 80.0)
    (False, True)
    """
    return budget_s is None or not durations or elapsed_s + sum(durations) / len(durations) <= budget_s
