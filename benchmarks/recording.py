"""What a recording costs: bytes per token event, time to write and to read, beside JSON lines and NumPy.

Input: 1 million events in 49-event requests (one prompt event, 48 tokens) of 4 replicas, gaps lognormal with 5 %
spread around 20 ms.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pytest_nriperf.recording import open_recording, write_document, write_run
from pytest_nriperf.seams import RequestRow, TokenEvents

EVENTS, REPLICAS, GAP_NS, SPREAD, PROMPT_NS = 49, 4, 20e6, 0.05, 300e6


def events(requests: int, seed: int = 1) -> tuple[list[RequestRow], TokenEvents]:
    """That many requests, spread over the replicas, as a run leaves them."""
    random = np.random.default_rng(seed)
    tokens, rows = TokenEvents(), []
    for replica in range(REPLICAS):
        count = requests // REPLICAS
        gaps = GAP_NS * random.lognormal(0, SPREAD, (count, EVENTS))
        gaps[:, 0] = 10_000
        gaps[:, 1] = PROMPT_NS * random.lognormal(0, SPREAD, count)
        stamps = (10**15 + np.cumsum(gaps).reshape(gaps.shape)).astype(np.int64)
        tokens.replica.frombytes(np.full(stamps.size, replica).tobytes())
        tokens.request.frombytes(np.repeat(np.arange(count), EVENTS).tobytes())
        tokens.t_ns.frombytes(stamps.tobytes())
        tokens.n.frombytes(np.tile(np.array([0, *[1] * (EVENTS - 1)]), count).tobytes())
        for request, own in enumerate(stamps[:, [0, 1, -1]].tolist()):
            submit, first, last = own
            times = (submit - 1000, first, last, last + 50_000)
            rows.append(RequestRow(replica, request, "measure", "chat", None, *times, 128, EVENTS - 1))
    return rows, tokens


def timed(action: Callable[[], object]) -> float:
    """Seconds of the fastest of three."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    total = parser.parse_args().events
    rows, tokens = events(total // EVENTS)
    print(f"{len(tokens):,} token events, {len(rows):,} requests; fastest of 3, files in the page cache")
    print(f"{'format':<28}{'bytes/event':>12}{'write s':>10}{'read s':>10}")
    with tempfile.TemporaryDirectory() as name:
        for title, size, write, read in (
            _recording(Path(name) / "recording", rows, tokens),
            _numpy(Path(name) / "tokens.npz", tokens),
            _json(Path(name) / "tokens.jsonl", tokens),
        ):
            print(f"{title:<28}{size / len(tokens):>12.2f}{write:>10.3f}{read:>10.3f}")


def _recording(folder: Path, rows: list[RequestRow], tokens: TokenEvents) -> tuple[str, int, float, float]:
    """Requests and tokens, with fsync; the size is that of the token part."""
    folder.mkdir()
    write_document(folder, {"test": "benchmark"})

    def write() -> None:
        for part in folder.glob("*.parquet"):
            part.unlink()
        write_run(folder, 1, rows, tokens)

    def read() -> None:
        recording = open_recording(folder)
        assert len(recording.tokens()) == len(tokens)
        assert len(recording.requests()) == len(rows)

    write_s = timed(write)
    size = (folder / "tokens-001.parquet").stat().st_size
    print(f"(requests part: {(folder / 'requests-001.parquet').stat().st_size / len(rows):.1f} bytes per request)")
    return "recording (with requests)", size, write_s, timed(read)


def _numpy(file: Path, tokens: TokenEvents) -> tuple[str, int, float, float]:
    columns = {name: np.asarray(getattr(tokens, name)) for name in ("replica", "request", "t_ns", "n")}

    def read() -> None:
        with np.load(file) as loaded:
            assert sum(len(loaded[name]) for name in columns) == 4 * len(tokens)

    write_s = timed(lambda: np.savez_compressed(file, **columns))  # type: ignore[arg-type]
    return "NumPy savez_compressed", file.stat().st_size, write_s, timed(read)


def _json(file: Path, tokens: TokenEvents) -> tuple[str, int, float, float]:
    def write() -> None:
        with file.open("w") as out:
            for replica, request, t_ns, n in zip(tokens.replica, tokens.request, tokens.t_ns, tokens.n, strict=True):
                out.write(json.dumps({"replica": replica, "request": request, "t_ns": t_ns, "n": n}) + "\n")

    def read() -> None:
        with file.open() as lines:
            assert sum(1 for line in lines if json.loads(line)) == len(tokens)

    write_s = timed(write)
    return "JSON lines", file.stat().st_size, write_s, timed(read)


if __name__ == "__main__":
    main()
