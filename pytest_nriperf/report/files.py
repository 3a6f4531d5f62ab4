"""Every table of the page as CSV and Markdown, every plot and map as SVG or PNG, in a folder."""

from __future__ import annotations

import re
from pathlib import Path

from pytest_nriperf.errors import UsageError
from pytest_nriperf.report import figures
from pytest_nriperf.report.contents import Contents
from pytest_nriperf.report.html import Page, asset
from pytest_nriperf.report.placement import placement_drawing, placement_words
from pytest_nriperf.report.sections import placements

KINDS = ("svg", "png", "none")


def write_files(contents: Contents, folder: Path, images: str = "svg") -> list[str]:
    """Write them; `images` is one of `KINDS`. Returns the names of the files.

    Raises UsageError for a folder that cannot be written, EnvironmentFault when there is nothing to draw with.
    """
    page = Page(contents)
    page.body()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        written = _write_tables(page, folder)
        if images != "none":
            written += _write_pictures(page, folder, images)
    except OSError as error:
        raise UsageError(f"{folder}: {error.strerror}", "name a folder that can be written") from error
    return [str(path) for path in written]


def _write_tables(page: Page, folder: Path) -> list[Path]:
    written = []
    for name, table in page.tables.items():
        for ending, text in (("csv", table.csv()), ("md", table.markdown())):
            path = folder / f"{name}.{ending}"
            path.write_text(text, encoding="utf-8")
            written.append(path)
    return written


def _write_pictures(page: Page, folder: Path, images: str) -> list[Path]:
    written = []
    for name, figure in (page.dots.figures() | page.figures).items():
        path = folder / f"{name}.{images}"
        figures.write_image(figure, path)
        written.append(path)
    for name, drawing in maps(page).items():
        path = folder / f"{name}.{images}"
        if images == "svg":
            path.write_text(drawing, encoding="utf-8")
        else:
            figures.write_image(figures.picture(drawing), path)
        written.append(path)
    return written


def maps(page: Page) -> dict[str, str]:
    """The maps of placements that the page speaks of, as SVG that stands alone."""
    found = {}
    for place, (part, names) in enumerate(placements(page.contents, page.highlights())):
        if part.topology is None or part.placement is None:
            continue
        words = [
            ", ".join(dict.fromkeys(names)),
            placement_words(part.placement),
            "SIMULATED" if part.simulated else "",
        ]
        drawing = placement_drawing(part.topology, part.placement, " · ".join(filter(None, words)))
        found[f"placement-{place}"] = standing_alone(drawing, asset("page.css"))
    return found


def standing_alone(drawing: str, style: str) -> str:
    """A drawing of the page with the light colours of its style sheet, for programs that know no variables.

    >>> standing_alone("<svg><g/></svg>", ":root { --text: #000; } .map text { fill: var(--text); } p { margin: 0; }")
    '<svg><style>text { fill: #000; }</style><g/></svg>'
    """
    colours = dict(re.findall(r"--([a-z0-9]+): ([^;]+);", style.partition("}")[0]))
    rules = re.findall(r"(?:\.map |(?=\.fill))([^{}]+{[^}]*})", style.partition("@media print")[0])
    css = re.sub(r"var\(--([a-z0-9]+)\)", lambda found: colours[found[1]], " ".join(rules))
    return re.sub(r"(<svg[^>]*>)", lambda found: f"{found[1]}<style>{css}</style>", drawing, count=1)
