"""The dots as a still picture: every dot drawn, as an image inside an SVG with axes. Shows at once and prints."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pytest_nriperf.report.contents import Floats
from pytest_nriperf.report.tables import escaped
from pytest_nriperf.units import scale_unit

WIDTH, HEIGHT = 1100, 400
LEFT, RIGHT, TOP, BOTTOM = 70, 15, 10, 45


@dataclass(frozen=True)
class Frame:
    """What the picture spans: seconds across, gaps in seconds up (log)."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    @classmethod
    def around(cls, time_s: Floats, gap_s: Floats) -> Frame:
        """A little more than all dots; gaps of nothing (several events in one read) stand at the lower edge."""
        positive = gap_s[gap_s > 0]
        if not len(positive):
            return cls(0.0, 1.0, 1e-3, 1.0)
        x_low, x_high = float(time_s.min()), float(time_s.max())
        span = max(x_high - x_low, 1e-6)
        y_low, y_high = float(positive.min()), float(positive.max())
        if y_high < 2 * y_low:
            y_low, y_high = y_low / 1.5, y_high * 1.5
        margin = (y_high / y_low) ** 0.04
        return cls(x_low - 0.01 * span, x_high + 0.01 * span, y_low / margin, y_high * margin)


def still_picture(time_s: Floats, gap_s: Floats, series: NDArray[np.integer], colours: Sequence[str]) -> str:
    """An SVG of all dots. `series` numbers the colour of each dot; dots are drawn in random order."""
    frame = Frame.around(time_s, gap_s)
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    image = png(_raster(time_s, gap_s, series, colours, frame, 2 * width, 2 * height))
    data = base64.b64encode(image).decode()
    return (
        f'<svg class="still" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escaped(_words(gap_s))}" '
        f'xmlns="http://www.w3.org/2000/svg">'
        f'<rect x="{LEFT}" y="{TOP}" width="{width}" height="{height}" class="frame"/>{_axes(frame)}'
        f'<image x="{LEFT}" y="{TOP}" width="{width}" height="{height}" href="data:image/png;base64,{data}"/></svg>'
    )


def _words(gap_s: Floats) -> str:
    if not len(gap_s):
        return "no token gaps"
    scale, unit = scale_unit(float(np.median(gap_s)), "s")
    low, middle, high = (float(np.quantile(gap_s, share)) / scale for share in (0.01, 0.5, 0.99))
    return f"{len(gap_s)} token gaps: median {middle:.3g} {unit}, 1 % below {low:.3g}, 1 % above {high:.3g} {unit}"


def _raster(
    time_s: Floats,
    gap_s: Floats,
    series: NDArray[np.integer],
    colours: Sequence[str],
    frame: Frame,
    width: int,
    height: int,
) -> NDArray[np.uint8]:
    """RGBA pixels; a dot is 3 x 3 pixels when there are few, one when there are many."""
    pixels = np.zeros((height, width, 4), np.uint8)
    if not len(gap_s):
        return pixels
    order = np.random.default_rng(0).permutation(len(gap_s))
    tall = np.log(np.maximum(gap_s[order], frame.y_low))
    low, high = np.log(frame.y_low), np.log(frame.y_high)
    x = ((time_s[order] - frame.x_low) / (frame.x_high - frame.x_low) * (width - 1)).astype(np.int64)
    y = ((high - tall) / (high - low) * (height - 1)).astype(np.int64)
    palette = np.array([[*bytes.fromhex(colour.lstrip("#")), 255] for colour in colours], np.uint8)
    ink = palette[series[order] % len(palette)]
    reach = 2 if len(gap_s) < 20_000 else 1 if len(gap_s) < 200_000 else 0
    for right in range(-reach, reach + 1):
        for down in range(-reach, reach + 1):
            if abs(right) + abs(down) < 2 * max(1, reach):
                pixels[np.clip(y + down, 0, height - 1), np.clip(x + right, 0, width - 1)] = ink
    return pixels


def png(pixels: NDArray[np.uint8]) -> bytes:
    """An RGBA image as PNG (ISO/IEC 15948): no filter, one compressed block."""
    height, width, _ = pixels.shape
    lines = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, width * 4)], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 6)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )


def _axes(frame: Frame) -> str:
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    parts = []
    for value in _round_steps(frame.x_low, frame.x_high):
        x = LEFT + (value - frame.x_low) / (frame.x_high - frame.x_low) * width
        parts.append(f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{TOP + height}" class="grid"/>')
        parts.append(f'<text x="{x:.1f}" y="{TOP + height + 18}" text-anchor="middle">{value:g}</text>')
    scale, unit = scale_unit(float(np.sqrt(frame.y_low * frame.y_high)), "s")
    low, high = np.log(frame.y_low), np.log(frame.y_high)
    for value in _log_steps(frame.y_low / scale, frame.y_high / scale):
        y = TOP + (high - np.log(value * scale)) / (high - low) * height
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{LEFT + width}" y2="{y:.1f}" class="grid"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    parts.append(f'<text x="{LEFT + width / 2}" y="{HEIGHT - 8}" text-anchor="middle">seconds</text>')
    middle = TOP + height / 2
    parts.append(
        f'<text x="16" y="{middle}" text-anchor="middle" transform="rotate(-90 16 {middle})">'
        f"gap between token events, {unit}</text>"
    )
    return "".join(parts)


def _round_steps(low: float, high: float, wanted: int = 8) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten.

    >>> _round_steps(0.0, 10.0)
    [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    """
    rough = (high - low) / wanted
    power = 10.0 ** np.floor(np.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first = int(np.ceil(low / step))
    return [float(f"{index * step:.12g}") for index in range(first, int(np.floor(high / step)) + 1)]


def _log_steps(low: float, high: float) -> list[float]:
    """1, 2, 5 times powers of ten; only powers when there are many.

    >>> _log_steps(3.0, 60.0)
    [5.0, 10.0, 20.0, 50.0]
    """
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    steps = [float(f"{factor * 10.0**power:.12g}") for power in powers for factor in (1, 2, 5)]
    inside = [step for step in steps if low <= step <= high]
    return inside if len(inside) <= 9 else [step for step in inside if f"{step:e}".startswith("1.")]
