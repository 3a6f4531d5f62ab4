"""Configuration: `[tool.nriperf]` of pyproject.toml, or nriperf.toml. Built once, passed on, never changed.

Precedence: command-line option, ini twin in pytest's configuration, this file, the default here.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from pytest_nriperf.errors import SettingsError, UsageError
from pytest_nriperf.units import parse_cpus, parse_seconds, short_path

CONFIGURATIONS = ("nriperf.toml", "pyproject.toml")
FAIL_ON = ("worse", "unknown", "missing", "incomparable")
ACCEPT = ("", "missing", "all")
REFERENCE = ("auto", "on", "off")
HYPERTHREADS = ("paired", "spread", "hidden")
# How a profile's setting is written, by the type of its field.
_WRITTEN = {
    "str": "text in quotes",
    "bool": "true or false",
    "Mapping[str, str]": 'a table of texts: {name = "text"}',
    "tuple[str, ...]": 'a list of texts: ["text"]',
    "tuple[Mapping[str, Any], ...]": 'a list of tables: [{key = "text"}]',
}


@dataclass(frozen=True)
class RunPlan:
    """How many independent runs: exactly `least`, or up to `most`, stopping when the gate is settled.

    >>> RunPlan.parse("5..20")
    RunPlan(least=5, most=20)
    """

    least: int = 5
    most: int = 5

    @classmethod
    def parse(cls, text: str) -> RunPlan:
        """From `N` or `N..M`."""
        match = re.fullmatch(r"\s*(\d+)(?:\.\.(\d+))?\s*", text)
        least, most = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if least < 1 or most < least:
            raise UsageError(
                f"runs: {text!r} is no number of runs", "write 5, or 5..20 to stop when the gate is settled"
            )
        return cls(least, most)

    @property
    def adaptive(self) -> bool:
        """Whether the number of runs depends on what is seen."""
        return self.most > self.least

    def __str__(self) -> str:
        return f"{self.least}..{self.most}" if self.adaptive else str(self.least)


@dataclass(frozen=True)
class NodeProfile:
    """`[tool.nriperf.nodes.NAME]`: how to reach a node and what to use there. Empty means the default of the cluster or
    of the kubeconfig's context.

    `balloon_types` maps our hyperthread kinds (`spread`, `paired`, `hidden`) to types of the node's own policy
    (annotate mode). `model_path` is where the model lies in the image, `model_claim` a persistent volume claim,
    `model_host_path` a folder of the node, both mounted there. Amounts are Kubernetes quantities. Raises SettingsError
    naming profile and setting.
    """

    name: str
    node: str = ""
    context: str = ""
    namespace: str = ""
    image: str = ""
    policy: str = "annotate"
    policy_namespace: str = "kube-system"
    lease_namespace: str = "default"
    shared: bool = False
    balloon_types: Mapping[str, str] = field(default_factory=dict)
    pcm: str = ""
    model_path: str = ""
    model_claim: str = ""
    model_host_path: str = ""
    pull_secret: str = ""
    service_account: str = ""
    tolerations: tuple[Mapping[str, Any], ...] = ()
    resources: Mapping[str, str] = field(default_factory=dict)
    memory_limit: str = ""
    python: str = "python3"
    host_pid: bool = False
    treatment: tuple[str, ...] = ()
    identity: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.policy not in ("annotate", "manage"):
            raise SettingsError(
                f"node profile {self.name}: policy = {self.policy!r} is no policy mode", "write 'annotate' or 'manage'"
            )
        if unknown := sorted(set(self.balloon_types) - set(HYPERTHREADS)):
            raise SettingsError(
                f"node profile {self.name}: balloon_types has a type for {unknown[0]!r}",
                f"the kinds are {', '.join(HYPERTHREADS)}",
            )
        self._check_model()
        for key, amount in {"memory_limit": self.memory_limit or "1", **self.resources}.items():
            if not re.fullmatch(r"[0-9]+(\.[0-9]+)?(m|k|[KMGTPE]i?)?", amount):
                raise SettingsError(
                    f"node profile {self.name}: {key} = {amount!r} is no quantity", 'write for example "64Gi"'
                )

    def _check_model(self) -> None:
        if self.model_claim and self.model_host_path:
            raise SettingsError(
                f"node profile {self.name}: both model_claim and model_host_path are set",
                "both would be mounted at model_path: keep one",
            )
        if (self.model_claim or self.model_host_path) and not self.model_path.startswith("/"):
            raise SettingsError(
                f"node profile {self.name}: model_path = {self.model_path!r} is no place to mount the model at",
                'write the path in the pod, for example model_path = "/models"',
            )


@dataclass(frozen=True)
class Settings:
    """Everything that can be set, with its default. Field names are the keys of the configuration file.

    `floor` (share): a shift smaller than this nobody cares about. `tolerance` (share): what counts as the same.
    `reserved`: CPUs of this machine that balloons never get, as a list. `forced_model` wins over what marks say,
    `model` is used where they say nothing. `reference`: the short reference load around each run (auto: of real
    engines that are judged; of others once a balloon). `repeats`: how many disturbed runs a measurement makes again;
    `disturbances` moves the limits at which a run counts as disturbed (shares by fact). Of sweeps: `cell_runs` a cell,
    `axes` as `AXIS=V1,V2`, `seed` of the order, `budget` in seconds.
    """

    node: str = "local"
    model: str = ""
    forced_model: str = ""
    dtype: str = ""
    runs: RunPlan = field(default_factory=RunPlan)
    out: str = ".nriperf"
    baselines: str = "baselines"
    accept: str = ""
    fail_on: tuple[str, ...] = ("worse",)
    alpha: float = 0.05
    floor: float = 0.02
    tolerance: float = 0.05
    collect: str = "auto"
    sample_hz: float = 1.0
    pcm: str = ""
    reference: str = "auto"
    repeats: int = 2
    disturbances: Mapping[str, float] = field(default_factory=dict)
    reserved: frozenset[int] = frozenset()
    resume: bool = False
    manage: bool = False
    dry_run: bool = False
    cell_runs: RunPlan = RunPlan(1, 1)
    axes: tuple[str, ...] = ()
    seed: int | None = None
    budget: float | None = None
    report: str = ""
    summary: str = ""
    json: str = ""
    nodes: Mapping[str, NodeProfile] = field(default_factory=dict)
    root: Path = field(default_factory=Path.cwd)

    def __post_init__(self) -> None:
        for name in ("alpha", "floor", "tolerance"):
            value = getattr(self, name)
            if not 0 < value < 1:
                raise SettingsError(f"{name} = {value} is not between 0 and 1", f"write for example {name} = 0.05")
        if self.floor > self.tolerance:
            raise SettingsError(
                f"floor = {self.floor} is above tolerance = {self.tolerance}",
                "the floor (less than this nobody cares) must lie inside the tolerance (what counts as the same)",
            )
        if self.accept not in ACCEPT:
            raise SettingsError(f"accept = {self.accept!r} is unknown", "write 'missing' or 'all'")
        unknown = [word for word in self.fail_on if word not in FAIL_ON]
        if unknown:
            raise SettingsError(
                f"fail-on: {unknown[0]!r} is no verdict", f"write some of {', '.join(FAIL_ON)}, or 'nothing'"
            )
        if self.reference not in REFERENCE:
            raise SettingsError(f"reference = {self.reference!r} is unknown", f"write one of {', '.join(REFERENCE)}")
        if self.repeats < 0:
            raise SettingsError(f"repeats = {self.repeats} is no number of runs", "write 0 or more")
        if not 0 < self.sample_hz <= 10:
            raise SettingsError(f"sample-hz = {self.sample_hz} is not in 0..10", "write 1, or up to 10 for short runs")

    def with_values(self, values: Mapping[str, Any]) -> Settings:
        """A copy with the values that are not None, converted from text where they come from options."""
        known = {entry.name for entry in fields(self)}
        unknown = sorted(set(values) - known)
        if unknown:
            close = difflib.get_close_matches(unknown[0], known, 1)
            raise SettingsError(
                f"[tool.nriperf] has no setting {unknown[0]!r}",
                f"did you mean {close[0]!r}?"
                if close
                else f"known are {', '.join(sorted(known - {'root', 'forced_model'}))}",
            )
        return replace(self, **{key: _convert(key, value) for key, value in values.items() if value is not None})

    @property
    def nodes_named(self) -> list[str]:
        """The nodes that `node` names, in order.

        >>> Settings(node="xeon1, xeon2").nodes_named
        ['xeon1', 'xeon2']
        """
        return [name.strip() for name in self.node.split(",") if name.strip()] or ["local"]

    def path(self, text: str) -> Path:
        """A path of the configuration, relative to the folder of the configuration file."""
        try:
            return self.root / Path(text).expanduser()
        except RuntimeError as error:
            raise SettingsError(f"path {text!r}: there is no such user's home", "name the folder in full") from error

    def accept_command(self, recorded: Path, *options: str) -> str:
        """`nriperf accept` of a recording, to be pasted here: it names the baselines where it would find others."""
        here, own = settings_here(), self.path(self.baselines)
        elsewhere = ["--baselines", short_path(own)] if here.path(here.baselines) != own else []
        return shlex.join(["nriperf", "accept", short_path(recorded), *options, *elsewhere])


def project_folder(here: Path) -> Path:
    """The project that a folder belongs to: the nearest one around it with a configuration file, else itself."""
    around = (each for each in (here, *here.parents) if any((each / name).is_file() for name in CONFIGURATIONS))
    return next(around, here)


def settings_here(baselines: str | None = None) -> Settings:
    """The settings of the project that the working folder belongs to; a folder of baselines is named from here."""
    here = Path.cwd()
    settings = read_settings(project_folder(here))
    return settings if baselines is None else replace(settings, baselines=str(here / Path(baselines).expanduser()))


def read_settings(root: Path) -> Settings:
    """The settings of the project in folder `root`: nriperf.toml if there is one, else pyproject.toml."""
    own, project = (root / name for name in CONFIGURATIONS)
    source = own if own.is_file() else project
    table: Any = {}
    if source.is_file():
        try:
            table = tomllib.loads(source.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
            raise SettingsError(f"{source} cannot be read: {error}", "mend the file") from error
        table = table if source is own else table.get("tool", {}).get("nriperf", {})
    values = {str(key).replace("-", "_"): value for key, value in dict(table).items()}
    nodes = values.pop("nodes", {})
    if not isinstance(nodes, dict):
        raise SettingsError(f"{source}: nodes is no table", "write [tool.nriperf.nodes.NAME]")
    profiles = {name: _profile(str(name), entry, source) for name, entry in nodes.items()}
    base = Settings(root=root, nodes=profiles)
    if os.environ.get("CI", "").lower() in ("1", "true", "yes"):
        base = replace(base, fail_on=("worse", "missing", "incomparable"))
    return base.with_values(values)


def _profile(name: str, table: Any, source: Path) -> NodeProfile:
    known = {entry.name: entry for entry in fields(NodeProfile) if entry.name != "name"}
    if not isinstance(table, dict):
        raise SettingsError(f"{source}: node profile {name} is no table", f"write [tool.nriperf.nodes.{name}]")
    values: dict[str, Any] = {}
    for key, value in table.items():
        field_name = str(key).replace("-", "_")
        if field_name not in known:
            close = difflib.get_close_matches(field_name, known, 1)
            raise SettingsError(
                f"{source}: node profile {name} has no setting {key!r}",
                f"did you mean {close[0]!r}?" if close else f"known are {', '.join(sorted(known))}",
            )
        values[field_name] = _formed(f"{source}: node profile {name}: {key}", str(known[field_name].type), value)
    return NodeProfile(name=name, **values)


def _formed(what: str, form: str, value: Any) -> Any:
    """A profile's setting in the form of its field."""
    if {"str": str, "bool": bool}.get(form) is type(value):
        return value
    if (
        form.startswith("Mapping")
        and isinstance(value, dict)
        and all(type(each) in (str, int) for each in value.values())
    ):
        return {str(key): str(member) for key, member in value.items()}
    if form.startswith("tuple") and isinstance(value, list):
        kind = dict if "Mapping" in form else str
        if all(isinstance(each, kind) for each in value):
            return tuple(value)
    raise SettingsError(f"{what} = {value!r} has the wrong form", f"write {_WRITTEN[form]}")


def _convert(key: str, value: Any) -> Any:
    """One value from its written form (text of an option or ini file, or a TOML value)."""
    try:
        if key in ("runs", "cell_runs"):
            return value if isinstance(value, RunPlan) else RunPlan.parse(str(value))
        if key == "fail_on":
            words = value if isinstance(value, list | tuple) else str(value).replace(",", " ").split()
            return tuple(word for word in words if word != "nothing")
        if key == "reserved":
            return value if isinstance(value, frozenset) else parse_cpus(str(value))
        if key in ("alpha", "floor", "tolerance", "sample_hz"):
            return float(value)
        if key in ("repeats", "seed"):
            return int(value)
        if key == "budget":
            return float(value) if isinstance(value, int | float) else parse_seconds(value)
        if key == "axes":
            return (value,) if isinstance(value, str) else tuple(map(str, value))
        if key == "disturbances":
            return {str(fact): float(limit) for fact, limit in dict(value).items()}
        if key == "collect" and isinstance(value, list):
            return ",".join(value)
        if key in ("resume", "dry_run", "manage"):
            return value if isinstance(value, bool) else str(value).lower() in ("1", "true", "yes", "on")
    except (TypeError, ValueError) as error:
        raise SettingsError(f"{key} = {value!r} cannot be read", "see the README for its form") from error
    if key not in ("nodes", "root") and not isinstance(value, str | int | float):
        raise SettingsError(f"{key} = {value!r} is no text", f'write {key} = "..."')
    return value
