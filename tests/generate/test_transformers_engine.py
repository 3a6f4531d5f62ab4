"""The transformers engine on tiny models: events counted right, weights where they should be, errors that help."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_nriperf.generate.child.engine import EngineError, Input, Setting
from pytest_nriperf.generate.child.recorder import Recorder
from pytest_nriperf.generate.models import parse_model
from tests.generate.tiny_models import LLAMA, save_gguf, save_llama


@pytest.fixture(scope="module", autouse=True)
def _two_threads_again() -> Iterator[None]:
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama with a tokenizer of eight words, saved as anybody saves one."""
    path = tmp_path_factory.mktemp("models") / "tiny"
    save_llama(path)
    return path


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("configs") / "config.json"
    path.write_text(json.dumps(LLAMA))
    return path


def engine(model: str, *, dtype: str = "", weights: str = "private") -> Any:
    from pytest_nriperf.generate.child.transformers_engine import TransformersEngine

    choice = parse_model(model, dtype=dtype, weights=weights)
    return TransformersEngine(
        Setting(
            kind=choice.kind,
            location=choice.location,
            dtype=choice.dtype,
            weights=choice.weights,
            parameters=dict(choice.parameters),
            replica=0,
            cpus=sorted(os.sched_getaffinity(0)),
            say=lambda _: None,
            tell=lambda _: None,
        )
    )


def generated(engine: Any, inputs: list[Input], new_tokens: int) -> Recorder:
    recorder: Recorder = engine.recorder(len(inputs))
    engine.generate(inputs, new_tokens, recorder, 0)
    return recorder


def test_one_event_a_token_and_the_prompt_counts_nothing(folder: Path) -> None:
    loaded = engine(str(folder))
    facts = loaded.load()
    prompt = loaded.encode("what happens at kubecon", None)
    recorder = generated(loaded, [prompt], 6)
    stamps, tokens = recorder.events()
    assert prompt.tokens == 4
    assert tokens == [0, 1, 1, 1, 1, 1, 1]
    assert recorder.submit_ns < stamps[0] < stamps[-1]
    text, ids = loaded.decode(recorder, 0)
    assert len(ids) == 6
    assert isinstance(text, str)
    assert facts["kv_bytes_per_token"] == 2 * 2 * 2 * 8 * 4
    assert facts["weight_bytes"] == facts["parameters"] * 4 == facts["weight_bytes_per_token"]
    assert facts["architecture"] == "LlamaForCausalLM"


def test_the_end_of_a_sequence_ends_nothing(folder: Path) -> None:
    loaded = engine(str(folder))
    loaded.load()
    loaded._model.get_output_embeddings().weight.data[2] = 100.0
    loaded._model.get_output_embeddings().weight.data[3:] = 0.0
    recorder = generated(loaded, [loaded.encode("talks", None)], 20)
    assert sum(recorder.events()[1]) == 20


def test_private_weights_leave_nothing_mapped_and_stay_tied(folder: Path) -> None:
    loaded = engine(str(folder), dtype="float32")
    facts = loaded.load()
    assert (facts["weights"], facts["mapped_bytes"]) == ("private", 0)
    assert loaded._model.get_input_embeddings().weight is loaded._model.get_output_embeddings().weight


def test_shared_weights_stay_on_the_file(folder: Path) -> None:
    facts = engine(str(folder), dtype="float32", weights="shared").load()
    assert facts["weights"] == "shared"
    assert facts["mapped_bytes"] >= facts["weight_bytes"]


def test_private_and_shared_weights_say_the_same(folder: Path) -> None:
    ids = []
    for weights in ("private", "shared"):
        loaded = engine(str(folder), weights=weights)
        loaded.load()
        ids.append(loaded.decode(generated(loaded, [loaded.encode("talks at", None)], 8), 0)[1])
    assert ids[0] == ids[1]


def test_each_row_of_a_batch_gets_one_token_an_event(config: Path) -> None:
    loaded = engine(f"dummy:{config}?batch=3")
    loaded.load()
    inputs = [loaded.encode(None, length) for length in (4, 9, 9)]
    recorder = generated(loaded, inputs, 5)
    assert loaded.batch == 3
    assert recorder.events()[1] == [0, 1, 1, 1, 1, 1]
    rows = [loaded.decode(recorder, row)[1] for row in range(3)]
    assert [len(row) for row in rows] == [5, 5, 5]
    assert rows[1] == rows[2]


def test_a_padded_row_says_what_it_says_alone(config: Path) -> None:
    loaded = engine(f"dummy:{config}?batch=2")
    loaded.load()
    short, long = loaded.encode(None, 4), loaded.encode(None, 9)
    together = loaded.decode(generated(loaded, [short, long], 5), 0)
    assert together == loaded.decode(generated(loaded, [short], 5), 0)


def test_a_static_cache_stamps_alike(config: Path) -> None:
    loaded = engine(f"dummy:{config}?cache=static")
    loaded.load()
    recorder = generated(loaded, [loaded.encode(None, 8)], 6)
    assert recorder.events()[1] == [0, 1, 1, 1, 1, 1, 1]


def test_assisted_decoding_counts_every_token_of_an_event(folder: Path) -> None:
    loaded = engine(f"{folder}?assistant={folder}")
    loaded.load()
    tokens = generated(loaded, [loaded.encode("what happens at kubecon", None)], 12).events()[1]
    assert tokens[0] == 0
    assert sum(tokens) == 12
    assert max(tokens) > 1


def test_prompt_lookup_counts_every_token_of_an_event(config: Path) -> None:
    loaded = engine(f"dummy:{config}?lookup=3")
    loaded.load()
    tokens = generated(loaded, [loaded.encode("a b a b a b a b", None)], 12).events()[1]
    assert sum(tokens) == 12


def test_the_same_dummy_is_the_same_model(config: Path) -> None:
    facts, ids = [], []
    for _ in range(2):
        loaded = engine(f"dummy:{config}?dtype=bfloat16")
        facts.append(loaded.load())
        ids.append(loaded.decode(generated(loaded, [loaded.encode("one two", None)], 4), 0))
    assert facts[0] == facts[1]
    assert facts[0]["dtype"] == "bfloat16"
    assert ids[0] == ids[1]
    assert ids[0][0].startswith("<")


def test_concurrent_calls_divide_the_threads(config: Path) -> None:
    import torch

    loaded = engine(f"dummy:{config}?threads=4")
    loaded.share(2)
    assert (loaded.threads, torch.get_num_threads()) == (4, 2)


def test_a_delay_is_added_after_each_stamp(config: Path) -> None:
    loaded = engine(f"dummy:{config}?delay=20ms")
    loaded.load()
    stamps, _ = generated(loaded, [loaded.encode("x", None)], 3).events()
    assert all(later - earlier >= 20_000_000 for earlier, later in itertools.pairwise(stamps))


def test_too_long_a_prompt_is_refused_with_the_numbers(config: Path) -> None:
    loaded = engine(f"dummy:{config}")
    loaded.load()
    with pytest.raises(EngineError, match="100 tokens and 50 new ones exceed the model's 128 positions"):
        loaded.check(100, 50)


@pytest.mark.parametrize(
    ("model", "fact", "step"),
    [
        ("nobody/nothing", "not in the hub's cache", "hf download nobody/nothing"),
        ("/nowhere/model", "does not exist here", "name a folder"),
        ("/nowhere/model.gguf", "does not exist here", "name a folder or file"),
        ("dummy:/nowhere/config.json", "No such file", "config.json"),
    ],
)
def test_a_model_that_is_not_there_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: str, fact: str, step: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(EngineError) as caught:
        engine(model).load()
    assert fact in caught.value.fact
    assert step in caught.value.next_step
    assert caught.value.kind == "model"


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="cannot be loaded"):
        engine(str(tmp_path)).load()


def test_a_damaged_weights_file_is_named(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes()[: 2000 if file.suffix == ".safetensors" else None])
    with pytest.raises(EngineError, match="cannot be loaded: SafetensorError"):
        engine(str(tmp_path)).load()


def test_a_gguf_file_is_loaded_with_nothing_mapped(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    save_gguf(path)
    loaded = engine(str(path))
    facts = loaded.load()
    assert (facts["weights"], facts["mapped_bytes"], facts["name"]) == ("private", 0, "tiny.gguf")
    assert sum(generated(loaded, [loaded.encode("what happens", None)], 5).events()[1]) == 5
