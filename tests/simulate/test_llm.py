"""The size of a simulated model comes from its words or from a real configuration."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_nriperf.errors import ModelError, UsageError
from pytest_nriperf.seams import ModelChoice
from pytest_nriperf.simulate.llm import from_configuration, from_parameters, model_size

SMOLLM2 = {
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "intermediate_size": 1536,
    "vocab_size": 49152,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}


def test_parameters_are_counted_from_a_real_configuration() -> None:
    size = from_configuration(SMOLLM2)
    assert size.parameters == pytest.approx(134.5e6, rel=0.01)
    assert size.weight_bytes == size.parameters * 2
    assert (size.layers, size.kv_heads, size.head_dim) == (30, 3, 64)


def test_a_folder_with_a_configuration_names_a_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SMOLLM2))
    size = model_size(ModelChoice(str(tmp_path), "folder", str(tmp_path), dtype="float32"))
    assert size.weight_bytes == pytest.approx(4 * 134.5e6, rel=0.01)


def test_words_after_sim_are_sizes_times_and_causes() -> None:
    size = from_parameters({"parameters": "70G", "dtype": "int8", "itl": "5ms", "off": "bandwidth+noise"})
    assert size.weight_bytes == 70e9
    assert size.itl_s == 0.005
    assert size.off == {"bandwidth", "noise"}


def test_a_misspelt_word_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"unknown parameter 'params'; known are parameters"):
        from_parameters({"params": "8G"})


def test_a_value_that_is_no_number_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match=r"layers='many' is no number"):
        from_parameters({"layers": "many"})


def test_a_model_that_would_have_to_be_downloaded_is_refused_with_what_to_write() -> None:
    with pytest.raises(ModelError, match=r"org/name: its size is unknown .* sim:parameters=8G"):
        model_size(ModelChoice("org/name", "hub", "org/name"))


def test_known_models_need_no_file() -> None:
    assert model_size(ModelChoice("smollm2", "smollm2")).parameters == pytest.approx(134.5e6)
    assert model_size(ModelChoice("dummy:gpt-neo-125m", "dummy", "gpt-neo-125m")).layers == 12
