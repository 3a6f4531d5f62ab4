"""The page in a real browser: it comes alive, zooms, speaks, turns dark, prints, and runs nothing of others."""

from __future__ import annotations

import shutil
import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pytest_nriperf.baselines import Verdict
from pytest_nriperf.report.contents import Contents, Gaps, Strip, gather
from pytest_nriperf.report.html import write_report
from tests.report.recordings import cells_of, record_session
from tests.tools import needs

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ATTACK = (
    "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1>"
    '<a href="javascript:window.hacked=1">x</a>" onmouseover="window.hacked=1'
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        needs("chromium")
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> Contents:
    out = tmp_path_factory.mktemp("out")
    cells = cells_of(replicas=[1, 2, 4], cpus=[4, 8, 16], hyperthreads=["paired", "hidden"])
    record_session(out, cells, runs=2, tokens=40, requests=4, left_out=["2 cells left out: too large"])
    verdict = Verdict(
        "itl",
        "worse",
        "slower",
        unit="s",
        now=0.061,
        baseline=0.055,
        effect=0.11,
        interval=(0.08, 0.15),
        mde=0.03,
        runs=5,
        baseline_runs=12,
        test="test_chat",
        simulated=True,
    )
    return gather([out], [verdict])


class Opened:
    """A page in the browser with what it said on the console."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.page = browser.new_page(viewport={"width": 1280, "height": 900}, **options)
        self.problems: list[str] = []
        self.requested: list[str] = []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", lambda said: self.problems.append(said.text) if said.type == "error" else None)
        self.page.on("request", lambda request: self.requested.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_function("document.documentElement.dataset.live", timeout=60_000)

    def ask(self, script: str) -> Any:
        return self.page.evaluate(script)

    def redrawn(self, script: str) -> None:
        """Do something and wait until the dots are drawn again."""
        before = self.ask("Number(document.getElementById('dots-plot').dataset.drawings)")
        self.ask(script)
        self.page.wait_for_function(
            f"Number(document.getElementById('dots-plot').dataset.drawings) > {before}", timeout=30_000
        )

    def drawn(self) -> tuple[int, int]:
        """How many dots are drawn, of how many in view."""
        words = self.ask("document.getElementById('drawn').textContent").replace(",", "").split()
        return int(words[0]), int(words[2])


@pytest.fixture(scope="module")
def opened(browser: Any, contents: Contents, tmp_path_factory: pytest.TempPathFactory) -> Opened:
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report(contents, path)
    return Opened(browser, path)


def pixels(png: bytes) -> np.ndarray[Any, np.dtype[np.int16]]:
    """RGB of a screenshot (PNG without interlace), shape (height, width, 3)."""
    width, height, _, kind = struct.unpack(">IIBB", png[16:26])
    deep = {2: 3, 6: 4}[kind]
    body, at = b"", 8
    while at < len(png):
        size = struct.unpack(">I", png[at : at + 4])[0]
        if png[at + 4 : at + 8] == b"IDAT":
            body += png[at + 8 : at + 8 + size]
        at += 12 + size
    lines = np.frombuffer(zlib.decompress(body), np.uint8).reshape(height, 1 + width * deep)
    image = np.zeros((height + 1, width + 1, deep), np.int64)
    for row in range(height):
        image[row + 1, 1:] = _unfiltered(
            lines[row, 0], lines[row, 1:].reshape(width, deep).astype(np.int64), image[row]
        )
    return image[1:, 1:, :3].astype(np.int16)


def _unfiltered(kind: int, line: Any, above: Any) -> Any:
    if kind == 0:
        return line
    if kind == 1:
        return np.cumsum(line, axis=0) % 256
    if kind == 2:
        return (line + above[1:]) % 256
    made = np.zeros((len(line) + 1, line.shape[1]), np.int64)
    for x in range(len(line)):
        left, up, corner = made[x], above[x + 1], above[x]
        if kind == 3:
            guess = (left + up) // 2
        else:
            estimate = left + up - corner
            reach = np.abs(estimate - [left, up, corner])
            guess = np.where(
                (reach[0] <= reach[1]) & (reach[0] <= reach[2]), left, np.where(reach[1] <= reach[2], up, corner)
            )
        made[x + 1] = (line[x] + guess) % 256
    return made[1:]


def coloured(image: Any) -> int:
    """Pixels that are neither grey nor nearly so: ink of the dots."""
    return int((image.max(2) - image.min(2) > 60).sum())


def test_the_page_is_alive_without_an_error_and_without_the_network(opened: Opened) -> None:
    assert opened.problems == []
    assert [url for url in opened.requested if not url.startswith(("file:", "data:", "blob:"))] == []


def test_no_button_sends_anything_away(opened: Opened) -> None:
    opened.ask("document.getElementById('front').scrollIntoView()")
    opened.page.wait_for_selector("#front .modebar-btn", state="attached", timeout=20_000)
    titles = opened.ask("[...document.querySelectorAll('.modebar-btn')].map((each) => each.dataset.title)")
    assert "Download plot as a PNG" in titles
    assert "Save as SVG" in titles
    assert not [title for title in titles if "hare" in title or "loud" in title]
    assert opened.ask("document.getElementById('dots-plot')._context.plotlyServerURL") == ""


def test_the_verdicts_stand_first_and_the_still_picture_is_there_before_the_scripts(opened: Opened) -> None:
    first = opened.ask("document.querySelector('main section').id")
    assert first == "verdicts"
    text = opened.page.content()
    assert text.index('class="still"') < text.index("plotly.js v")


def test_the_dots_are_visible(opened: Opened) -> None:
    opened.redrawn("document.querySelector('[data-action=reset]').click()")
    assert coloured(pixels(opened.page.locator("#dots-plot").screenshot())) > 2000


def test_zooming_shows_fewer_dots_of_a_smaller_part_and_comes_back(opened: Opened) -> None:
    drawn, there = opened.drawn()
    assert drawn == there
    opened.redrawn("document.querySelector('[data-action=\"zoom-in\"]').click()")
    assert opened.drawn()[1] < there
    opened.redrawn("document.querySelector('[data-action=reset]').click()")
    assert opened.drawn()[1] == there


def test_the_keyboard_zooms_and_moves(opened: Opened) -> None:
    opened.page.focus("#dots-plot")
    before = opened.ask("document.getElementById('dots-plot')._fullLayout.xaxis.range")
    opened.page.keyboard.press("+")
    opened.page.wait_for_function(
        f"document.getElementById('dots-plot')._fullLayout.xaxis.range[1] < {before[1]}", timeout=30_000
    )
    opened.redrawn("document.querySelector('[data-action=reset]').click()")


def test_every_control_can_be_reached_by_the_keyboard(opened: Opened) -> None:
    unreachable = (
        "[...document.querySelectorAll('button, select, summary, a')].filter((each) => each.tabIndex < 0).length"
    )
    assert opened.ask(unreachable) == 0
    assert opened.ask(
        "[...document.querySelectorAll('svg[role=img]')].every((each) => each.getAttribute('aria-label'))"
    )


def test_hovering_names_the_request(opened: Opened) -> None:
    place = opened.ask(
        """(() => {
        const plot = document.getElementById('dots-plot'), full = plot._fullLayout;
        const trace = plot.data.find((each) => each.x.length);
        plot.scrollIntoView();
        const box = plot.getBoundingClientRect();
        const x = box.left + full._size.l + full.xaxis.d2p(trace.x[0]);
        return [x, box.top + full._size.t + full.yaxis.d2p(trace.y[0])]; })()"""
    )
    opened.page.mouse.move(place[0] - 3, place[1])
    opened.page.mouse.move(place[0], place[1])
    opened.page.wait_for_function("!document.getElementById('tip').hidden", timeout=10_000)
    tip = opened.ask("document.getElementById('tip').textContent")
    assert "request" in tip
    assert "replica" in tip


def test_a_series_is_hidden_and_shown_by_its_button(opened: Opened) -> None:
    there = opened.drawn()[1]
    opened.redrawn("document.querySelector('#legend button').click()")
    assert opened.drawn()[1] < there
    assert opened.ask("document.querySelector('#legend button').getAttribute('aria-pressed')") == "false"
    opened.redrawn("document.querySelector('#legend button').click()")
    assert opened.drawn()[1] == there


def test_colour_follows_the_axis_that_is_chosen(opened: Opened) -> None:
    for axis, names in (("hyperthreads", ["hidden", "paired"]), ("replicas", ["1", "2", "4"])):
        choose = "document.getElementById('by')"
        opened.redrawn(f"{choose}.value = '{axis}'; {choose}.dispatchEvent(new Event('change'))")
        shown = opened.ask("[...document.querySelectorAll('#legend button')].map((each) => each.textContent)")
        assert shown == [f"{axis}={name}" for name in names]


def test_the_other_plots_are_drawn_when_they_come_into_view(opened: Opened) -> None:
    for name in ("distribution", "scaling-throughput-cpus", "front"):
        opened.ask(f"document.getElementById('{name}').scrollIntoView()")
        opened.page.wait_for_selector(f"#{name} .main-svg", timeout=20_000)
    assert opened.problems == []


def test_tables_are_saved_as_csv(opened: Opened) -> None:
    with opened.page.expect_download() as started:
        opened.page.click('[data-table="cells"][data-kind="csv"]')
    text = Path(started.value.path()).read_text()
    header = text.splitlines()[0].split(",")
    assert header[:3] == ["replicas", "cpus", "hyperthreads"]
    assert {"node", "model", "CPUs allocated", "tpot", "throughput", "simulated"} < set(header)
    assert len(text.splitlines()) == 19


def test_printing_shows_the_still_picture_on_white(opened: Opened) -> None:
    opened.page.emulate_media(media="print")
    try:
        assert opened.page.locator("svg.still").is_visible()
        assert not opened.page.locator("#dots-plot").is_visible()
        assert opened.ask("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    finally:
        opened.page.emulate_media(media="screen")


def test_dark_follows_the_system_and_the_button_turns_it(browser: Any, contents: Contents, tmp_path: Path) -> None:
    write_report(contents, tmp_path / "report.html")
    dark = Opened(browser, tmp_path / "report.html", color_scheme="dark")
    background = "getComputedStyle(document.querySelector('section')).backgroundColor"
    assert dark.ask(background) == "rgb(24, 29, 36)"
    assert coloured(pixels(dark.page.locator("#dots-plot").screenshot())) > 2000
    dark.redrawn("document.getElementById('theme').click()")
    assert dark.ask(background) == "rgb(255, 255, 255)"
    assert dark.problems == []
    dark.page.close()


def test_a_million_dots_fit_and_the_strangest_is_drawn(browser: Any, contents: Contents, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    requests, each = 1000, 1000
    gap = (0.05 * np.exp(random.normal(0, 0.03, requests * each))).astype(np.float32)
    gap[123_456] = 5.0
    number = np.arange(requests, dtype=np.int32)
    gaps = Gaps(
        part=np.zeros(requests, np.int32),
        run=np.ones(requests, np.int32),
        replica=number % 8,
        request=number // 8,
        first_s=(number // 8 * 60).astype(np.float64),
        origin_s=np.zeros(requests),
        count=np.full(requests, each, np.int32),
        gap_s=gap,
        total=len(gap),
    )
    assert write_report(replace(contents, gaps=gaps, strips=()), tmp_path / "report.html") < 20e6
    page = Opened(browser, tmp_path / "report.html")
    drawn, there = page.drawn()
    assert there == 1_000_000
    assert 45_000 < drawn <= 50_000
    largest = "each.y.reduce((a, b) => Math.max(a, b), 0)"
    assert page.ask(
        f"Math.max(...document.getElementById('dots-plot').data.map((each) => {largest}))"
    ) == pytest.approx(5000, rel=1e-6)
    shown = [drawn / there]
    for _ in range(2):
        page.redrawn("document.querySelector('[data-action=\"zoom-in\"]').click()")
        part, there = page.drawn()
        shown.append(part / there)
    assert shown == sorted(shown)
    assert shown[-1] > 3 * shown[0]
    assert page.problems == []
    page.page.close()


def test_nothing_of_others_runs(browser: Any, contents: Contents, tmp_path: Path) -> None:
    parts = tuple(
        replace(
            part,
            name=ATTACK,
            test=ATTACK,
            warnings=(ATTACK,),
            row=replace(part.row, cell={**part.row.cell, "prompt": ATTACK}, where={**part.row.where, "node": ATTACK}),
            document={**part.document, "fingerprint": {ATTACK: {ATTACK: ATTACK}}, "time": ATTACK},
        )
        for part in contents.parts
    )
    strips = tuple(
        Strip(each.part, each.run, ATTACK, ATTACK, ATTACK, each.time_s, each.value) for each in contents.strips[:2]
    )
    verdicts = (replace(contents.verdicts[0], test=ATTACK, reason=ATTACK, metric=ATTACK, warnings=(ATTACK,)),)
    hostile = replace(
        contents,
        title=ATTACK,
        parts=parts,
        strips=strips,
        verdicts=verdicts,
        left_out=(ATTACK,),
        sources=(ATTACK,),
        definitions={ATTACK: ATTACK},
    )
    write_report(hostile, tmp_path / "hostile.html")
    page = Opened(browser, tmp_path / "hostile.html")
    for name in page.ask("[...document.querySelectorAll('.plot')].map((each) => each.id)"):
        page.ask(f"document.getElementById('{name}').scrollIntoView()")
        page.page.wait_for_selector(f"#{name} .main-svg", timeout=20_000)
    page.ask("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert page.ask("window.hacked") is None
    foreign = "[...document.querySelectorAll('main img, a[href^=javascript], [onerror], [onmouseover]')]"
    assert page.ask(f"{foreign}.map((each) => each.outerHTML)") == []
    assert page.ask("document.scripts.length") == 3
    page.page.close()


def test_a_script_that_slipped_into_the_page_would_not_run(browser: Any, contents: Contents, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(contents, path)
    path.write_text(path.read_text().replace("<main", "<script>window.hacked=1</script><main", 1))
    page = browser.new_page()
    page.goto(path.as_uri())
    assert page.evaluate("window.hacked") is None
    page.close()
