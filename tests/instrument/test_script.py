"""Programs run as they are, and what they did is recorded."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from pytest_nriperf.cli import main
from pytest_nriperf.errors import UsageError
from pytest_nriperf.instrument import script
from pytest_nriperf.instrument.script import Target, run_instrumented
from pytest_nriperf.metrics import Measurement
from pytest_nriperf.recording import open_recording
from tests.generate.tiny_models import save_llama
from tests.instrument import fake_engine
from tests.tools import missing

REAL_GENERATE = script.GENERATE
FAKE = "tests.instrument.fake_engine"
PROGRAM = """\
import sys
from importlib.util import find_spec
from tests.instrument.fake_engine import GenerationMixin, Ids, make_printer
printer = make_printer()
model = GenerationMixin()
assert model.generate(Ids(1, 4), max_new_tokens=3) == "answer"
model.generate(Ids(2, 5), streamer=printer, max_new_tokens=2)
assert printer.seen == [10, 2, 2] and printer.ended
model.generate(Ids(1, 4), num_beams=4)
print("arguments:", sys.argv[1:], __name__)
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture(autouse=True)
def _a_fake_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "GENERATE", f"{FAKE}:GenerationMixin.generate")


def program(folder: Path, text: str = PROGRAM) -> str:
    path = folder / "chat.py"
    path.write_text(text)
    return str(path)


def test_generate_calls_become_requests_with_their_events(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    original = fake_engine.GenerationMixin.generate
    seen = run_instrumented([program(tmp_path), "5", "--model"], [], tmp_path / "out")
    assert (seen.status, seen.requests, seen.unstamped) == (5, 2, 1)
    assert "arguments: ['5', '--model'] __main__" in capsys.readouterr().out
    recorded = Measurement.from_recording(seen.folder)
    rows = recorded.requests.to_pylist()
    assert [(row["request"], row["prompt_tokens"], row["output_tokens"]) for row in rows] == [
        (0, 4, 3),
        (1, 5, 2),
        (2, 5, 2),
    ]
    assert recorded.tokens["n"].to_pylist() == [0, 1, 1, 1, 0, 1, 1, 0, 1, 1]
    assert "beam search" in open_recording(seen.folder).document["warnings"][0]
    assert fake_engine.GenerationMixin.generate is original


def test_a_program_that_fails_is_recorded_as_far_as_it_came(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = PROGRAM.replace("max_new_tokens=2", "max_new_tokens=2, fails_at=0")
    seen = run_instrumented([program(tmp_path, text)], [], tmp_path / "out")
    assert seen.status == 1
    assert "RuntimeError: out of ideas" in capsys.readouterr().err
    rows = Measurement.from_recording(seen.folder).requests.to_pylist()
    assert [(row["status"], row["output_tokens"]) for row in rows] == [("ok", 3), ("failed", 1), ("failed", 1)]


def test_probes_stamp_functions_and_methods_of_what_factories_return(tmp_path: Path) -> None:
    probes = [f"{FAKE}:make_printer().put", f"{FAKE}:Ids.numel"]
    text = PROGRAM.replace(
        "from tests.instrument.fake_engine import",
        "from tests.instrument import fake_engine\nfrom tests.instrument.fake_engine import",
    )
    text = text.replace("printer = make_printer()", "printer = fake_engine.make_printer()")
    seen = run_instrumented([program(tmp_path, text), "0"], probes, tmp_path / "out", generate=False)
    assert {probe: len(events) for probe, events in seen.events.items()} == {probes[0]: 3, probes[1]: 3}
    lines = [json.loads(line) for line in (seen.folder / script.EVENTS).read_text().splitlines()]
    assert len(lines) == 6
    assert all(line["start_ns"] <= line["t_ns"] and line["kind"] == "call" for line in lines)


def test_arguments_and_import_path_are_given_back(tmp_path: Path) -> None:
    before = list(sys.argv), list(sys.path)
    run_instrumented([program(tmp_path), "0"], [], tmp_path / "out")
    assert (sys.argv, sys.path) == before


def test_the_command_returns_the_programs_status_and_says_where_to_look(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["instrument", "--out", str(out), program(tmp_path), "3", "--json"]) == 3
    (folder,) = out.iterdir()
    text = capsys.readouterr().err
    assert "2 generate() calls stamped" in text
    assert f"nriperf show {folder}" in text
    assert main(["show", str(folder)]) == 0
    assert "TTFT" in capsys.readouterr().out
    assert main(["instrument", "--json", "--out", str(out), program(tmp_path), "0"]) == 0
    assert json.loads(capsys.readouterr().err)["generate_calls"] == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["instrument"], "no program was named"),
        (["instrument", "/nowhere.py"], "/nowhere.py is no file"),
        (["instrument", "--probe", "nonsense", "setup.py"], "write MODULE:FUNCTION"),
        (["instrument", "--probe", f"{FAKE}:nothing", __file__], "nothing does not exist"),
        (["instrument", "--probe", "no.such.module:f", __file__], "No module named"),
    ],
)
def test_mistakes_are_usage_errors(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert words in capsys.readouterr().err


def test_a_target_is_parsed() -> None:
    assert Target.parse("a.b:C.d") == Target("a.b:C.d", "a.b", ("C", "d"))
    with pytest.raises(UsageError):
        Target.parse("a.b:C..d")


def test_a_program_with_real_transformers_is_stamped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if find_spec("torch") is None or find_spec("transformers") is None:
        missing("torch and transformers are not installed")
    monkeypatch.setattr(script, "GENERATE", REAL_GENERATE)
    save_llama(tmp_path / "tiny")
    text = f"""
import transformers
tokenizer = transformers.AutoTokenizer.from_pretrained({str(tmp_path / "tiny")!r})
model = transformers.AutoModelForCausalLM.from_pretrained({str(tmp_path / "tiny")!r})
ids = tokenizer("what happens at kubecon", return_tensors="pt")
options = dict(min_new_tokens=6, max_new_tokens=6, do_sample=False, pad_token_id=0)
model.generate(**ids, **options, streamer=transformers.TextStreamer(tokenizer))
model.generate(**ids, **options)
model.generate(**ids, **options, num_beams=2)
"""
    seen = run_instrumented([program(tmp_path, text)], [], tmp_path / "out")
    assert (seen.status, seen.requests, seen.unstamped) == (0, 2, 1)
    tokens = Measurement.from_recording(seen.folder).tokens["n"].to_pylist()
    assert tokens == [0, *[1] * 6] * 2
