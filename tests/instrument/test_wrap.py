"""Layers go around any callable and come off exactly."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import itertools
import operator
import threading
import types
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nriperf.errors import UsageError
from pytest_nriperf.instrument.wrap import wrap, wrap_returned, wrapped


def marking(mark: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator that puts a mark in front of a text result."""

    def decorate(original: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: mark + original(*args, **kwargs)

    return decorate


class Base:
    def method(self) -> str:
        return "method"

    def inherited(self) -> str:
        return "inherited"

    @staticmethod
    def static() -> str:
        return "static"

    @classmethod
    def klass(cls) -> str:
        return cls.__name__

    partial = functools.partial(str, "partial")
    partial_method = functools.partialmethod(lambda self, text: text, "partial method")

    @functools.lru_cache  # noqa: B019 - a descriptor written in C that binds in its own way
    def cached(self) -> str:
        return "cached"

    @property
    def fact(self) -> str:
        return "fact"


class Sub(Base):
    def __call__(self) -> str:
        return "called"


class Slotted:
    __slots__ = ("__weakref__", "value")

    def __init__(self) -> None:
        self.value = "slotted"

    def read(self) -> str:
        return self.value


@pytest.mark.parametrize(
    ("owner", "name", "call", "result"),
    [
        (Base, "method", lambda: Base().method(), "method"),
        (Sub, "inherited", lambda: Sub().inherited(), "inherited"),
        (Base, "static", lambda: Base.static() + Base().static(), "static*static"),
        (Base, "klass", lambda: Base.klass() + Sub.klass(), "Base*Sub"),
        (Sub, "klass", lambda: Sub().klass(), "Sub"),
        (Base, "partial", lambda: Base().partial(), "partial"),
        (Base, "partial_method", lambda: Base().partial_method(), "partial method"),
        (Base, "cached", lambda: Base().cached(), "cached"),
        (Sub, "__call__", lambda: Sub()(), "called"),
    ],
)
def test_every_kind_of_class_attribute_is_wrapped_and_given_back(
    owner: type, name: str, call: Callable[[], str], result: str
) -> None:
    before = dict(vars(owner))
    undo = wrap(owner, name, marking("*"))
    assert call() == f"*{result}"
    undo()
    assert list(vars(owner).items()) == list(before.items())
    assert all(vars(owner)[key] is before[key] for key in before if not key.startswith("__"))


def test_what_is_inherited_leaves_nothing_on_the_subclass_and_never_touches_the_base() -> None:
    original = vars(Base)["inherited"]
    with wrapped(Sub, "inherited", marking("*")):
        assert Base().inherited() == "inherited"
        assert Sub().inherited() == "*inherited"
    assert "inherited" not in vars(Sub)
    assert vars(Base)["inherited"] is original


def test_one_object_is_wrapped_and_the_others_are_not() -> None:
    one, other = Base(), Base()
    undo = wrap(one, "method", marking("*"))
    assert (one.method(), other.method()) == ("*method", "method")
    undo()
    assert vars(one) == {}


@pytest.mark.parametrize(("made", "name"), [(Sub, "__call__"), (Slotted, "read")])
def test_an_object_whose_class_must_speak_gets_a_class_of_its_own(made: type, name: str) -> None:
    one, other = made(), made()
    undo = wrap(one, name, marking("*"))
    plain = "called" if name == "__call__" else "slotted"
    call = operator.call if name == "__call__" else operator.methodcaller(name)
    assert (call(one), call(other)) == (f"*{plain}", plain)
    assert isinstance(one, made)
    undo()
    assert type(one) is made


def test_a_module_function_is_wrapped_and_still_looks_like_itself() -> None:
    module = types.ModuleType("module")
    exec("def add(a, b=2):\n    'Add.'\n    return str(a + b)", module.__dict__)
    original = vars(module)["add"]
    undo = wrap(module, "add", marking("*"))
    add = module.add
    assert add(1) == "*3"
    assert (add.__name__, add.__doc__, str(inspect.signature(add))) == ("add", "Add.", "(a, b=2)")
    undo()
    assert module.add is original


@given(st.permutations(range(4)))
def test_layers_nest_and_come_off_in_any_order(order: list[int]) -> None:
    original = vars(Base)["method"]
    undos = [wrap(Base, "method", marking(str(number))) for number in range(4)]
    left = set(range(4))
    assert Base().method() == "3210method"
    for number in order:
        undos[number]()
        left.remove(number)
        assert Base().method() == "".join(map(str, sorted(left, reverse=True))) + "method"
    assert vars(Base)["method"] is original


def test_undoing_twice_does_nothing() -> None:
    undo = wrap(Base, "method", marking("*"))
    undo()
    with wrapped(Base, "method", marking("+")):
        undo()
        assert Base().method() == "+method"


def test_it_comes_off_after_an_exception_too() -> None:
    original = vars(Base)["method"]
    with pytest.raises(ZeroDivisionError), wrapped(Base, "method", marking("*")):
        raise ZeroDivisionError
    assert vars(Base)["method"] is original


class Factories:
    kept = Slotted()

    def make(self) -> Base:
        return Base()

    def same(self) -> Slotted:
        return self.kept

    async def later(self) -> Base:
        return Base()

    maker = Sub


def test_what_a_factory_returns_is_wrapped_whatever_its_class() -> None:
    undo = wrap_returned(Factories, "make", "method", marking("*"))
    made = Factories().make()
    assert made.method() == "*method"
    assert Base().method() == "method"
    undo()
    assert made.method() == "method"
    assert vars(made) == {}
    assert Factories().make().method() == "method"


def test_an_object_returned_twice_is_wrapped_once() -> None:
    undo = wrap_returned(Factories, "same", "read", marking("*"))
    factories = Factories()
    factories.same()
    assert factories.same().read() == "*slotted"
    undo()
    assert type(Factories.kept) is Slotted


def test_what_a_coroutine_returns_is_wrapped() -> None:
    undo = wrap_returned(Factories, "later", "method", marking("*"))
    assert asyncio.run(Factories().later()).method() == "*method"
    undo()


def test_a_class_as_a_factory_stays_that_class() -> None:
    undo = wrap_returned(Factories, "maker", "method", marking("*"))
    made = Factories.maker()
    assert isinstance(made, Sub)
    assert made.method() == "*method"
    undo()
    assert "method" not in vars(Sub)


def test_wrapped_objects_are_not_kept_alive() -> None:
    undo = wrap_returned(Factories, "make", "method", marking("*"))
    made = weakref.ref(Factories().make())
    gc.collect()
    assert made() is None
    undo()


def test_threads_wrap_and_unwrap_at_the_same_time() -> None:
    original = vars(Base)["method"]
    errors: list[BaseException] = []
    barrier = threading.Barrier(4)

    def often(mark: str) -> None:
        try:
            barrier.wait()
            for _ in range(100):
                with wrapped(Base, "method", marking(mark)):
                    assert mark in Base().method()
        except BaseException as error:  # noqa: BLE001 - shown by the main thread
            errors.append(error)

    threads = [threading.Thread(target=often, args=(str(number),)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert vars(Base)["method"] is original


@pytest.mark.parametrize(
    ("owner", "name", "words"),
    [
        (Base, "nothing", "Base.nothing does not exist"),
        (Base, "fact", "is a property, nothing that is called"),
        (Slotted(), "value", "is a member_descriptor, nothing that is called"),
        (str, "join", "str.join cannot be replaced"),
        (itertools.count(), "__next__", "cannot be replaced"),
    ],
)
def test_what_cannot_be_wrapped_is_refused_and_unchanged(owner: Any, name: str, words: str) -> None:
    with pytest.raises(UsageError, match=words.replace(".", r"\.")):
        wrap(owner, name, marking("*"))


def test_somebody_elses_replacement_is_never_lost() -> None:
    undo = wrap(Base, "method", marking("*"))
    ours = vars(Base)["method"]
    Base.method = theirs = lambda self: "theirs"  # type: ignore[method-assign]
    with pytest.raises(UsageError, match="replaced by somebody else"):
        undo()
    assert vars(Base)["method"] is theirs
    Base.method = ours  # type: ignore[method-assign]
    undo()
    assert Base().method() == "method"
