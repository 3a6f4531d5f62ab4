"""A node held for one pytest session: its lock, its session folder, what every measurement on it shares."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from pytest_nriperf import __version__
from pytest_nriperf.balloons import BalloonSpec
from pytest_nriperf.baselines import BaselineStore
from pytest_nriperf.baselines.drift import check_limits
from pytest_nriperf.experiment.counting import Counting, counting_here, counting_there
from pytest_nriperf.experiment.progress import Show
from pytest_nriperf.fingerprint import Fingerprint, node_fingerprint
from pytest_nriperf.generate.models import parse_model
from pytest_nriperf.seams import EngineOptions, Generator, Grant, ModelChoice, NodeDescription, Provisioner
from pytest_nriperf.sessions import Session
from pytest_nriperf.settings import NodeProfile, Settings
from pytest_nriperf.topology import Topology


class ReferenceLoad(Enum):
    """When the short reference load (memory bandwidth, matrix product) runs on a balloon's CPUs for a measurement."""

    NEVER = "never"
    ONCE = "once a session and balloon, before its first run"
    EACH_RUN = "before and after each run"


@dataclass(frozen=True)
class Balloon:
    """A granted and verified allocation: `grant.placement` has the CPUs of each replica."""

    spec: BalloonSpec
    grant: Grant

    def __str__(self) -> str:
        times = f"{self.replicas} x " if self.replicas > 1 else ""
        return f"{times}{self.grant.placement.sizes_text}"

    @property
    def replicas(self) -> int:
        """How many replicas it holds."""
        return len(self.grant.placement.replicas)

    @property
    def allocated(self) -> tuple[frozenset[int], ...]:
        """CPUs allocated to each replica: what one pays for."""
        return tuple(replica.allocated for replica in self.grant.placement.replicas)

    @property
    def visible(self) -> tuple[frozenset[int], ...]:
        """CPUs that each replica's engine may run on."""
        return tuple(replica.visible for replica in self.grant.placement.replicas)


class Bench:
    """A node, held until `close`: topology, fingerprint, balloons, engines, the session's folder."""

    def __init__(
        self,
        provisioner: Provisioner,
        settings: Settings,
        *,
        show: Show,
        generator: Callable[[ModelChoice, EngineOptions], Generator],
        profile: NodeProfile | None = None,
    ) -> None:
        self.provisioner = provisioner
        self.settings = settings
        self.show = show
        self.generator = generator
        self.topology: Topology = provisioner.topology()
        self.description: NodeDescription = provisioner.describe()
        fingerprint = node_fingerprint(self.description.read, self.topology, self.description.facts)
        if profile is not None:
            fingerprint = fingerprint.moved(identity=profile.identity, treatment=profile.treatment)
        self.fingerprint: Fingerprint = fingerprint
        self.counting = self._counting(profile)
        self.suite = _suite_commit(settings.root)
        check_limits(settings.disturbances)
        self._session: Session | None = None
        self._measured: dict[str, int] = {}
        # Visible CPUs of each replica -> bytes per second that they read from memory, None where that gave no figure.
        self.read_bandwidths: dict[tuple[frozenset[int], ...], float | None] = {}
        self._undo = contextlib.ExitStack()
        self.broken_off = False
        # The measurement that Ctrl-C ended, and how far it was, in words.
        self.ended_in = ""
        self.notes: dict[str, Any] = {}

    @property
    def name(self) -> str:
        """The node's name in recordings."""
        return self.description.name

    def baseline_name(self, choice: ModelChoice) -> str:
        """The folder of the node's baselines: its name, for this machine with a hash of its identity.

        What a simulated engine gives on a real machine has a folder of its own.
        """
        real, *made_up = self.baseline_stores()
        return made_up[0].node if choice.kind == "sim" and made_up else real.node

    def baseline_stores(self) -> list[BaselineStore]:
        """The node's baselines, and on a real node those of simulated engines."""
        name = f"local-{self.fingerprint.node_hash}" if self.name == "local" else self.name.replace(":", "-")
        folder = self.settings.path(self.settings.baselines)
        own = BaselineStore(folder, name, simulated=self.simulated)
        return [own] if self.simulated else [own, BaselineStore(folder, f"{name}-simulated", simulated=True)]

    @property
    def simulated(self) -> bool:
        """Whether nothing measured here is real."""
        return self.description.simulated

    def recording_folder(self, test: str) -> Path:
        """A new folder for a measurement of `test`; a test's second measurement has a folder of its own."""
        self._measured[test] = self._measured.get(test, 0) + 1
        return self.session().recording(test, self._measured[test], durable=not self.simulated)

    def session(self) -> Session:
        """The session's folder, made (or taken up again) at the first measurement."""
        if self._session is None:
            out = self.settings.path(self.settings.out)
            resumed = Session.resume(out, node=self.name) if self.settings.resume else None
            self._session = resumed or Session.start(out, **self._facts())
            self._undo.enter_context(self._session)
        return self._session

    def _facts(self) -> dict[str, Any]:
        return {
            "node": self.name,
            "simulated": self.simulated,
            "command": sys.argv,
            "topology": self.topology.as_dict(),
            "fingerprint": self.fingerprint.as_dict(),
            "suite": self.suite,
            "collectors": self.counting.line,
            "versions": {"pytest-nriperf": __version__, "python": sys.version.split()[0]},
        }

    def closing_words(self) -> list[str]:
        """What stands at the end of a summary: whether the session was resumed or can be, and its counters."""
        words = [self.counting.line]
        if self._session is not None and self._session.document.get("resumed"):
            words.append(f"went on with {self._session.folder}")
        if self._session is not None and self.broken_off:
            where = f" in {self.ended_in}" if self.ended_in else ""
            words.append(
                f"broken off{where}; finished runs are kept in {self._session.folder}: go on with --nri-resume"
            )
        return words

    @contextlib.contextmanager
    def held(self, specs: Sequence[BalloonSpec]) -> Iterator[Bench]:
        """Hold the node for the session; the session's folder is marked finished unless it was broken off."""
        with self._undo, self.provisioner.session(specs):
            yield self
            if self._session is not None:
                self._session.document |= self.notes
                if not self.broken_off:
                    self._session.finish()

    @contextlib.contextmanager
    def balloon(self, spec: BalloonSpec) -> Iterator[Balloon]:
        """Provision; on exit everything that was started in it is ended and the node is as before."""
        with self.provisioner.provision(spec) as grant:
            yield Balloon(spec, grant)

    def model(self, text: str, dtype: str, weights: str, own: Collection[str] = ()) -> ModelChoice:
        """The chosen model: `--nri-model`, else `text` of a mark, else the configuration's, else smollm2.

        `own` are arguments that tell a variant from another (`model`, `dtype`): these no option overrides.
        """
        settings = self.settings
        if settings.forced_model and "model" not in own:
            return parse_model(
                settings.forced_model, dtype=dtype if "dtype" in own else "", weights=weights, base=settings.root
            )
        chosen = text or settings.model or "smollm2"
        return parse_model(chosen, dtype=dtype or settings.dtype, weights=weights, base=settings.root)

    def reference_load(self, choice: ModelChoice, *, judged: bool, pairs: bool = False) -> ReferenceLoad:
        """When the reference load runs; by default beside each run of a real engine whose test asks for verdicts."""
        if self.settings.reference != "auto":
            return ReferenceLoad.EACH_RUN if self.settings.reference == "on" else ReferenceLoad.NEVER
        # What the machine does, it does to both of a pair.
        if pairs or self.simulated or choice.kind in ("sim", "openai"):
            return ReferenceLoad.NEVER
        return ReferenceLoad.EACH_RUN if judged else ReferenceLoad.ONCE

    def _counting(self, profile: NodeProfile | None) -> Counting:
        if self.simulated:
            return Counting("counters: none on a simulated node")
        settings = self.settings
        address = settings.pcm or (profile.pcm if profile else "")
        if self.name == "local":
            return counting_here(settings.collect, address)
        return counting_there(self.provisioner, self.name, settings.collect, address)


def _suite_commit(folder: Path) -> Mapping[str, Any]:
    """The commit of the suite and whether its files differ from it; empty outside a repository."""

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        commit = git("rev-parse", "HEAD")
        return {"commit": commit, "changed": bool(git("status", "--porcelain", "-uno"))} if commit else {}
    except (OSError, subprocess.TimeoutExpired):
        return {}
