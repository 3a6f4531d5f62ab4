"""Which CPUs a balloon of the policy gets, step by step as the policy takes them, its oddities included.

`pytest_nriperf.balloons` plans what its users ask for; here is what a cluster does. Both are the same for balloons that
do not spread. A type that spreads sees a level more in its tree: below each NUMA node all first threads, all second
ones. With balancing the fuller of the two is preferred: once a balloon has first threads the next one gets second ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pytest_nriperf.balloons.allocator import best, lowest_cpu, pick
from pytest_nriperf.balloons.tree import CpuTree, Element


@dataclass(frozen=True)
class Wish:
    """How a type wants its CPUs. `root` is the tree that it sees, split by thread when it spreads; `close` are sets to
    stay in, `far` gives sets to stay off, for the CPUs that the balloon has so far; `one_by_one` chooses each CPU anew
    for them."""

    root: Element
    spread: bool
    balancing: bool
    close: tuple[int, ...]
    far: Callable[[int], tuple[int, ...]]
    one_by_one: bool


def choose(tree: CpuTree, free: int, current: int, count: int, wish: Wish) -> int | None:
    """`count` of the free CPUs for a balloon that has `current`, None where there are not enough."""
    if free.bit_count() < count:
        return None
    if free.bit_count() == count:
        return free
    if not wish.one_by_one:
        return pick(tree, _candidates(free, current, count, wish), count)
    chosen = 0
    for number in range(count):
        found = _candidates(free & ~chosen, current | chosen, 1 if number else count, wish)
        chosen |= lowest_cpu(tree, found)
    return chosen


def _candidates(free: int, current: int, count: int, wish: Wish) -> int:
    """The free CPUs of the best element: at least `count`. Hints that leave too few are passed over."""
    for wanted in wish.close:
        free = free & wanted if (free & wanted).bit_count() >= count else free
    for unwanted in wish.far(current):
        free = free & ~unwanted if (free & ~unwanted).bit_count() >= count else free
    found = best(wish.root, free, free, current, count, balancing=wish.balancing)
    if not wish.spread or found.bit_count() == count:
        return found
    chosen = 0
    for _ in range(count):
        left = free & ~chosen
        chosen |= best(wish.root, left, left, current | chosen, 1, balancing=wish.balancing)
    return chosen


def by_thread(tree: CpuTree) -> Element:
    """The tree with a level below the NUMA nodes: a copy of what is below for each thread of a core."""
    return _split(tree, tree.root, None)


def _split(tree: CpuTree, element: Element, parent: Element | None) -> Element:
    copy = Element(element.mask, element.rank, parent)
    inside = any(child.mask == element.mask for child in element.children)
    if element.mask in tree.nodes.values() and not inside:
        for number, threads in enumerate(tree.threads):
            if element.mask & threads:
                part = Element(element.mask & threads, number, copy)
                part.children = [_masked(child, threads, part) for child in element.children if child.mask & threads]
                copy.children.append(part)
    else:
        copy.children = [_split(tree, child, copy) for child in element.children]
    return copy


def _masked(element: Element, threads: int, parent: Element) -> Element:
    copy = Element(element.mask & threads, element.rank, parent)
    copy.children = [_masked(child, threads, copy) for child in element.children if child.mask & threads]
    return copy
