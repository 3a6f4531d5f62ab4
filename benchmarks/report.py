"""The report with a million dots: size of the page, time to make it, and what a reader in a browser waits for.

Goals: at most 20 MB; verdicts and the still picture within 1 s, dots alive within 4 s, a zoom step within 0.5 s.
Without Chromium and playwright only the page is made.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from pytest_nriperf.baselines import Verdict
from pytest_nriperf.report.contents import Contents, Gaps
from pytest_nriperf.report.html import write_report

REPLICAS, RUNS, REQUESTS = 8, 5, 100
ZOOM = """async () => {
  const plot = document.getElementById('dots-plot'), before = Number(plot.dataset.drawings), start = performance.now();
  document.querySelector('[data-action="zoom-in"]').click();
  await new Promise((done) => {
    const drawn = () => Number(plot.dataset.drawings) > before;
    const look = () => (drawn() ? requestAnimationFrame(() => done()) : setTimeout(look, 2));
    look();
  });
  return [performance.now() - start, document.getElementById('drawn').textContent];
}"""


def million(dots: int) -> Contents:
    """Made-up gaps of eight replicas of unlike speed, two in a thousand of them stalls."""
    random = np.random.default_rng(1)
    requests = REPLICAS * RUNS * REQUESTS
    each = dots // requests
    replica = np.tile(np.repeat(np.arange(REPLICAS), REQUESTS), RUNS)
    run = np.repeat(np.arange(1, RUNS + 1), REPLICAS * REQUESTS)
    number = np.tile(np.arange(REQUESTS), REPLICAS * RUNS)
    gap = 0.05 * (1 + 0.05 * np.repeat(replica, each)) * np.exp(random.normal(0, 0.03, requests * each))
    gap[random.random(len(gap)) < 0.002] *= 4
    length = each * 0.07
    origin = (run - 1.0) * (REQUESTS * length + 20.0)
    gaps = Gaps(
        part=np.zeros(requests, np.int32),
        run=run.astype(np.int32),
        replica=replica.astype(np.int32),
        request=number.astype(np.int32),
        first_s=origin + number * length,
        origin_s=origin.astype(np.float64),
        count=np.full(requests, each, np.int32),
        gap_s=gap.astype(np.float32),
        total=dots,
    )
    verdict = Verdict("itl", "same", "made up", unit="s", now=0.05, baseline=0.05, effect=0.0, runs=5, simulated=True)
    return Contents("a million dots", (verdict,), (), gaps)


def browse(path: Path, chromium: str) -> tuple[float, float, list[tuple[float, str]]]:
    """Seconds until the first paint, until the dots are alive, and of zoom steps with what they show."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(path.as_uri(), wait_until="commit")
        page.wait_for_function("document.documentElement.dataset.live", timeout=120_000)
        paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
        alive = float(page.evaluate("document.documentElement.dataset.live"))
        page.wait_for_timeout(500)
        steps = [page.evaluate(ZOOM) for _ in range(4)]
        browser.close()
    return paint / 1000, alive / 1000, [(milliseconds / 1000, words) for milliseconds, words in steps]


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dots", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        contents = million(options.dots)
        start = time.perf_counter()
        size = write_report(contents, path)
        print(f"{options.dots:,} dots: {size / 1e6:.1f} MB, made in {time.perf_counter() - start:.1f} s")
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        if chromium is None:
            print("no Chromium here: nothing was opened")
            return
        seen = [browse(path, chromium) for _ in range(options.repeats)]
    paint, alive = (statistics.median(values) for values in list(zip(*seen, strict=True))[:2])
    steps = [seconds for _, _, zooms in seen for seconds, _ in zooms]
    print(f"verdicts and the still picture after {paint:.2f} s, dots alive after {alive:.2f} s")
    print(f"a zoom step: median {statistics.median(steps):.2f} s, worst {max(steps):.2f} s; last: {seen[0][2][-1][1]}")


if __name__ == "__main__":
    main()
