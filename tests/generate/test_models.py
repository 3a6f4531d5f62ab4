"""Every form of a model's name, one spelling for each, and errors that say what to write."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nriperf.errors import SpecError
from pytest_nriperf.generate.models import parse_model, sim_settings


@pytest.mark.parametrize(
    ("text", "kind", "canonical"),
    [
        ("smollm2", "smollm2", "smollm2?dtype=float32"),
        (" smollm2?dtype=bf16 ", "smollm2", "smollm2?dtype=bfloat16"),
        ("smollm2?batch=4&dtype=fp32", "smollm2", "smollm2?dtype=float32&batch=4"),
        ("sim", "sim", "sim:"),
        ("sim:ttft=0.02,itl=5ms,cv=2%", "sim", "sim:itl=5ms,ttft=20ms,cv=0.02"),
        ("dummy:gpt-neo-125m", "dummy", "dummy:gpt-neo-125m?dtype=float32"),
        ("dummy:configs/small.json", "dummy", "dummy:configs/small.json?dtype=float32"),
        ("org/name", "hub", "org/name"),
        ("org/name?dtype=auto", "hub", "org/name?dtype=auto"),
        ("models/tiny.gguf", "gguf", "models/tiny.gguf"),
        ("./models/x", "folder", "./models/x"),
        ("/models/x?weights=shared", "folder", "/models/x?weights=shared"),
        ("openai:http://h:8000/v1/#m", "openai", "openai:http://h:8000/v1#m"),
        (
            "openai:http://h/v1#org/m?endpoint=completions",
            "openai",
            "openai:http://h/v1#org/m?endpoint=completions",
        ),
    ],
)
def test_a_name_has_one_kind_and_one_spelling(text: str, kind: str, canonical: str) -> None:
    choice = parse_model(text)
    assert (choice.kind, choice.text) == (kind, canonical)
    assert parse_model(choice.text) == choice


def test_a_folder_wins_over_a_hub_id_and_keeps_its_spelling(tmp_path: Path) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    choice = parse_model("org/name", base=tmp_path)
    assert (choice.kind, choice.text, choice.location) == ("folder", "org/name", str(tmp_path / "org/name"))


def test_arguments_and_text_mean_the_same() -> None:
    assert parse_model("org/m", dtype="bfloat16", weights="shared") == parse_model(
        "org/m?weights=shared&dtype=bfloat16"
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no model was named; write one of"),
        ("smolm2", "did you mean 'smollm2'"),
        ("sim:ilt=5ms", "unknown parameter 'ilt'; did you mean itl"),
        ("sim:itl=fast", "itl=fast cannot be; itl is a duration"),
        ("sim:itl", "'itl' has no value; write itl=VALUE"),
        ("sim:itl=1ms,itl=2ms", "given twice"),
        ("sim:cv=-1", "share"),
        ("smollm2?dtype=int3", "one of float32, bfloat16"),
        ("smollm2?weights=lent", "one of private, shared"),
        ("~nobody-here/model", "no such user's home"),
        ("dummy:gpt-9", "dummy:gpt-neo-125m, or the path of a config.json"),
        ("openai:ftp://x#m", "no http address"),
        ("openai:http://h/v1", "write openai:http://h/v1#NAME"),
    ],
)
def test_a_wrong_name_teaches(text: str, words: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_model(text)
    assert words in str(caught.value)


def test_a_key_in_an_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(SpecError, match="OPENAI_API_KEY") as caught:
        parse_model("openai:http://user:secret@h/v1#m")
    assert "secret" not in str(caught.value)


def test_two_different_dtypes_are_refused() -> None:
    with pytest.raises(SpecError, match="dtype=float16, the mark says dtype=float32"):
        parse_model("smollm2?dtype=float16", dtype="float32")
    with pytest.raises(SpecError, match="no meaning"):
        parse_model("sim:", dtype="float32")


def test_simulated_numbers_are_nanoseconds_and_bytes() -> None:
    choice = parse_model("sim:itl=1.5ms,memory=2Mi,seed=7,wait=spin")
    assert sim_settings(choice) == {"itl_ns": 1_500_000, "memory_bytes": 2 << 20, "seed": 7, "wait": "spin"}


@given(st.text(max_size=60))
def test_any_text_is_a_model_or_a_teaching_error(text: str) -> None:
    with contextlib.suppress(SpecError):
        choice = parse_model(text, base=Path("/nowhere"))
        assert parse_model(choice.text, base=Path("/nowhere")) == choice
