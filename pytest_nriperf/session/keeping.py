"""The balloon and engines of one cell, kept for the next that needs the same: loading a model costs more than a run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager

import pytest

from pytest_nriperf.experiment.bench import Balloon, Bench
from pytest_nriperf.experiment.llm import Llm
from pytest_nriperf.marks import LlmRequest, balloon_spec, llm_request
from pytest_nriperf.session.collecting import arguments_of, cell_of

Key = tuple[object, str, LlmRequest]


class Keeper:
    """Holds one balloon, and one loaded model in it, between cells of a sweep."""

    def __init__(self) -> None:
        self._undo = contextlib.ExitStack()
        self._key: Key | None = None
        self._balloon: Balloon | None = None
        self._llm: Llm | None = None

    def balloon(self, item: pytest.Item, bench: Bench) -> Balloon:
        """The balloon of a cell: the one that is held where it is the same, else a new one in its place."""
        key = _key(item)
        if self._balloon is None or key != self._key:
            self.release()
            self._balloon = self._undo.enter_context(bench.balloon(balloon_spec(arguments_of(item, "balloon"))))
            self._key = key
        return self._balloon

    @contextlib.contextmanager
    def llm(self, opened: AbstractContextManager[Llm]) -> Iterator[Llm]:
        """The model that is loaded in the balloon that is held, else `opened`, which is kept from now on."""
        if self._llm is None:
            self._llm = self._undo.enter_context(opened)
        self._llm.completions.clear()
        yield self._llm

    def release_unless(self, following: pytest.Item | None) -> None:
        """Give back what is held unless the item that follows needs the same."""
        if following is None or cell_of(following) is None or _key(following) != self._key:
            self.release()

    def release(self) -> None:
        """End the engines and give the balloon back. May be called twice."""
        self._key = self._balloon = self._llm = None
        self._undo.close()


def _key(item: pytest.Item) -> Key:
    callspec = getattr(item, "callspec", None)
    node = callspec.params.get("nri_node") if callspec is not None else None
    spec = balloon_spec(arguments_of(item, "balloon"))
    return node, spec.canonical(), llm_request(arguments_of(item, "llm"))
