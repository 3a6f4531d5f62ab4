"""`nriperf report`: a page, files of tables, facts as JSON, and errors that name the folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pytest_nriperf.cli import main
from pytest_nriperf.report.contents import gather
from pytest_nriperf.report.figures import picture, write_image
from pytest_nriperf.report.files import maps
from pytest_nriperf.report.html import Page
from tests.report.recordings import cells_of, record_session
from tests.report.test_html_browser import coloured, pixels
from tests.tools import needs


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out")
    record_session(folder, cells_of(replicas=[1, 4], cpus=[8, 16, 32], hyperthreads=["hidden"]), runs=2, tokens=8)
    return folder


def test_the_page_is_written_and_the_sweep_told(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(out), "-o", str(tmp_path / "deep" / "page.html"), "--title", "a night"]) == 0
    said = capsys.readouterr().out
    assert "a night  SIMULATED" in said
    assert "SIMULATED: 4 replicas x 32 CPUs hidden: " in said
    page = (tmp_path / "deep" / "page.html").read_text()
    assert "<title>a night</title>" in page
    assert 'class="simulated"' in page


def test_tables_are_written_as_csv_and_markdown(out: Path, tmp_path: Path) -> None:
    command = [
        "report",
        str(out),
        "-o",
        str(tmp_path / "p.html"),
        "--files",
        str(tmp_path / "files"),
        "--images",
        "none",
    ]
    assert main(command) == 0
    names = {file.name for file in (tmp_path / "files").iterdir()}
    assert {"cells.csv", "cells.md", "pareto.csv", "wisdom-throughput-0.md", "measurements.csv"} <= names
    assert (tmp_path / "files" / "cells.csv").read_text().splitlines()[0].endswith(",simulated")
    assert "SIMULATED" in (tmp_path / "files" / "wisdom-throughput-0.md").read_text()


def test_facts_are_given_as_json(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(out), "-o", str(tmp_path / "p.html"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["measurements"] == 6
    assert facts["simulated"] is True
    assert facts["takeaways"][0]["low"] < facts["takeaways"][0]["ratio"]


def test_plots_are_written_as_images(out: Path, tmp_path: Path) -> None:
    needs("chromium")
    one = next(path for path in out.iterdir() if path.is_dir())
    command = [
        "report",
        str(one),
        "-o",
        str(tmp_path / "p.html"),
        "--files",
        str(tmp_path / "files"),
        "--images",
        "svg",
    ]
    assert main(command) == 0
    drawn = {file.name: file.read_bytes() for file in (tmp_path / "files").glob("*.svg")}
    assert {"dots.svg", "counter-0.svg", "front.svg", "distribution.svg", "placement-0.svg"} <= drawn.keys()
    assert [name for name, picture in drawn.items() if b"SIMULATED" not in picture] == []
    assert b"var(--" not in drawn["placement-0.svg"]


def test_maps_and_dots_are_written_as_png_too(out: Path, tmp_path: Path) -> None:
    needs("chromium")
    page = Page(gather([out]))
    for name, figure in {**page.dots.figures(), "map": picture(maps(page)["placement-0"])}.items():
        write_image(figure, tmp_path / f"{name}.png")
        assert coloured(pixels((tmp_path / f"{name}.png").read_bytes())) > 100


def test_a_folder_without_recordings_is_an_error_of_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(tmp_path)]) == 3
    assert capsys.readouterr().err.startswith(f"nriperf report: {tmp_path} holds no recording; ")


def test_damage_is_named_and_no_page_is_left(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = shutil.copytree(out, tmp_path / "out")
    victim = min(copy.glob("*/*/tokens-001.parquet"))
    victim.write_bytes(victim.read_bytes()[:100])
    assert main(["report", str(copy), "-o", str(tmp_path / "p.html")]) == 3
    assert victim.name in capsys.readouterr().err
    assert not (tmp_path / "p.html").exists()


def test_a_measurement_without_a_finished_run_keeps_no_page_from_being_written(out: Path, tmp_path: Path) -> None:
    session = Path(shutil.copytree(next(out.glob("*/")), tmp_path / "night"))
    (recording, *_) = sorted(session.glob("*/recording.json"))
    document = json.loads(recording.read_text())
    for key in ("fingerprint", "versions"):
        document.pop(key, None)
    (session / "begun").mkdir()
    gate = {"metrics": ["itl"], "alpha": 0.05, "runs": [5, 5]}
    (session / "begun/recording.json").write_text(json.dumps({**document, "gate": gate, "runs": {}}))
    assert main(["report", str(session), "-o", str(tmp_path / "p.html")]) == 0
    assert (tmp_path / "p.html").exists()
