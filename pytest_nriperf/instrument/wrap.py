"""Put something around a callable without touching its code, and take it off again exactly.

`wrap(owner, name, decorate)` replaces what `owner` holds under `name`: a function of a module, a method, static method,
class method or any other callable of a class, or a method of one object. `wrap_returned` does it to a method of every
object that a factory returns, whatever its class. `decorate(original)` gives the replacement, as a decorator does.

Layers nest and come off in any order: the first of a name keeps the original, the last gives it back, the same object
in the same place; what was inherited leaves nothing behind. All of it holds in any thread.
"""

from __future__ import annotations

import functools
import inspect
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from pytest_nriperf.errors import UsageError

Decorate = Callable[[Callable[..., Any]], Callable[..., Any]]
Undo = Callable[[], None]

_ABSENT = object()
_lock = threading.RLock()
_places: weakref.WeakValueDictionary[tuple[int, str], _Place] = weakref.WeakValueDictionary()


def wrap(owner: Any, name: str, decorate: Decorate) -> Undo:
    """Put a layer around `owner.name`; the function that takes it off (calling it again does nothing).

    `decorate` may be called again when another layer comes off. Raises UsageError when there is no such callable, or
    when the owner cannot be changed (a type written in C).

    >>> class Greeter:
    ...     def greet(self):
    ...         return "hello"
    >>> undo = wrap(Greeter, "greet", lambda greet: lambda self: greet(self) + "!")
    >>> Greeter().greet()
    'hello!'
    >>> undo()
    >>> Greeter().greet()
    'hello'
    """
    with _lock:
        place = _place(owner, name)
        place.put(decorate)
    return _once(lambda: place.take(decorate))


def wrap_returned(owner: Any, factory: str, method: str, decorate: Decorate) -> Undo:
    """Put a layer around `method` of every object that `owner.factory` returns from now on.

    A factory that is a class stays that class (`isinstance` and subclasses go on working): its method is wrapped. What
    a coroutine function returns is the object that it gives. Objects are not kept alive; those that live when the
    layer is taken off lose it too.
    """
    target = getattr(owner, factory, None)
    if isinstance(target, type):
        return wrap(target, method, decorate)
    reached: weakref.WeakSet[_Place] = weakref.WeakSet()

    def reach(made: Any) -> Any:
        with _lock:
            place = _place(made, method)
            if place not in reached:
                place.put(decorate)
                reached.add(place)
        return made

    def around(make: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.iscoroutinefunction(make):

            async def make_later(*args: Any, **kwargs: Any) -> Any:
                return reach(await make(*args, **kwargs))

            return make_later
        return lambda *args, **kwargs: reach(make(*args, **kwargs))

    undo_factory = wrap(owner, factory, around)

    def undo() -> None:
        undo_factory()
        for place in list(reached):
            place.take(decorate)

    return _once(undo)


@contextmanager
def wrapped(owner: Any, name: str, decorate: Decorate) -> Iterator[None]:
    """`wrap` for the length of a block."""
    undo = wrap(owner, name, decorate)
    try:
        yield
    finally:
        undo()


class _Place:
    """One attribute of one owner with the layers around it, innermost first.

    It is held by the replacement that it installs, so it lives as long as the owner, and is found by `_places`.
    """

    def __init__(self, owner: Any, name: str) -> None:
        self._owner = owner
        self._name = name
        self._layers: list[Decorate] = []
        self._installed: Any = _ABSENT
        self._class = type(owner)
        self._own = _own(owner, name)
        self._swaps_class = _needs_class(owner, name)
        self._in_class = isinstance(owner, type) or self._swaps_class
        self._raw = self._find_raw()

    def put(self, decorate: Decorate) -> None:
        """Add the outermost layer."""
        with _lock:
            self._refuse_foreign()
            self._layers.append(decorate)
            try:
                self._install()
            except BaseException:
                self._layers.pop()
                raise

    def take(self, decorate: Decorate) -> None:
        """Remove one layer; with the last the original is back."""
        with _lock:
            self._refuse_foreign()
            del self._layers[max(number for number, layer in enumerate(self._layers) if layer is decorate)]
            if self._layers:
                self._install()
                return
            if self._swaps_class:
                self._owner.__class__ = self._class
            elif self._own is _ABSENT:
                delattr(self._owner, self._name)
            else:
                setattr(self._owner, self._name, self._own)
            self._installed = _ABSENT

    @property
    def _shown(self) -> str:
        owner = self._owner
        shown = getattr(owner, "__qualname__", None) or getattr(owner, "__name__", None)
        return f"{shown or f'{type(owner).__qualname__} object'}.{self._name}"

    def _find_raw(self) -> Any:
        """What stands under the name now, unbound where it stands in a class."""
        raw = self._own
        if raw is _ABSENT and self._in_class:
            owner = self._owner if isinstance(self._owner, type) else self._class
            raw = next((vars(base)[self._name] for base in owner.__mro__ if self._name in vars(base)), _ABSENT)
        elif raw is _ABSENT:
            raw = getattr(self._owner, self._name, _ABSENT)
        if raw is _ABSENT:
            raise UsageError(f"{self._shown} does not exist", "look at its spelling")
        binds = hasattr(type(raw), "__get__") and not hasattr(type(raw), "__set__")
        if not callable(raw) and not (self._in_class and binds):
            raise UsageError(f"{self._shown} is a {type(raw).__name__}, nothing that is called")
        return raw

    def _install(self) -> None:
        replacement = self._replacement()
        try:
            if self._swaps_class:
                replacement = self._changed_class(replacement)
                self._owner.__class__ = replacement
            else:
                setattr(self._owner, self._name, replacement)
        except (AttributeError, TypeError) as error:
            raise UsageError(f"{self._shown} cannot be replaced: {error}") from error
        self._installed = replacement

    def _changed_class(self, replacement: Any) -> type:
        """A class for this one object: for names that Python looks up in the class, and for objects with slots."""
        base = self._class
        names = {"__slots__": (), "__module__": base.__module__, "__qualname__": base.__qualname__}
        return types.new_class(
            base.__name__, (base,), exec_body=lambda body: body.update({**names, self._name: replacement})
        )

    def _replacement(self) -> Any:
        raw = self._raw
        made: Any
        if isinstance(raw, (staticmethod, classmethod)):
            made = type(raw)(self._layered(raw.__func__))
        elif not self._in_class or isinstance(raw, types.FunctionType):
            made = self._layered(raw)
        elif hasattr(type(raw), "__get__"):
            made = _Binding(raw, self._layered)
        else:
            made = staticmethod(self._layered(raw))
        if made is not raw:
            with suppress(AttributeError):
                made.__nriperf_place__ = self
        return made

    def _layered(self, original: Callable[..., Any]) -> Callable[..., Any]:
        result = original
        for decorate in self._layers:
            outer = decorate(result)
            if outer is not result and not hasattr(outer, "__wrapped__"):
                functools.update_wrapper(outer, result)
            result = outer
        return result

    def _refuse_foreign(self) -> None:
        """Whoever replaced the attribute after us would lose their replacement."""
        if self._installed is _ABSENT:
            return
        now = type(self._owner) if self._swaps_class else _own(self._owner, self._name)
        if now is not self._installed:
            raise UsageError(
                f"{self._shown} was replaced by somebody else while it was wrapped",
                "let the other replacement be taken off first",
            )


class _Binding:
    """Stands in a class for a descriptor that binds in a way of its own, and decorates what that gives."""

    def __init__(self, raw: Any, layered: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        self._raw = raw
        self._layered = layered

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self._layered(self._raw.__get__(instance, owner))


def _place(owner: Any, name: str) -> _Place:
    place = _places.get((id(owner), name))
    if place is None:
        place = _places[id(owner), name] = _Place(owner, name)
    return place


def _own(owner: Any, name: str) -> Any:
    """What the owner itself holds under this name."""
    try:
        return vars(owner).get(name, _ABSENT)
    except TypeError:
        return _ABSENT


def _needs_class(owner: Any, name: str) -> bool:
    if isinstance(owner, (type, types.ModuleType)):
        return False
    return (name.startswith("__") and name.endswith("__")) or not hasattr(owner, "__dict__")


def _once(undo: Undo) -> Undo:
    """A function that undoes once, whoever calls it how often."""
    rest = [undo]

    def once() -> None:
        try:
            pending = rest.pop()
        except IndexError:
            return
        try:
            pending()
        except BaseException:
            rest.append(pending)
            raise

    return once
