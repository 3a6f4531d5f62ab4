"""Numbers and sets as people read and write them. The only place that formats a value.

Inside the program times are integer nanoseconds (`_ns`) while recording and seconds after `metrics`; sizes
are bytes, rates per second, shares fractions of one.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable

from pytest_nriperf.errors import UsageError

NANOSECONDS = 1_000_000_000

_TIME = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_SIZE = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4}
_SIZE |= {"ki": 1024, "mi": 1024**2, "gi": 1024**3, "ti": 1024**4}


def parse_cpus(text: str) -> frozenset[int]:
    """CPU numbers of a kernel list such as ``0-3,8``; blanks around are ignored, empty means none.

    >>> sorted(parse_cpus("0-2,8"))
    [0, 1, 2, 8]
    >>> parse_cpus("\\n")
    frozenset()
    """
    numbers: set[int] = set()
    for part in filter(None, (piece.strip() for piece in text.strip().split(","))):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if match is None:
            raise UsageError(f"CPU list {text.strip()!r}: {part!r} is no number or range", "write for example 0-3,8")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise UsageError(f"CPU list {text.strip()!r}: {part!r} runs backwards", f"write {last}-{first}")
        numbers.update(range(first, last + 1))
    return frozenset(numbers)


def format_cpus(cpus: Iterable[int]) -> str:
    """The kernel's list form, sorted, ranges joined.

    >>> format_cpus({8, 0, 2, 1})
    '0-2,8'
    """
    ranges: list[list[int]] = []
    for cpu in sorted(set(cpus)):
        if ranges and ranges[-1][1] == cpu - 1:
            ranges[-1][1] = cpu
        else:
            ranges.append([cpu, cpu])
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in ranges)


def parse_seconds(text: str) -> float:
    """Seconds of a duration with a unit; a bare number is seconds.

    >>> parse_seconds("5ms"), parse_seconds("2h"), parse_seconds("0.5")
    (0.005, 7200.0, 0.5)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-zµ]*)\s*", text)
    if match is None or (match[2] and match[2] not in _TIME):
        raise UsageError(f"{text!r} is no duration", "write for example 20ms, 1.5s or 2h")
    return float(match[1]) * _TIME[match[2] or "s"]


def parse_bytes(text: str) -> int:
    """Bytes of a size with a decimal (k, M, G, T) or binary (Ki, Mi, Gi, Ti) unit, `B` optional.

    >>> parse_bytes("16Gi"), parse_bytes("1.5 GB")
    (17179869184, 1500000000)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([kmgt]?i?)b?\s*", text.lower())
    if match is None or match[2] not in _SIZE:
        raise UsageError(f"{text!r} is no size", "write for example 16Gi or 500MB")
    return round(float(match[1]) * _SIZE[match[2]])


def format_value(value: float | None, unit: str, *, digits: int = 3) -> str:
    """A value with its unit, scaled for reading, `digits` significant digits; `-` for none.

    >>> format_value(0.05512, "s"), format_value(18.14, "token/s"), format_value(2.28e10, "B/s")
    ('55.1 ms', '18.1 token/s', '22.8 GB/s')
    >>> format_value(None, "s"), format_value(0.0, "s")
    ('-', '0 s')
    """
    if value is None or math.isnan(value):
        return "-"
    if math.isinf(value):
        return f"{'-' if value < 0 else ''}inf {unit}".rstrip()
    scale, name = scale_unit(abs(value), unit)
    return f"{_significant(value / scale, digits)} {name}".rstrip()


def format_percent(share: float | None, *, signed: bool = False, digits: int = 1) -> str:
    """A share as percent.

    >>> format_percent(0.114, signed=True), format_percent(None)
    ('+11.4 %', '-')
    """
    if share is None or math.isnan(share):
        return "-"
    return f"{share * 100:{'+' if signed else ''}.{digits}f} %"


def format_seconds(seconds: float) -> str:
    """A length of time for people waiting.

    >>> format_seconds(4.2), format_seconds(75), format_seconds(7260)
    ('4.2s', '1m 15s', '2h 01m')
    """
    if seconds < 10:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest}s"
    if minutes < 60:
        return f"{minutes}m {rest:02d}s"
    return f"{minutes // 60}h {minutes % 60:02d}m"


def format_bytes(count: float) -> str:
    """Bytes in binary units.

    >>> format_bytes(536870912), format_bytes(12)
    ('512 MiB', '12 B')
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} TiB"


def format_text(text: object) -> str:
    """Text that cannot harm a terminal: what is not printable (escapes, line ends, direction marks) as its escape.

    >>> format_text("test_a[\x1b[31m]"), format_text("größe [µs]")
    ('test_a[\\\\x1b[31m]', 'größe [µs]')
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def format_lines(text: object) -> str:
    """Text of several lines, each as `format_text` has it.

    >>> format_lines("it broke\\n\\x1b[2J")
    'it broke\\n\\\\x1b[2J'
    """
    return "\n".join(map(format_text, str(text).split("\n")))


def short_path(path: str | os.PathLike[str]) -> str:
    """The path from here, where that is shorter.

    >>> short_path(os.path.abspath("runs/night 1")), short_path("/proc")
    ('runs/night 1', '/proc')
    """
    text = os.fspath(path)
    return min(text, os.path.relpath(text), key=len)


def scale_unit(size: float, unit: str) -> tuple[float, str]:
    """Divisor and name of the prefixed unit in which a value of this size reads well.

    >>> scale_unit(0.05, "s"), scale_unit(3e9, "B/s"), scale_unit(18.0, "token/s")
    ((0.001, 'ms'), (1000000000.0, 'GB/s'), (1.0, 'token/s'))
    >>> scale_unit(0.31, "share"), scale_unit(3e8, "B/token")
    ((0.01, '%'), (1000000.0, 'MB/token'))
    """
    if unit == "s":
        for scale, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
            if size >= scale or size == 0:
                return scale, name
        return 1e-9, "ns"
    if unit == "share":
        return 0.01, "%"
    if unit in ("B", "B/s", "B/token", "Hz", "W", "J", "J/token"):
        for scale, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
            if size >= scale:
                return scale, prefix + unit
    return 1.0, unit


def _significant(value: float, digits: int) -> str:
    if value == 0:
        return "0"
    before = math.floor(math.log10(abs(value))) + 1
    return f"{value:.{max(0, digits - before)}f}"
